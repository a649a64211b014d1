// OpenAPI v3 (index and one document per group and version) and v2, from the same schema. Encoded JSON; made on demand,
// so callers keep what they serve often. kubectl reads x-kubernetes-group-version-kind and the PATCH parameters from
// them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "object/kinds.h"

namespace dhow::object {

std::string openApiV3Index(const Kinds& kinds);  // GET /openapi/v3; URLs carry a hash of the document
// GET /openapi/v3/api/v1 (group "") or /openapi/v3/apis/<group>/<version>; nothing when unknown.
std::optional<std::string> openApiV3Document(const Kinds& kinds, std::string_view group, std::string_view version);
std::string openApiV2Document(const Kinds& kinds);  // GET /openapi/v2
// The same in the protobuf form of gnostic's openapiv2.Document, which clients ask for by
// application/com.github.proto-openapi.spec.v2@v1.0+protobuf (or .v1.0+protobuf).
std::string openApiV2ProtobufDocument(const Kinds& kinds);

}  // namespace dhow::object
