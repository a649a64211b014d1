// The form of API objects at run time: what fields a type has and what holds for them. Built once from api/; all else
// (decoding, defaults, validation, patches, apply, OpenAPI) is driven by it. Immutable, read from any thread.
#pragma once

#include <boost/json/value.hpp>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dhow::object {

struct Type;

enum class Base : uint8_t {
  kString,
  kInt32,
  kInt64,
  kBool,
  kDouble,
  kBytes,  // base64 text
  kTime,
  kMicroTime,  // RFC 3339 text
  kQuantity,
  kIntOrString,
  kFieldsV1,
  kRaw,
  kAny,  // JSON of any form; kRaw is an embedded object
  kObject,
  kList,
  kMap,
};

struct Shape {
  Base base = Base::kAny;
  const Type* type = nullptr;      // kObject
  const Shape* element = nullptr;  // kList, kMap
};

// How a list merges: as a whole, as a set of scalars, or as a map by `keys`.
enum class ListKind : uint8_t { kAtomic, kSet, kMap };

// What few fields have.
struct FieldRules {
  std::optional<boost::json::value> fallback;  // the default
  std::vector<std::pair<std::string, std::vector<std::string>>>
      when;                 // the default holds only while these siblings have one of the values
  std::string defaultFrom;  // the sibling whose value is the default
  std::vector<std::string> enums;
  std::string format;  // the name of a check, see validate.h
  std::optional<int64_t> min, max;
  bool immutable = false;
};

struct Field {
  std::string name;
  Shape shape;
  uint16_t number = 0;       // protobuf field number
  uint16_t innerNumber = 0;  // within message `number`, for what JSON has inline; 0: not inline
  bool required = false;     // as published
  bool enforced = false;     // and refused when missing
  bool pointer = false;      // a scalar whose zero differs from its absence
  bool atomic = false;       // server-side apply owns the map or object as a whole
  ListKind list = ListKind::kAtomic;
  bool patchMerge = false, patchRetainKeys = false;  // strategic merge patch
  std::vector<std::string> keys;                     // ListKind::kMap
  std::string mergeKey;                              // strategic merge patch
  std::string doc;
  std::unique_ptr<FieldRules> rules;  // may be null
};

struct Type {
  std::string name;         // "core.v1.PodSpec"
  std::string shortName;    // "PodSpec"
  std::string openApiName;  // "io.k8s.api.core.v1.PodSpec"
  std::string doc;
  bool atomic = false;
  bool isKind = false;                // has apiVersion and kind beside its fields
  std::vector<std::string> rules;     // validation functions by name
  std::vector<std::string> defaults;  // defaulting functions by name
  std::vector<Field> fields;

  const Field* field(std::string_view fieldName) const;
};

// "[]v1.Container", "int32", as Go would print the type; for error texts.
std::string goTypeName(const Shape& shape);

}  // namespace dhow::object
