// A container's environment: env, envFrom, references, service variables and $(NAME) expansion, as Kubernetes defines
// them. Pure functions of what the caller has gathered.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "json.h"

namespace dhow::node {

using EnvList = std::vector<std::pair<std::string, std::string>>;

struct FieldContext {
  const json::object* pod = nullptr;  // the whole document
  std::vector<std::string> podIps, hostIps;
  std::map<std::string, std::string> allocatable;  // what stands for a limit that is not set
  // The config map or secret ("configmaps" or "secrets") of the pod's namespace; null when there is none.
  std::function<ObjectPtr(std::string_view kind, std::string_view name)> find;
  EnvList services;
};

// A fieldRef's value. kInvalid for a path that is not known.
Result<std::string> fieldValue(const FieldContext& context, std::string_view path);
// A resourceFieldRef's value; `container` is the one that it reads.
Result<std::string> resourceValue(const FieldContext& context, const json::object& container, const json::object& ref);
// The entry of a config map (data, binaryData) or secret, decoded; nothing when the key is missing.
std::optional<std::string> entryOf(const Object& object, std::string_view key);
// All entries, decoded, by key.
std::map<std::string, std::string> entriesOf(const Object& object);

// $(NAME) becomes the variable's value, $$ a dollar; a name that is not known stays as it is.
std::string expand(std::string_view text, const std::function<const std::string*(std::string_view)>& lookup);

// In order of appearance, later ones win. kFailedPrecondition in the kubelet's words when a reference leads nowhere:
// `configmap "x" not found`, `couldn't find key k in Secret ns/x`.
Result<EnvList> containerEnv(const FieldContext& context, const json::object& container);

// The variables that services give to the pods of a namespace ({NAME}_SERVICE_HOST, ...). Without links only those of
// default/kubernetes.
EnvList serviceEnv(const std::vector<ObjectPtr>& services, std::string_view ns, bool links);

}  // namespace dhow::node
