#include "volume_content.h"

#include <set>

namespace dhow::node {

namespace {

int modeOf(const json::object& item, int otherwise) {
  return static_cast<int>(number(item, {"mode"}, otherwise)) & 0777;
}

// Neither absolute nor upwards; the API server has checked that too.
bool isInside(std::string_view path) {
  if (path.empty() || path.front() == '/') return false;
  size_t at = 0;
  while (at <= path.size()) {
    const size_t end = std::min(path.find('/', at), path.size());
    if (path.substr(at, end - at) == "..") return false;
    at = end + 1;
  }
  return !path.starts_with("..");
}

Result<> addObject(const FieldContext& context, std::string_view plural, std::string_view kind, std::string_view name,
                   const json::object& source, int mode, VolumeFiles& out) {
  const bool optional = flag(source, {"optional"});
  ObjectPtr found = context.find(plural, name);
  if (!found) {
    if (optional) return {};
    return Error(Code::kFailedPrecondition, fmt::format("{} \"{}\" not found", kind, name));
  }
  const json::array& items = array(source, {"items"});
  if (items.empty()) {
    for (auto& [key, content] : entriesOf(*found)) out[key] = {std::move(content), mode};
    return {};
  }
  for (const json::value& entry : items) {
    if (!entry.is_object()) continue;
    const json::object& item = entry.get_object();
    auto content = entryOf(*found, text(item, "key"));
    if (!content) {
      if (optional) continue;
      return Error(Code::kFailedPrecondition,
                   fmt::format("references non-existent {} key: {}", kind, text(item, "key")));
    }
    std::string path(text(item, "path"));
    if (!isInside(path)) return Error(Code::kInvalid, fmt::format("path \"{}\" leads outside the volume", path));
    out[path] = {std::move(*content), modeOf(item, mode)};
  }
  return {};
}

Result<> addDownward(const FieldContext& context, const json::object& source, int mode, VolumeFiles& out) {
  for (const json::value& entry : array(source, {"items"})) {
    if (!entry.is_object()) continue;
    const json::object& item = entry.get_object();
    std::string path(text(item, "path"));
    if (!isInside(path)) return Error(Code::kInvalid, fmt::format("path \"{}\" leads outside the volume", path));
    std::string value;
    if (client::has(item, {"fieldRef"})) {
      ASSIGN_OR_RETURN(value, fieldValue(context, text(item, {"fieldRef", "fieldPath"})));
    } else {
      const json::object& ref = object(item, {"resourceFieldRef"});
      const json::object* container = named(array(*context.pod, {"spec", "containers"}), text(ref, "containerName"));
      if (container == nullptr) {
        container = named(array(*context.pod, {"spec", "initContainers"}), text(ref, "containerName"));
      }
      if (container == nullptr) {
        return Error(Code::kFailedPrecondition, fmt::format("container {} not found", text(ref, "containerName")));
      }
      ASSIGN_OR_RETURN(value, resourceValue(context, *container, ref));
    }
    out[path] = {std::move(value), modeOf(item, mode)};
  }
  return {};
}

Result<> addProjected(const FieldContext& context, const json::object& projected,
                      const std::map<TokenRequest, std::string>& tokens, int mode, VolumeFiles& out) {
  for (const json::value& entry : array(projected, {"sources"})) {
    if (!entry.is_object()) continue;
    const json::object& source = entry.get_object();
    if (const json::object& map = object(source, {"configMap"}); !map.empty()) {
      RETURN_IF_ERROR(addObject(context, "configmaps", "configmap", text(map, "name"), map, mode, out));
    }
    if (const json::object& secret = object(source, {"secret"}); !secret.empty()) {
      RETURN_IF_ERROR(addObject(context, "secrets", "secret", text(secret, "name"), secret, mode, out));
    }
    if (const json::object& downward = object(source, {"downwardAPI"}); !downward.empty()) {
      RETURN_IF_ERROR(addDownward(context, downward, mode, out));
    }
    if (const json::object& token = object(source, {"serviceAccountToken"}); !token.empty()) {
      TokenRequest request{std::string(text(token, "audience")), number(token, {"expirationSeconds"}, 3600)};
      auto found = tokens.find(request);
      if (found == tokens.end()) return Error(Code::kUnavailable, "no service account token yet");
      std::string path(text(token, "path"));
      if (!isInside(path)) return Error(Code::kInvalid, fmt::format("path \"{}\" leads outside the volume", path));
      // Readable by its owner alone, unless fsGroup opens it (set by the writer).
      out[path] = {found->second, mode};
    }
  }
  return {};
}

}  // namespace

std::vector<TokenRequest> tokensOf(const json::object& volume) {
  std::vector<TokenRequest> out;
  for (const json::value& entry : array(volume, {"projected", "sources"})) {
    if (!entry.is_object()) continue;
    const json::object& token = object(entry.get_object(), {"serviceAccountToken"});
    if (token.empty()) continue;
    out.push_back({std::string(text(token, "audience")), number(token, {"expirationSeconds"}, 3600)});
  }
  return out;
}

Result<VolumeFiles> volumeContent(const FieldContext& context, const json::object& volume,
                                  const std::map<TokenRequest, std::string>& tokens) {
  VolumeFiles out;
  for (std::string_view kind : {"configMap", "secret", "downwardAPI", "projected"}) {
    const json::value* value = field(volume, {kind});
    if (value == nullptr || !value->is_object()) continue;
    const json::object& source = value->get_object();
    const int mode = static_cast<int>(number(source, {"defaultMode"}, 0644)) & 0777;
    if (kind == "configMap") {
      RETURN_IF_ERROR(addObject(context, "configmaps", "configmap", text(source, "name"), source, mode, out));
    } else if (kind == "secret") {
      RETURN_IF_ERROR(addObject(context, "secrets", "secret", text(source, "secretName"), source, mode, out));
    } else if (kind == "downwardAPI") {
      RETURN_IF_ERROR(addDownward(context, source, mode, out));
    } else {
      RETURN_IF_ERROR(addProjected(context, source, tokens, mode, out));
    }
  }
  return out;
}

std::vector<ObjectRef> referencedObjects(const json::object& pod) {
  std::set<ObjectRef> refs;
  const std::string ns(text(pod, {"metadata", "namespace"}));
  auto add = [&](std::string_view kind, std::string_view name) {
    if (!name.empty()) refs.insert({std::string(kind), ns, std::string(name)});
  };
  const json::object& spec = object(pod, {"spec"});
  for (std::string_view list : {"initContainers", "containers"}) {
    for (const json::value& entry : array(spec, {list})) {
      if (!entry.is_object()) continue;
      for (const json::value& from : array(entry.get_object(), {"envFrom"})) {
        if (!from.is_object()) continue;
        add("configmaps", text(from.get_object(), {"configMapRef", "name"}));
        add("secrets", text(from.get_object(), {"secretRef", "name"}));
      }
      for (const json::value& variable : array(entry.get_object(), {"env"})) {
        if (!variable.is_object()) continue;
        add("configmaps", text(variable.get_object(), {"valueFrom", "configMapKeyRef", "name"}));
        add("secrets", text(variable.get_object(), {"valueFrom", "secretKeyRef", "name"}));
      }
    }
  }
  for (const json::value& entry : array(spec, {"volumes"})) {
    if (!entry.is_object()) continue;
    const json::object& volume = entry.get_object();
    add("configmaps", text(volume, {"configMap", "name"}));
    add("secrets", text(volume, {"secret", "secretName"}));
    for (const json::value& source : array(volume, {"projected", "sources"})) {
      if (!source.is_object()) continue;
      add("configmaps", text(source.get_object(), {"configMap", "name"}));
      add("secrets", text(source.get_object(), {"secret", "name"}));
    }
  }
  for (const json::value& entry : array(spec, {"imagePullSecrets"})) {
    if (entry.is_object()) add("secrets", text(entry.get_object(), "name"));
  }
  return {refs.begin(), refs.end()};
}

}  // namespace dhow::node
