#include "client/fields.h"

#include "base/time.h"
#include "object/labels.h"

namespace dhow::client {

namespace {
const json::object kNoObject;
const json::array kNoArray;
}  // namespace

const json::value* field(const json::object& root, Path path) {
  const json::object* here = &root;
  const json::value* value = nullptr;
  for (std::string_view step : path) {
    if (here == nullptr) return nullptr;
    value = here->if_contains(step);
    if (value == nullptr) return nullptr;
    here = value->if_object();
  }
  return value;
}

std::string_view text(const json::object& root, Path path) {
  const json::value* value = field(root, path);
  if (value == nullptr || !value->is_string()) return {};
  return value->get_string();
}

std::optional<int64_t> number(const json::object& root, Path path) {
  const json::value* value = field(root, path);
  if (value == nullptr) return std::nullopt;
  if (const int64_t* i = value->if_int64()) return *i;
  if (const uint64_t* u = value->if_uint64()) return static_cast<int64_t>(*u);
  // 2^63 and beyond have no int64_t.
  if (const double* d = value->if_double(); d && *d >= -0x1p63 && *d < 0x1p63) return static_cast<int64_t>(*d);
  return std::nullopt;
}

bool flag(const json::object& root, Path path, bool otherwise) {
  const json::value* value = field(root, path);
  return value != nullptr && value->is_bool() ? value->get_bool() : otherwise;
}

const json::object& object(const json::object& root, Path path) {
  const json::value* value = field(root, path);
  return value != nullptr && value->is_object() ? value->get_object() : kNoObject;
}

const json::array& array(const json::object& root, Path path) {
  const json::value* value = field(root, path);
  return value != nullptr && value->is_array() ? value->get_array() : kNoArray;
}

bool has(const json::object& root, Path path) {
  const json::value* value = field(root, path);
  return value != nullptr && !value->is_null();
}

json::object& at(json::object& root, Path path) {
  json::object* here = &root;
  for (std::string_view step : path) here = &objectAt(*here, step);
  return *here;
}

json::object& objectAt(json::object& parent, std::string_view name) {
  json::value& value = parent[name];
  if (!value.is_object()) value.emplace_object();
  return value.get_object();
}

json::array& arrayAt(json::object& parent, std::string_view name) {
  json::value& value = parent[name];
  if (!value.is_array()) value.emplace_array();
  return value.get_array();
}

std::vector<std::string> strings(const json::array& values) {
  std::vector<std::string> out;
  for (const json::value& value : values) {
    if (value.is_string()) out.emplace_back(value.get_string());
  }
  return out;
}

json::object& metadataOf(json::object& document) {
  return objectAt(document, "metadata");
}

std::optional<WallTime> time(const json::object& root, Path path) {
  return parseTime(text(root, path));
}

const json::object* controllerOf(const Object& object) {
  for (const json::value& value : array(object.metadata(), {"ownerReferences"})) {
    if (value.is_object() && flag(value.get_object(), {"controller"})) return &value.get_object();
  }
  return nullptr;
}

std::string_view controllerUid(const Object& object) {
  const json::object* owner = controllerOf(object);
  return owner == nullptr ? std::string_view() : text(*owner, "uid");
}

json::object controllerReference(const Object& owner) {
  return {{"apiVersion", owner.apiVersion()},
          {"kind", owner.kind()},
          {"name", owner.name()},
          {"uid", owner.uid()},
          {"controller", true},
          {"blockOwnerDeletion", true}};
}

std::string serviceOf(const Object& slice) {
  return fmt::format("{}/{}", slice.ns(), slice.label(object::kServiceNameLabel));
}

const json::object* condition(const json::object& root, std::string_view type) {
  for (const json::value& value : array(root, {"status", "conditions"})) {
    if (value.is_object() && text(value.get_object(), "type") == type) return &value.get_object();
  }
  return nullptr;
}

bool conditionTrue(const json::object& root, std::string_view type) {
  const json::object* found = condition(root, type);
  return found != nullptr && text(*found, "status") == "True";
}

json::object guardedPatch(const Object& read, json::object change) {
  json::object& metadata = metadataOf(change);
  metadata["uid"] = read.uid();
  metadata["resourceVersion"] = text(read.metadata(), "resourceVersion");
  return change;
}

}  // namespace dhow::client
