// Request bodies to documents: JSON, YAML and Kubernetes protobuf, checked and brought to the form of the kind's
// schema.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "object/kinds.h"

namespace dhow::object {

// The query parameter fieldValidation.
enum class FieldValidation : uint8_t { kIgnore, kWarn, kStrict };
// "" is Warn, as in Kubernetes. kBadRequest for other words.
Result<FieldValidation> parseFieldValidation(std::string_view text);

struct DecodeOptions {
  FieldValidation validation = FieldValidation::kWarn;
  // What the URL says the body is. A body without apiVersion and kind gets these; another kind is refused with
  // kBadRequest. Null: the body says itself; an unknown kind is kBadRequest.
  const KindInfo* expected = nullptr;
};

struct Decoded {
  boost::json::object document;
  const KindInfo* kind = nullptr;
  std::vector<std::string> warnings;  // for `Warning: 299 - "..."` headers
};

// `contentType` as in the header; empty means JSON. kUnsupportedMediaType, kBadRequest (with Kubernetes' texts),
// kTooLarge. Unknown fields are removed; Warn reports them, Strict refuses them.
Result<Decoded> decodeBody(const Kinds& kinds, std::string_view body, std::string_view contentType,
                           const DecodeOptions& options);

// The same checks for a document that is already parsed (the outcome of a patch): types, unknown fields, JSON nulls;
// quantities and times get their canonical text.
Result<> conform(const KindInfo& kind, boost::json::object& document, FieldValidation validation,
                 std::vector<std::string>& warnings);

// JSON text to a value with bounded depth; `duplicates`, if given, gets the paths of repeated keys.
Result<boost::json::value> parseJson(std::string_view text, std::vector<std::string>* duplicates = nullptr);

// "k8s\0" + runtime.Unknown -> document with apiVersion and kind. kBadRequest when damaged or of an unknown kind.
Result<boost::json::object> decodeProtobuf(const Kinds& kinds, std::string_view bytes,
                                           const KindInfo* expected = nullptr);

}  // namespace dhow::object
