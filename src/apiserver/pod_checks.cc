// The checks of Pod Security: what each of them forbids, and in which words.
#include <functional>
#include <set>

#include "apiserver/pod_security.h"
#include "base/strings.h"
#include "client/fields.h"

namespace dhow::apiserver {

namespace json = boost::json;
using client::array;
using client::text;
using Names = std::vector<std::string>;

namespace {

struct Pod {
  const json::object& root;
  const json::object& spec;
  std::vector<const json::object*> containers;  // of all three kinds
  int minor;

  bool windows() const { return minor >= 25 && text(spec, {"os", "name"}) == "windows"; }
  const json::object& context() const { return client::object(spec, {"securityContext"}); }
};

struct Finding {
  std::string reason, detail;  // no reason: nothing is forbidden
};
using Check = Finding (*)(const Pod&);

const json::object& contextOf(const json::object& container) {
  return client::object(container, {"securityContext"});
}

std::string quoted(const auto& names) {
  std::string out;
  for (const auto& name : names) out += fmt::format("{}\"{}\"", out.empty() ? "" : ", ", name);
  return out;
}
std::string containersOf(const Names& names) {
  return fmt::format("{} {}", names.size() == 1 ? "container" : "containers", quoted(names));
}

// The names of containers for which `bad` holds.
template <class Bad>
Names containersThat(const Pod& pod, Bad bad) {
  Names names;
  for (const auto* container : pod.containers) {
    if (bad(*container)) names.emplace_back(text(*container, "name"));
  }
  return names;
}

// "pod and containers "a", "b"", of those whose security context is bad.
template <class Bad>
std::string settersThat(const Pod& pod, Bad bad) {
  std::string setters = bad(pod.context()) ? "pod" : "";
  auto names = containersThat(pod, [&](const json::object& container) { return bad(contextOf(container)); });
  if (!names.empty()) setters += (setters.empty() ? "" : " and ") + containersOf(names);
  return setters;
}

bool isTrue(const json::object& root, client::Path path) {
  return client::flag(root, path, false);
}
bool isFalse(const json::object& root, client::Path path) {
  const auto* value = client::field(root, path);
  return value && value->is_bool() && !value->get_bool();
}

Finding appArmor(const Pod& pod) {
  Names forbidden;
  std::set<std::string> types;
  auto setters = settersThat(pod, [&](const json::object& context) {
    auto type = text(context, {"appArmorProfile", "type"});
    if (type.empty() || type == "RuntimeDefault" || type == "Localhost") return false;
    types.emplace(type);
    return true;
  });
  if (!setters.empty())
    forbidden.push_back(fmt::format("{} must not set AppArmor profile type to {}", setters, quoted(types)));
  std::set<std::string> annotations;
  for (const auto& [key, value] : client::object(pod.root, {"metadata", "annotations"})) {
    if (!key.starts_with("container.apparmor.security.beta.kubernetes.io/") || !value.is_string()) continue;
    std::string_view profile = value.get_string();
    if (!profile.empty() && profile != "runtime/default" && !profile.starts_with("localhost/"))
      annotations.insert(fmt::format("{}=\"{}\"", std::string_view(key), profile));
  }
  forbidden.insert(forbidden.end(), annotations.begin(), annotations.end());
  if (forbidden.empty()) return {};
  return {forbidden.size() == 1 ? "forbidden AppArmor profile" : "forbidden AppArmor profiles", join(forbidden, ", ")};
}

Finding hostNamespaces(const Pod& pod) {
  Names shared;
  for (std::string_view field : {"hostNetwork", "hostPID", "hostIPC"}) {
    if (isTrue(pod.spec, {field})) shared.push_back(fmt::format("{}=true", field));
  }
  if (shared.empty()) return {};
  return {"host namespaces", join(shared, ", ")};
}

Finding hostPorts(const Pod& pod) {
  std::set<std::string> ports;
  auto names = containersThat(pod, [&](const json::object& container) {
    bool any = false;
    for (const auto& value : array(container, {"ports"})) {
      auto port = value.is_object() ? client::number(value.get_object(), {"hostPort"}, 0) : 0;
      if (port == 0) continue;
      any = true;
      ports.insert(std::to_string(port));
    }
    return any;
  });
  if (names.empty()) return {};
  return {"hostPort",
          fmt::format("{} {} {} {}", containersOf(names), names.size() == 1 ? "uses" : "use",
                      ports.size() == 1 ? "hostPort" : "hostPorts", join(Names(ports.begin(), ports.end()), ", "))};
}

Finding hostProbes(const Pod& pod) {
  if (pod.minor < 34) return {};
  std::set<std::string> hosts, names;
  for (const auto* container : pod.containers) {
    const json::object* handlers[] = {
        &client::object(*container, {"livenessProbe"}), &client::object(*container, {"readinessProbe"}),
        &client::object(*container, {"startupProbe"}), &client::object(*container, {"lifecycle", "postStart"}),
        &client::object(*container, {"lifecycle", "preStop"})};
    for (const auto* handler : handlers) {
      for (std::string_view how : {"httpGet", "tcpSocket"}) {
        auto host = text(*handler, {how, "host"});
        if (host.empty()) continue;
        hosts.emplace(host);
        names.emplace(text(*container, "name"));
      }
    }
  }
  if (names.empty()) return {};
  return {
      "probe or lifecycle host",
      fmt::format("{} {} {} {}", containersOf(Names(names.begin(), names.end())), names.size() == 1 ? "uses" : "use",
                  hosts.size() == 1 ? "probe or lifecycle host" : "probe or lifecycle hosts", quoted(hosts))};
}

Finding privileged(const Pod& pod) {
  auto names = containersThat(pod, [](const json::object& one) { return isTrue(contextOf(one), {"privileged"}); });
  if (names.empty()) return {};
  return {"privileged", containersOf(names) + " must not set securityContext.privileged=true"};
}

Finding procMount(const Pod& pod) {
  std::set<std::string> values;
  auto names = containersThat(pod, [&](const json::object& one) {
    auto mount = text(contextOf(one), "procMount");
    if (mount.empty() || mount == "Default") return false;
    values.emplace(mount);
    return true;
  });
  if (names.empty()) return {};
  return {"procMount",
          fmt::format("{} must not set securityContext.procMount to {}", containersOf(names), quoted(values))};
}

Finding seLinux(const Pod& pod) {
  std::set<std::string> types;
  bool user = false, role = false;
  auto setters = settersThat(pod, [&](const json::object& context) {
    const auto& options = client::object(context, {"seLinuxOptions"});
    auto type = text(options, "type");
    bool known = type.empty() || type == "container_t" || type == "container_init_t" || type == "container_kvm_t" ||
                 (type == "container_engine_t" && pod.minor >= 31);
    if (!known) types.emplace(type);
    const bool hasUser = !text(options, "user").empty(), hasRole = !text(options, "role").empty();
    user = user || hasUser;
    role = role || hasRole;
    return !known || hasUser || hasRole;
  });
  if (setters.empty()) return {};
  Names bad;
  if (!types.empty()) bad.push_back(fmt::format("{} {}", types.size() == 1 ? "type" : "types", quoted(types)));
  if (user) bad.emplace_back("user may not be set");
  if (role) bad.emplace_back("role may not be set");
  return {"seLinuxOptions",
          fmt::format("{} set forbidden securityContext.seLinuxOptions: {}", setters, join(bad, "; "))};
}

Finding sysctls(const Pod& pod) {
  struct Allowed {
    std::string_view name;
    int since;
  };
  constexpr Allowed allowed[] = {
      {"kernel.shm_rmid_forced", 0},
      {"net.ipv4.ip_local_port_range", 0},
      {"net.ipv4.tcp_syncookies", 0},
      {"net.ipv4.ping_group_range", 0},
      {"net.ipv4.ip_unprivileged_port_start", 0},
      {"net.ipv4.ip_local_reserved_ports", 27},
      {"net.ipv4.tcp_keepalive_time", 29},
      {"net.ipv4.tcp_fin_timeout", 29},
      {"net.ipv4.tcp_keepalive_intvl", 29},
      {"net.ipv4.tcp_keepalive_probes", 29},
      {"net.ipv4.tcp_rmem", 32},
      {"net.ipv4.tcp_wmem", 32},
  };
  Names forbidden;
  for (const auto& value : array(pod.context(), {"sysctls"})) {
    auto name = value.is_object() ? text(value.get_object(), "name") : std::string_view();
    bool fine = false;
    for (const auto& one : allowed) fine = fine || (one.name == name && pod.minor >= one.since);
    if (!fine) forbidden.emplace_back(name);
  }
  if (forbidden.empty()) return {};
  return {"forbidden sysctls", join(forbidden, ", ")};
}

Finding hostProcess(const Pod& pod) {
  auto setters =
      settersThat(pod, [](const json::object& context) { return isTrue(context, {"windowsOptions", "hostProcess"}); });
  if (setters.empty()) return {};
  return {"hostProcess", setters + " must not set securityContext.windowsOptions.hostProcess=true"};
}

Finding capabilitiesBaseline(const Pod& pod) {
  static const std::set<std::string_view> usual = {"AUDIT_WRITE", "CHOWN",  "DAC_OVERRIDE",     "FOWNER",  "FSETID",
                                                   "KILL",        "MKNOD",  "NET_BIND_SERVICE", "SETFCAP", "SETGID",
                                                   "SETPCAP",     "SETUID", "SYS_CHROOT"};
  std::set<std::string> forbidden;
  auto names = containersThat(pod, [&](const json::object& one) {
    bool any = false;
    for (const auto& name : client::strings(array(contextOf(one), {"capabilities", "add"}))) {
      if (usual.contains(name)) continue;
      any = true;
      forbidden.insert(name);
    }
    return any;
  });
  if (names.empty()) return {};
  return {"non-default capabilities", fmt::format("{} must not include {} in securityContext.capabilities.add",
                                                  containersOf(names), quoted(forbidden))};
}

Finding hostPaths(const Pod& pod) {
  Names volumes;
  for (const auto& value : array(pod.spec, {"volumes"})) {
    if (value.is_object() && client::has(value.get_object(), {"hostPath"}))
      volumes.emplace_back(text(value.get_object(), "name"));
  }
  if (volumes.empty()) return {};
  return {"hostPath volumes", fmt::format("{} {}", volumes.size() == 1 ? "volume" : "volumes", quoted(volumes))};
}

// With `needed`, a profile has to be named as well.
Finding seccomp(const Pod& pod, bool needed) {
  if (pod.minor < 19) return {};
  std::set<std::string> types;
  auto typeOf = [](const json::object& context) { return text(context, {"seccompProfile", "type"}); };
  auto setters = settersThat(pod, [&](const json::object& context) {
    auto type = typeOf(context);
    if (!client::has(context, {"seccompProfile"}) || type == "RuntimeDefault" || type == "Localhost") return false;
    types.emplace(type);
    return true;
  });
  if (!setters.empty()) {
    return {"seccompProfile",
            fmt::format("{} must not set securityContext.seccompProfile.type to {}", setters, quoted(types))};
  }
  if (!needed || pod.windows() || !typeOf(pod.context()).empty()) return {};
  auto names = containersThat(pod, [&](const json::object& one) { return typeOf(contextOf(one)).empty(); });
  if (names.empty()) return {};
  return {"seccompProfile",
          fmt::format("pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
                      containersOf(names))};
}
Finding seccompBaseline(const Pod& pod) {
  return seccomp(pod, false);
}
Finding seccompRestricted(const Pod& pod) {
  return seccomp(pod, true);
}

Finding privilegeEscalation(const Pod& pod) {
  if (pod.minor < 8 || pod.windows()) return {};
  auto names = containersThat(
      pod, [](const json::object& one) { return !isFalse(contextOf(one), {"allowPrivilegeEscalation"}); });
  if (names.empty()) return {};
  return {"allowPrivilegeEscalation != false",
          containersOf(names) + " must set securityContext.allowPrivilegeEscalation=false"};
}

Finding capabilitiesRestricted(const Pod& pod) {
  if (pod.minor < 22 || pod.windows()) return {};
  std::set<std::string> forbidden;
  auto keeping = containersThat(pod, [](const json::object& one) {
    auto dropped = client::strings(array(contextOf(one), {"capabilities", "drop"}));
    return std::find(dropped.begin(), dropped.end(), "ALL") == dropped.end();
  });
  auto adding = containersThat(pod, [&](const json::object& one) {
    bool any = false;
    for (const auto& name : client::strings(array(contextOf(one), {"capabilities", "add"}))) {
      if (name == "NET_BIND_SERVICE") continue;
      any = true;
      forbidden.insert(name);
    }
    return any;
  });
  Names details;
  if (!keeping.empty())
    details.push_back(containersOf(keeping) + " must set securityContext.capabilities.drop=[\"ALL\"]");
  if (!adding.empty())
    details.push_back(fmt::format("{} must not include {} in securityContext.capabilities.add", containersOf(adding),
                                  quoted(forbidden)));
  if (details.empty()) return {};
  return {"unrestricted capabilities", join(details, "; ")};
}

Finding restrictedVolumes(const Pod& pod) {
  static const std::set<std::string_view> allowed = {"configMap", "csi",   "downwardAPI",           "emptyDir",
                                                     "ephemeral", "image", "persistentVolumeClaim", "projected",
                                                     "secret"};
  Names volumes;
  std::set<std::string> types;
  for (const auto& value : array(pod.spec, {"volumes"})) {
    if (!value.is_object()) continue;
    bool bad = false;
    for (const auto& [key, source] : value.get_object()) {
      if (key == "name" || source.is_null() || allowed.contains(key)) continue;
      bad = true;
      types.emplace(key);
    }
    if (bad) volumes.emplace_back(text(value.get_object(), "name"));
  }
  if (volumes.empty()) return {};
  return {"restricted volume types",
          fmt::format("{} {} {} {} {}", volumes.size() == 1 ? "volume" : "volumes", quoted(volumes),
                      volumes.size() == 1 ? "uses" : "use",
                      types.size() == 1 ? "restricted volume type" : "restricted volume types", quoted(types))};
}

Finding runAsNonRoot(const Pod& pod) {
  auto setters = settersThat(pod, [](const json::object& context) { return isFalse(context, {"runAsNonRoot"}); });
  if (!setters.empty()) return {"runAsNonRoot != true", setters + " must not set securityContext.runAsNonRoot=false"};
  if (isTrue(pod.context(), {"runAsNonRoot"})) return {};
  auto names = containersThat(pod, [](const json::object& one) { return !isTrue(contextOf(one), {"runAsNonRoot"}); });
  if (names.empty()) return {};
  return {"runAsNonRoot != true",
          fmt::format("pod or {} must set securityContext.runAsNonRoot=true", containersOf(names))};
}

Finding runAsUser(const Pod& pod) {
  if (pod.minor < 23) return {};
  auto setters =
      settersThat(pod, [](const json::object& context) { return client::number(context, {"runAsUser"}, 1) == 0; });
  if (setters.empty()) return {};
  return {"runAsUser=0", setters + " must not set runAsUser=0"};
}

constexpr Check kBaselineChecks[] = {appArmor,  hostNamespaces, hostPorts, hostProbes, privileged,
                                     procMount, seLinux,        sysctls,   hostProcess};
// Of the baseline level alone: restricted has sharper ones in their place.
constexpr Check kOverlapping[] = {capabilitiesBaseline, hostPaths, seccompBaseline};
constexpr Check kRestrictedChecks[] = {privilegeEscalation, capabilitiesRestricted, restrictedVolumes, runAsNonRoot,
                                       runAsUser,           seccompRestricted};

}  // namespace

std::string podViolations(const json::object& root, const PodPolicy& policy, bool brief) {
  if (policy.level == PodLevel::kPrivileged) return {};
  Pod pod{root, client::object(root, {"spec"}), {}, policy.minor};
  for (std::string_view list : {"initContainers", "containers", "ephemeralContainers"}) {
    for (const auto& value : array(pod.spec, {list})) {
      if (value.is_object()) pod.containers.push_back(&value.get_object());
    }
  }
  Names findings;
  auto run = [&](std::span<const Check> checks) {
    for (auto check : checks) {
      auto finding = check(pod);
      if (finding.reason.empty()) continue;
      findings.push_back(brief || finding.detail.empty() ? finding.reason
                                                         : fmt::format("{} ({})", finding.reason, finding.detail));
    }
  };
  run(kBaselineChecks);
  run(policy.level == PodLevel::kBaseline ? std::span<const Check>(kOverlapping) : kRestrictedChecks);
  return join(findings, ", ");
}

}  // namespace dhow::apiserver
