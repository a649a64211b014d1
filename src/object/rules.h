// What the validation functions that api/ names share. Private to this folder.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <span>

#include "object/validate.h"

namespace dhow::object::rules {

namespace json = boost::json;

struct Context {
  Problems& problems;
  const KindInfo& kind;
  const json::object& root;
  const json::object* before;  // the whole present object, or null
  std::string_view subresource;
  bool update;
  std::string path;  // of what is looked at

  std::string at(std::string_view field) const {
    return path.empty() ? std::string(field) : path + "." + std::string(field);
  }
};

// `before` is the same part of the present object, or null.
using Function = void (*)(const json::object& value, const json::object* before, Context& context);
struct Entry {
  std::string_view name;
  Function function;
};

Function find(std::string_view name);
std::span<const Entry> podRules();
std::span<const Entry> workloadRules();
std::span<const Entry> networkRules();
std::span<const Entry> ingressRules();
std::span<const Entry> gatewayRules();
std::span<const Entry> dhowRules();
std::span<const Entry> certificateRules();

// "" when `value` passes the named format.
std::string check(std::string_view format, const json::value& value);
void checkLabels(const json::value& labels, const std::string& path, Problems& problems);
void metadata(const KindInfo& kind, const json::object& metadata, const json::object* before, Problems& problems);

inline std::string_view text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}
inline const json::object* child(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value ? value->if_object() : nullptr;
}
inline const json::array* list(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value ? value->if_array() : nullptr;
}

}  // namespace dhow::object::rules
