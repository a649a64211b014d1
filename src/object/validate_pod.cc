// Rules of pods that the schema cannot say.
#include "base/strings.h"
#include "object/names.h"
#include "object/quantity.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

std::string item(const Context& context, std::string_view field, size_t i) {
  return context.at(field) + "[" + std::to_string(i) + "]";
}

template <class Visit>
void each(const json::object& object, std::string_view key, const Context& context, Visit visit) {
  const json::array* items = list(object, key);
  if (!items) return;
  for (size_t i = 0; i < items->size(); ++i)
    if (const json::object* one = (*items)[i].if_object()) visit(*one, item(context, key, i));
}

template <class Visit>
void eachContainer(const json::object& spec, const Context& context, Visit visit) {
  for (std::string_view key : {"initContainers", "containers", "ephemeralContainers"}) {
    each(spec, key, context,
         [&](const json::object& container, const std::string& path) { visit(key, container, path); });
  }
}

// What an update of a running pod may change.
constexpr std::string_view kPodUpdate =
    "pod updates may not change fields other than "
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be "
    "set to 1 if it was "
    "previously negative)";

// The spec without what may change, in one form, so that two can be compared.
json::object fixedPart(json::object spec, std::string_view subresource) {
  for (std::string_view key :
       {"activeDeadlineSeconds", "tolerations", "schedulingGates", "terminationGracePeriodSeconds"})
    spec.erase(key);
  if (subresource == "binding") {
    spec.erase("nodeName");
    spec.erase("nodeSelector");
  }
  for (std::string_view key : {"containers", "initContainers", "ephemeralContainers"}) {
    json::value* items = spec.if_contains(key);
    if (!items || !items->is_array()) continue;
    for (json::value& one : items->get_array()) {
      if (!one.is_object()) continue;
      one.get_object().erase("image");
      if (subresource == "resize") {
        one.get_object().erase("resources");
        one.get_object().erase("resizePolicy");
      }
    }
  }
  if (subresource == "resize") spec.erase("resources");
  return spec;
}

void tolerationsOnlyGrow(const json::object& now, const json::object& before, Context& context) {
  const json::array* old = list(before, "tolerations");
  const json::array* fresh = list(now, "tolerations");
  if (!old) return;
  for (const json::value& toleration : *old) {
    json::value wanted = toleration;
    bool kept = false;
    if (fresh)
      for (json::value candidate : *fresh) {
        if (wanted.is_object() && candidate.is_object()) {
          wanted.get_object().erase("tolerationSeconds");
          candidate.get_object().erase("tolerationSeconds");
        }
        kept |= candidate == wanted;
      }
    if (!kept) {
      context.problems.forbidden("spec.tolerations",
                                 "existing toleration can not be modified except its tolerationSeconds");
      return;
    }
  }
}

void podUpdate(const json::object& now, const json::object& before, Context& context) {
  json::object fixedNow = fixedPart(now, context.subresource), fixedBefore = fixedPart(before, context.subresource);
  std::string changed;
  for (const json::object* side : {&fixedNow, &fixedBefore})
    for (const auto& member : *side) {
      const json::value* other = (side == &fixedNow ? fixedBefore : fixedNow).if_contains(member.key());
      bool differs = side == &fixedNow ? !other || !(*other == member.value()) : !other;
      if (differs) changed += (changed.empty() ? "spec." : ", spec.") + std::string(member.key());
    }
  if (!changed.empty()) context.problems.forbidden("spec", std::string(kPodUpdate) + "\nchanged: " + changed);
  tolerationsOnlyGrow(now, before, context);
  const json::value* oldGrace = before.if_contains("terminationGracePeriodSeconds");
  const json::value* newGrace = now.if_contains("terminationGracePeriodSeconds");
  if (oldGrace && newGrace && !(*oldGrace == *newGrace))
    context.problems.forbidden("spec", std::string(kPodUpdate) + "\nchanged: spec.terminationGracePeriodSeconds");
}

void pod(const json::object& value, const json::object* before, Context& context) {
  if (context.subresource == "status") return;
  const json::object* spec = child(value, "spec");
  const json::object* old = before ? child(*before, "spec") : nullptr;
  if (!spec) {
    context.problems.required("spec.containers");
  } else if (old) {
    podUpdate(*spec, *old, context);
  }
}

void checkNames(const json::object& spec, Context& context) {
  // Within one list the list's own key is checked; here across the lists.
  std::vector<std::pair<std::string_view, std::string>> seen;
  eachContainer(spec, context, [&](std::string_view kind, const json::object& container, const std::string& path) {
    std::string name(text(container, "name"));
    for (const auto& [otherKind, other] : seen)
      if (otherKind != kind && other == name && !name.empty())
        context.problems.duplicate(path + ".name", json::value(name));
    seen.emplace_back(kind, name);
  });
}

void checkMounts(const json::object& spec, Context& context) {
  std::vector<std::string_view> volumes;
  each(spec, "volumes", context,
       [&](const json::object& volume, const std::string&) { volumes.push_back(text(volume, "name")); });
  eachContainer(spec, context, [&](std::string_view, const json::object& container, const std::string& path) {
    for (std::string_view key : {"volumeMounts", "volumeDevices"}) {
      const json::array* mounts = list(container, key);
      for (size_t i = 0; mounts && i < mounts->size(); ++i) {
        const json::object* mount = (*mounts)[i].if_object();
        std::string_view name = mount ? text(*mount, "name") : "";
        if (name.empty() || std::find(volumes.begin(), volumes.end(), name) != volumes.end()) continue;
        context.problems.notFound(fmt::format("{}.{}[{}].name", path, key, i), json::value(name));
      }
    }
  });
}

void checkPorts(const json::object& spec, Context& context) {
  const json::value* host = spec.if_contains("hostNetwork");
  bool hostNetwork = host && host->is_bool() && host->get_bool();
  std::vector<std::string> used;
  eachContainer(spec, context, [&](std::string_view kind, const json::object& container, const std::string& path) {
    const json::array* ports = list(container, "ports");
    std::vector<std::string_view> names;
    for (size_t i = 0; ports && i < ports->size(); ++i) {
      const json::object* port = (*ports)[i].if_object();
      if (!port) continue;
      std::string at = fmt::format("{}.ports[{}]", path, i);
      const json::value* number = port->if_contains("containerPort");
      const json::value* hostPort = port->if_contains("hostPort");
      if (!number || (number->is_int64() && number->get_int64() == 0)) context.problems.required(at + ".containerPort");
      bool bound = hostPort && hostPort->is_int64() && hostPort->get_int64() != 0;
      if (hostNetwork && bound && number && !(*number == *hostPort)) {
        context.problems.invalid(at + ".hostPort", *hostPort, "must match `containerPort` when `hostNetwork` is true");
      }
      if (bound && kind == "containers") {
        std::string key =
            fmt::format("{}/{}/{}", text(*port, "protocol"), text(*port, "hostIP"), hostPort->get_int64());
        if (std::find(used.begin(), used.end(), key) != used.end())
          context.problems.duplicate(at + ".hostPort", json::value(key));
        used.push_back(key);
      }
      std::string_view name = text(*port, "name");
      if (!name.empty() && std::find(names.begin(), names.end(), name) != names.end())
        context.problems.duplicate(at + ".name", json::value(name));
      names.push_back(name);
    }
  });
}

bool isBool(const json::object& spec, std::string_view key, bool wanted) {
  const json::value* value = spec.if_contains(key);
  return value && value->is_bool() && value->get_bool() == wanted;
}

template <class Look>
void eachValue(const json::object& object, std::string_view key, Look look) {
  const json::array* values = list(object, key);
  for (size_t i = 0; values && i < values->size(); ++i) look(i, (*values)[i]);
}

// The pod's own resolver and hosts file; the limits are Kubernetes'.
void checkResolver(const json::object& spec, Context& context) {
  constexpr size_t kMostServers = 3, kMostSearches = 32, kMostSearchText = 2048;
  eachValue(spec, "hostAliases", [&](size_t i, const json::value& alias) {
    if (!alias.is_object()) return;
    const std::string path = context.at(fmt::format("hostAliases[{}]", i));
    if (std::string problem = checkIp(text(alias.get_object(), "ip")); !problem.empty())
      context.problems.invalid(path + ".ip", json::value(text(alias.get_object(), "ip")), problem);
    eachValue(alias.get_object(), "hostnames", [&](size_t j, const json::value& name) {
      if (std::string problem = check("dns1123Subdomain", name); !problem.empty())
        context.problems.invalid(fmt::format("{}.hostnames[{}]", path, j), name, problem);
    });
  });
  static const json::object kNone;
  const json::object* given = child(spec, "dnsConfig");
  const json::object& config = given ? *given : kNone;
  const json::array* servers = list(config, "nameservers");
  const std::string path = context.at("dnsConfig");
  if (text(spec, "dnsPolicy") == "None" && (!servers || servers->empty()))
    context.problems.required(path + ".nameservers",
                              "must provide at least one DNS nameserver when `dnsPolicy` is None");
  if (servers && servers->size() > kMostServers)
    context.problems.invalid(path + ".nameservers", *servers,
                             fmt::format("must not have more than {} nameservers", kMostServers));
  eachValue(config, "nameservers", [&](size_t i, const json::value& server) {
    const std::string problem = server.is_string() ? checkIp(server.get_string()) : "must be a string";
    if (!problem.empty()) context.problems.invalid(fmt::format("{}.nameservers[{}]", path, i), server, problem);
  });
  size_t length = 0;
  eachValue(config, "searches", [&](size_t i, const json::value& search) {
    if (!search.is_string()) return;
    std::string name(search.get_string());
    length += name.size() + (i == 0 ? 0 : 1);
    if (name == ".") return;
    if (name.ends_with('.')) name.pop_back();
    if (std::string problem = check("dns1123Subdomain", json::value(name)); !problem.empty())
      context.problems.invalid(fmt::format("{}.searches[{}]", path, i), search, problem);
  });
  const json::array* searches = list(config, "searches");
  if (searches && searches->size() > kMostSearches)
    context.problems.invalid(path + ".searches", *searches,
                             fmt::format("must not have more than {} search paths", kMostSearches));
  if (length > kMostSearchText)
    context.problems.invalid(
        path + ".searches", *searches,
        fmt::format("must not have more than {} characters (including spaces) in the search list", kMostSearchText));
  eachValue(config, "options", [&](size_t i, const json::value& option) {
    if (option.is_object() && text(option.get_object(), "name").empty())
      context.problems.required(fmt::format("{}.options[{}]", path, i), "must not be empty");
  });
}

// A user namespace of its own, and what cannot be had beside it.
void checkHostUsers(const json::object& spec, Context& context) {
  if (!isBool(spec, "hostUsers", false)) return;
  constexpr std::string_view kWhen = "when `hostUsers` is false";
  for (std::string_view host : {"hostNetwork", "hostPID", "hostIPC"}) {
    if (isBool(spec, host, true)) context.problems.forbidden(context.at(host), std::string(kWhen));
  }
  eachContainer(spec, context, [&](std::string_view, const json::object& container, const std::string& path) {
    const json::array* devices = list(container, "volumeDevices");
    if (devices && !devices->empty()) context.problems.forbidden(path + ".volumeDevices", std::string(kWhen));
  });
}

void podSpec(const json::object& spec, const json::object*, Context& context) {
  const json::array* containers = list(spec, "containers");
  if (!containers || containers->empty()) context.problems.required(context.at("containers"));
  checkNames(spec, context);
  checkMounts(spec, context);
  checkPorts(spec, context);
  checkHostUsers(spec, context);
  each(spec, "initContainers", context, [&](const json::object& container, const std::string& path) {
    if (text(container, "restartPolicy") == "Always") return;
    for (std::string_view probe : {"livenessProbe", "readinessProbe", "startupProbe", "lifecycle"})
      if (container.contains(probe)) {
        context.problems.forbidden(path + "." + std::string(probe),
                                   "may not be set for init containers without restartPolicy=Always");
      }
  });
  checkResolver(spec, context);
}

void container(const json::object& value, const json::object*, Context& context) {
  std::string_view image = text(value, "image");
  if (image.empty())
    context.problems.required(context.at("image"));
  else if (trim(image) != image)
    context.problems.invalid(context.at("image"), json::value(image), "must not have leading or trailing whitespace");
  if (std::string_view dir = text(value, "terminationMessagePath");
      !dir.empty() && dir.find('\0') != std::string_view::npos) {
    context.problems.invalid(context.at("terminationMessagePath"), json::value(dir), "must not contain NUL");
  }
}

void volume(const json::object& value, const json::object*, Context& context) {
  int sources = 0;
  for (const auto& member : value) {
    if (member.key() == "name") continue;
    if (++sources > 1) context.problems.forbidden(context.at(member.key()), "may not specify more than 1 volume type");
  }
  if (sources == 0) context.problems.required(context.path, "must specify a volume type");
}

void oneHandler(const json::object& value, Context& context, std::initializer_list<std::string_view> handlers) {
  int count = 0;
  for (std::string_view handler : handlers)
    if (value.contains(handler) && ++count > 1)
      context.problems.forbidden(context.at(handler), "may not specify more than 1 handler type");
  if (count == 0) context.problems.required(context.path, "must specify a handler type");
}

void probe(const json::object& value, const json::object*, Context& context) {
  oneHandler(value, context, {"exec", "httpGet", "tcpSocket", "grpc"});
  bool single = context.path.ends_with("livenessProbe") || context.path.ends_with("startupProbe");
  const json::value* threshold = value.if_contains("successThreshold");
  if (single && threshold && threshold->is_int64() && threshold->get_int64() != 1) {
    context.problems.invalid(context.at("successThreshold"), *threshold, "must be 1");
  }
  if (const json::object* exec = child(value, "exec");
      exec && (!list(*exec, "command") || list(*exec, "command")->empty())) {
    context.problems.required(context.at("exec.command"));
  }
}

void lifecycleHandler(const json::object& value, const json::object*, Context& context) {
  oneHandler(value, context, {"exec", "httpGet", "tcpSocket", "sleep"});
}

void envVar(const json::object& value, const json::object*, Context& context) {
  const json::object* from = child(value, "valueFrom");
  if (!from) return;
  int sources = 0;
  for (std::string_view key : {"fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"})
    sources += from->contains(key);
  std::string path = context.at("valueFrom");
  if (sources == 0) {
    context.problems.invalid(
        path, "",
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
  } else if (!text(value, "value").empty()) {
    context.problems.invalid(path, "", "may not be specified when `value` is not empty");
  } else if (sources > 1) {
    context.problems.invalid(path, "", "may not have more than one field specified at a time");
  }
}

void resources(const json::object& value, const json::object*, Context& context) {
  const json::object* limits = child(value, "limits");
  for (std::string_view key : {"limits", "requests"}) {
    const json::object* map = child(value, key);
    if (!map) continue;
    for (const auto& member : *map) {
      std::string path = fmt::format("{}[{}]", context.at(key), std::string_view(member.key()));
      std::string_view name = member.key();
      bool standard =
          name == "cpu" || name == "memory" || name == "ephemeral-storage" || name.starts_with("hugepages-");
      if (!standard && name.find('/') == std::string_view::npos) {
        context.problems.invalid(path, json::value(name), "must be a standard resource type or fully qualified");
        continue;
      }
      if (std::string problem = checkQualifiedName(name); !problem.empty())
        context.problems.invalid(path, json::value(name), problem);
      Quantity quantity = Quantity::from(&member.value());
      if (quantity.sign() < 0) context.problems.invalid(path, member.value(), "must be greater than or equal to 0");
      const json::value* limit = key == "requests" && limits ? limits->if_contains(name) : nullptr;
      if (limit && quantity > Quantity::from(limit)) {
        context.problems.invalid(
            path, member.value(),
            fmt::format("must be less than or equal to {} limit of {}", name, Quantity::from(limit).text()));
      }
    }
  }
}

void labelSelectorRequirement(const json::object& value, const json::object*, Context& context) {
  std::string_view op = text(value, "operator");
  const json::array* values = list(value, "values");
  size_t count = values ? values->size() : 0;
  std::string path = context.at("values");
  if ((op == "In" || op == "NotIn") && count == 0) {
    context.problems.required(path, "must be specified when `operator` is 'In' or 'NotIn'");
  } else if ((op == "Exists" || op == "DoesNotExist") && count > 0) {
    context.problems.forbidden(path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
  } else if ((op == "Gt" || op == "Lt") && count != 1) {
    context.problems.required(path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
  }
}

void nodeSelector(const json::object& value, const json::object*, Context& context) {
  const json::array* terms = list(value, "nodeSelectorTerms");
  if (!terms || terms->empty())
    context.problems.required(context.at("nodeSelectorTerms"), "must have at least one node selector term");
}

void toleration(const json::object& value, const json::object*, Context& context) {
  std::string_view key = text(value, "key"), op = text(value, "operator"), effect = text(value, "effect");
  if (!key.empty()) {
    if (std::string problem = checkQualifiedName(key); !problem.empty())
      context.problems.invalid(context.at("key"), json::value(key), problem);
  } else if (op != "Exists") {
    context.problems.invalid(
        context.at("operator"), json::value(op),
        "operator must be Exists when `key` is empty, which means \"match all values and all keys\"");
  }
  if (op == "Exists" && !text(value, "value").empty()) {
    context.problems.invalid(context.at("operator"), json::value(text(value, "value")),
                             "value must be empty when `operator` is 'Exists'");
  }
  if (value.contains("tolerationSeconds") && effect != "NoExecute") {
    context.problems.invalid(context.at("effect"), json::value(effect),
                             "effect must be 'NoExecute' when `tolerationSeconds` is set");
  }
}

constexpr Entry kRules[] = {{"pod", pod},
                            {"podSpec", podSpec},
                            {"container", container},
                            {"volume", volume},
                            {"probe", probe},
                            {"lifecycleHandler", lifecycleHandler},
                            {"envVar", envVar},
                            {"resources", resources},
                            {"labelSelectorRequirement", labelSelectorRequirement},
                            {"nodeSelector", nodeSelector},
                            {"toleration", toleration}};

}  // namespace

std::span<const Entry> podRules() {
  return kRules;
}

}  // namespace dhow::object::rules
