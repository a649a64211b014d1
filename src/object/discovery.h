// What kinds the server has, in both forms that clients ask for. Encoded JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "object/kinds.h"

namespace dhow::object {

std::string apiVersionsDocument(std::string_view serverAddress);                          // GET /api
std::string apiGroupListDocument(const Kinds& kinds);                                     // GET /apis
std::optional<std::string> apiGroupDocument(const Kinds& kinds, std::string_view group);  // GET /apis/<group>
// GET /api/v1 (group "") and /apis/<group>/<version>; nothing when unknown.
std::optional<std::string> apiResourceListDocument(const Kinds& kinds, std::string_view group,
                                                   std::string_view version);
// apidiscovery.k8s.io/v2 APIGroupDiscoveryList: GET /api (core) or /apis with the `as=APIGroupDiscoveryList` media
// type.
std::string aggregatedDiscoveryDocument(const Kinds& kinds, bool core);

}  // namespace dhow::object
