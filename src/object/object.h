// API objects in memory: an immutable JSON document with its encoded bytes, shared by pointer. GET, LIST and WATCH
// splice the bytes; code reads through the typed views that are generated from api/ (object/views.h) and writes by
// building a new document.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dhow::object {

namespace json = boost::json;

class Object;
using ObjectPtr = std::shared_ptr<const Object>;

class Object {
 public:
  // Takes a document that holds apiVersion, kind and metadata. The bytes are encoded when first asked for.
  static ObjectPtr make(json::object document);
  // kBadRequest when it is not a JSON object. Depth and size are bounded.
  static Result<ObjectPtr> parse(std::string_view bytes);

  const json::object& root() const { return root_; }
  // JSON without white space. Any thread.
  const std::string& bytes() const;

  // Metadata, empty where missing. Views into this object.
  std::string_view apiVersion() const;
  std::string_view kind() const;
  std::string_view name() const;
  std::string_view ns() const;
  std::string_view uid() const;
  // As a number; 0 where missing.
  uint64_t resourceVersion() const;
  const json::object& metadata() const;  // an empty object where missing
  std::string_view label(std::string_view key) const;
  std::string_view annotation(std::string_view key) const;
  bool deleting() const;  // metadata.deletionTimestamp is set
  // "namespace/name", or "name".
  std::string key() const;

 private:
  explicit Object(json::object root);
  json::object root_;
  mutable std::once_flag encoded_;
  mutable std::string bytes_;
};

// Walks "spec", "template", ...: null when a step is missing or not an object.
const json::value* find(const json::object& root, std::initializer_list<std::string_view> path);

}  // namespace dhow::object
