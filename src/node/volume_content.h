// What goes into volumes that are made of API objects: configMap, secret, downwardAPI and projected. A pure function of
// what the caller has gathered.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "env.h"

namespace dhow::node {

struct VolumeFile {
  std::string content;
  int mode = 0644;
  bool operator==(const VolumeFile&) const = default;
};
using VolumeFiles = std::map<std::string, VolumeFile>;  // by relative path

// A token that a projected volume wants.
struct TokenRequest {
  std::string audience;
  int64_t expirationSeconds = 3600;
  auto operator<=>(const TokenRequest&) const = default;
};
std::vector<TokenRequest> tokensOf(const json::object& volume);

// kFailedPrecondition in the kubelet's words when something that it needs is missing.
Result<VolumeFiles> volumeContent(const FieldContext& context, const json::object& volume,
                                  const std::map<TokenRequest, std::string>& tokens);

struct ObjectRef {
  std::string kind;  // "configmaps" or "secrets"
  std::string ns, name;
  auto operator<=>(const ObjectRef&) const = default;
};
// Every config map and secret that a pod's environment, volumes and image pulls refer to; without repeats.
std::vector<ObjectRef> referencedObjects(const json::object& pod);

}  // namespace dhow::node
