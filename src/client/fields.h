// Reading and writing fields of API documents by path. Reading never fails: what is missing or of another type reads as
// empty.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "client/client.h"

namespace dhow::client {

namespace json = boost::json;
using Path = std::initializer_list<std::string_view>;

const json::value* field(const json::object& root, Path path);
std::string_view text(const json::object& root, Path path);
inline std::string_view text(const json::object& root, std::string_view name) {
  return text(root, {name});
}
std::optional<int64_t> number(const json::object& root, Path path);
inline int64_t number(const json::object& root, Path path, int64_t otherwise) {
  return number(root, path).value_or(otherwise);
}
bool flag(const json::object& root, Path path, bool otherwise = false);
// Empty where missing.
const json::object& object(const json::object& root, Path path);
const json::array& array(const json::object& root, Path path);
bool has(const json::object& root, Path path);

// The object at `path`, made where missing.
json::object& at(json::object& root, Path path);
// The member as an object or array, made (or replaced) when it is something else.
json::object& objectAt(json::object& parent, std::string_view name);
json::array& arrayAt(json::object& parent, std::string_view name);

std::vector<std::string> strings(const json::array& values);
json::object& metadataOf(json::object& document);
// A copy to change.
inline json::object copyOf(const ObjectPtr& object) {
  return object->root();
}

std::optional<WallTime> time(const json::object& root, Path path);

// The owner whose `controller` is true; null when there is none.
const json::object* controllerOf(const Object& object);
std::string_view controllerUid(const Object& object);
// A reference to `owner` with controller and blockOwnerDeletion set.
json::object controllerReference(const Object& owner);

// "<namespace>/<name>" of the service that an EndpointSlice belongs to.
std::string serviceOf(const Object& slice);

// The entry of status.conditions with that type; null when there is none.
const json::object* condition(const json::object& root, std::string_view type);
bool conditionTrue(const json::object& root, std::string_view type);

// The request body {"metadata": {"uid", "resourceVersion"}} merged with `change`: a patch that only applies to what was
// read.
json::object guardedPatch(const Object& read, json::object change);

}  // namespace dhow::client
