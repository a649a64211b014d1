#include "env.h"

#include "base/strings.h"
#include "base/url_host.h"

namespace dhow::node {

namespace {

// metadata.labels['key'] gives "key".
std::optional<std::string_view> subscript(std::string_view path, std::string_view field) {
  if (!path.starts_with(field)) return std::nullopt;
  path.remove_prefix(field.size());
  if (!path.starts_with("['") || !path.ends_with("']")) return std::nullopt;
  return path.substr(2, path.size() - 4);
}

// (Not "quoted": an argument of type std::string would bring std::quoted in.)
std::string inQuotes(std::string_view value) {
  std::string out = "\"";
  for (char c : value) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\t': out += "\\t"; break;
      case '\r': out += "\\r"; break;
      default: out += c;
    }
  }
  return out + "\"";
}

std::string formatMap(const json::object& values) {
  std::map<std::string, std::string> sorted;
  for (auto& [key, value] : textMap(values)) sorted[key] = value;
  std::string out;
  for (const auto& [key, value] : sorted) {
    if (!out.empty()) out += '\n';
    out += key + "=" + inQuotes(value);
  }
  return out;
}

bool isEnvName(std::string_view name) {
  if (name.empty() || (name[0] >= '0' && name[0] <= '9')) return false;
  return std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.'; });
}

void put(EnvList& list, std::string name, std::string value) {
  for (auto& [known, old] : list) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  list.emplace_back(std::move(name), std::move(value));
}

Result<> addFrom(const FieldContext& context, const json::object& source, EnvList& out) {
  struct Kind {
    std::string_view ref, plural, name;
  };
  for (const Kind& kind : {Kind{"configMapRef", "configmaps", "configmap"}, Kind{"secretRef", "secrets", "secret"}}) {
    const json::value* ref = field(source, {kind.ref});
    if (ref == nullptr || !ref->is_object()) continue;
    std::string_view name = text(ref->get_object(), "name");
    ObjectPtr found = context.find(kind.plural, name);
    if (!found) {
      if (flag(ref->get_object(), {"optional"})) continue;
      return Error(Code::kFailedPrecondition, fmt::format("{} \"{}\" not found", kind.name, name));
    }
    for (auto& [key, value] : entriesOf(*found)) {
      std::string full = std::string(text(source, "prefix")) + key;
      if (isEnvName(full)) put(out, std::move(full), std::move(value));
    }
  }
  return {};
}

// Nothing when the reference is optional and leads nowhere.
Result<std::optional<std::string>> keyValue(const FieldContext& context, const json::object& ref,
                                            std::string_view plural, std::string_view kind, std::string_view kindName) {
  std::string_view name = text(ref, "name");
  std::string_view key = text(ref, "key");
  const bool optional = flag(ref, {"optional"});
  ObjectPtr found = context.find(plural, name);
  if (!found) {
    if (optional) return std::optional<std::string>();
    return Error(Code::kFailedPrecondition, fmt::format("{} \"{}\" not found", kind, name));
  }
  auto value = entryOf(*found, key);
  if (value || optional) return value;
  return Error(Code::kFailedPrecondition, fmt::format("couldn't find key {} in {} {}/{}", key, kindName,
                                                      text(*context.pod, {"metadata", "namespace"}), name));
}

Result<std::optional<std::string>> valueFrom(const FieldContext& context, const json::object& container,
                                             const json::object& from) {
  if (const json::value* ref = field(from, {"fieldRef"}); ref != nullptr && ref->is_object()) {
    ASSIGN_OR_RETURN(std::string value, fieldValue(context, text(ref->get_object(), "fieldPath")));
    return std::optional<std::string>(std::move(value));
  }
  if (const json::value* ref = field(from, {"resourceFieldRef"}); ref != nullptr && ref->is_object()) {
    const json::object* of = &container;
    std::string_view other = text(ref->get_object(), "containerName");
    if (!other.empty()) {
      const json::object& spec = object(*context.pod, {"spec"});
      of = named(array(spec, {"containers"}), other);
      if (of == nullptr) of = named(array(spec, {"initContainers"}), other);
      if (of == nullptr) return Error(Code::kFailedPrecondition, fmt::format("container {} not found", other));
    }
    ASSIGN_OR_RETURN(std::string value, resourceValue(context, *of, ref->get_object()));
    return std::optional<std::string>(std::move(value));
  }
  if (const json::value* ref = field(from, {"configMapKeyRef"}); ref != nullptr && ref->is_object()) {
    return keyValue(context, ref->get_object(), "configmaps", "configmap", "ConfigMap");
  }
  if (const json::value* ref = field(from, {"secretKeyRef"}); ref != nullptr && ref->is_object()) {
    return keyValue(context, ref->get_object(), "secrets", "secret", "Secret");
  }
  return Error(Code::kFailedPrecondition, "environment variable with an unknown kind of source");
}

std::string upperName(std::string_view name) {
  std::string out(name);
  for (char& c : out) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

}  // namespace

std::optional<std::string> entryOf(const Object& source, std::string_view key) {
  const bool secret = source.kind() == "Secret";
  if (const json::value* value = field(source.root(), {"data", key}); value != nullptr && value->is_string()) {
    if (!secret) return std::string(value->get_string());
    return fromBase64(value->get_string());
  }
  if (const json::value* value = field(source.root(), {"binaryData", key}); value != nullptr && value->is_string()) {
    return fromBase64(value->get_string());
  }
  return std::nullopt;
}

std::map<std::string, std::string> entriesOf(const Object& source) {
  std::map<std::string, std::string> out;
  for (std::string_view part : {"data", "binaryData"}) {
    for (const auto& [key, value] : object(source.root(), {part})) {
      if (auto entry = entryOf(source, key)) out[std::string(key)] = std::move(*entry);
    }
  }
  return out;
}

Result<std::string> fieldValue(const FieldContext& context, std::string_view path) {
  const json::object& pod = *context.pod;
  const json::object& metadata = object(pod, {"metadata"});
  if (path == "metadata.name") return std::string(text(metadata, "name"));
  if (path == "metadata.namespace") return std::string(text(metadata, "namespace"));
  if (path == "metadata.uid") return std::string(text(metadata, "uid"));
  if (path == "metadata.labels") return formatMap(object(metadata, {"labels"}));
  if (path == "metadata.annotations") return formatMap(object(metadata, {"annotations"}));
  if (auto key = subscript(path, "metadata.labels")) return std::string(text(metadata, {"labels", *key}));
  if (auto key = subscript(path, "metadata.annotations")) return std::string(text(metadata, {"annotations", *key}));
  if (path == "spec.nodeName") return std::string(text(pod, {"spec", "nodeName"}));
  if (path == "spec.serviceAccountName") return std::string(text(pod, {"spec", "serviceAccountName"}));
  if (path == "status.podIP") return context.podIps.empty() ? std::string() : context.podIps.front();
  if (path == "status.podIPs") return join(context.podIps, ",");
  if (path == "status.hostIP") return context.hostIps.empty() ? std::string() : context.hostIps.front();
  if (path == "status.hostIPs") return join(context.hostIps, ",");
  return Error(Code::kInvalid, fmt::format("unsupported fieldPath: {}", path));
}

Result<std::string> resourceValue(const FieldContext& context, const json::object& container, const json::object& ref) {
  std::string_view resource = text(ref, "resource");
  auto parts = splitOnce(resource, '.');
  if (!parts || (parts->first != "limits" && parts->first != "requests")) {
    return Error(Code::kInvalid, fmt::format("unsupported container resource: {}", resource));
  }
  std::string quantity(text(container, {"resources", parts->first, parts->second}));
  if (quantity.empty() && parts->first == "requests")
    quantity = text(container, {"resources", "limits", parts->second});
  if (quantity.empty() && parts->first == "limits") {
    auto found = context.allocatable.find(std::string(parts->second));
    if (found != context.allocatable.end()) quantity = found->second;
  }
  if (quantity.empty()) return std::string("0");
  std::string_view divisor = text(ref, "divisor");
  if (divisor.empty() || divisor == "0") divisor = "1";
  const bool milli = parts->second == "cpu";
  auto value = milli ? quantityMilli(quantity) : quantityValue(quantity);
  auto unit = milli ? quantityMilli(divisor) : quantityValue(divisor);
  if (!value || !unit || *unit <= 0) {
    return Error(Code::kInvalid, fmt::format("{} \"{}\" with divisor \"{}\"", resource, quantity, divisor));
  }
  return std::to_string(*value / *unit + (*value % *unit > 0 ? 1 : 0));
}

std::string expand(std::string_view input, const std::function<const std::string*(std::string_view)>& lookup) {
  std::string out;
  size_t at = 0;
  while (at < input.size()) {
    const size_t dollar = input.find('$', at);
    if (dollar == std::string_view::npos || dollar + 1 >= input.size()) {
      out.append(input.substr(at));
      break;
    }
    out.append(input.substr(at, dollar - at));
    if (input[dollar + 1] == '$') {
      out += '$';
      at = dollar + 2;
      continue;
    }
    const size_t close = input[dollar + 1] == '(' ? input.find(')', dollar + 2) : std::string_view::npos;
    if (close == std::string_view::npos) {
      out += '$';
      at = dollar + 1;
      continue;
    }
    const std::string* value = lookup(input.substr(dollar + 2, close - dollar - 2));
    out.append(value != nullptr ? std::string_view(*value) : input.substr(dollar, close + 1 - dollar));
    at = close + 1;
  }
  return out;
}

Result<EnvList> containerEnv(const FieldContext& context, const json::object& container) {
  EnvList own;
  for (const json::value& source : array(container, {"envFrom"})) {
    if (source.is_object()) RETURN_IF_ERROR(addFrom(context, source.get_object(), own));
  }
  auto lookup = [&](std::string_view name) -> const std::string* {
    for (const EnvList* list : {static_cast<const EnvList*>(&own), &context.services}) {
      for (const auto& [known, value] : *list) {
        if (known == name) return &value;
      }
    }
    return nullptr;
  };
  for (const json::value& entry : array(container, {"env"})) {
    if (!entry.is_object()) continue;
    const json::object& variable = entry.get_object();
    std::string name(text(variable, "name"));
    const json::value* from = field(variable, {"valueFrom"});
    if (from != nullptr && from->is_object()) {
      ASSIGN_OR_RETURN(auto value, valueFrom(context, container, from->get_object()));
      if (value) put(own, std::move(name), std::move(*value));
    } else {
      put(own, std::move(name), expand(text(variable, "value"), lookup));
    }
  }
  EnvList out = context.services;
  for (auto& [name, value] : own) put(out, std::move(name), std::move(value));
  return out;
}

EnvList serviceEnv(const std::vector<ObjectPtr>& services, std::string_view ns, bool links) {
  EnvList out;
  for (const ObjectPtr& service : services) {
    const bool master = service->ns() == "default" && service->name() == "kubernetes";
    if (!master && (!links || service->ns() != ns)) continue;
    std::string_view address = text(service->root(), {"spec", "clusterIP"});
    if (address.empty() || address == "None") continue;
    const std::string name = upperName(service->name());
    bool first = true;
    for (const json::value& entry : array(service->root(), {"spec", "ports"})) {
      if (!entry.is_object()) continue;
      const json::object& port = entry.get_object();
      const std::string number_ = std::to_string(number(port, {"port"}, 0));
      std::string_view given = text(port, "protocol");
      const std::string protocol(given.empty() ? "TCP" : given);
      const std::string url = fmt::format("{}://{}:{}", toLower(protocol), urlHost(address), number_);
      if (first) {
        put(out, name + "_SERVICE_HOST", std::string(address));
        put(out, name + "_SERVICE_PORT", number_);
        put(out, name + "_PORT", url);
        first = false;
      }
      if (!text(port, "name").empty()) put(out, name + "_SERVICE_PORT_" + upperName(text(port, "name")), number_);
      const std::string prefix = fmt::format("{}_PORT_{}_{}", name, number_, protocol);
      put(out, prefix, url);
      put(out, prefix + "_PROTO", toLower(protocol));
      put(out, prefix + "_PORT", number_);
      put(out, prefix + "_ADDR", std::string(address));
    }
  }
  return out;
}

}  // namespace dhow::node
