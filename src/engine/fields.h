// Reading Docker's JSON: fields that are missing, null or of another type read as empty, as its clients expect.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <string>
#include <string_view>
#include <vector>

namespace dhow::engine {

namespace json = boost::json;

inline const json::value* field(const json::object& object, std::string_view name) {
  return object.if_contains(name);
}

inline std::string text(const json::object& object, std::string_view name) {
  auto* value = field(object, name);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

inline int64_t integer(const json::object& object, std::string_view name, int64_t missing = 0) {
  auto* value = field(object, name);
  if (!value) return missing;
  if (value->is_int64()) return value->get_int64();
  if (value->is_uint64()) return static_cast<int64_t>(value->get_uint64());
  // 2^63 and beyond have no int64_t.
  if (value->is_double() && value->get_double() >= -0x1p63 && value->get_double() < 0x1p63)
    return static_cast<int64_t>(value->get_double());
  return missing;
}

inline bool boolean(const json::object& object, std::string_view name) {
  auto* value = field(object, name);
  return value && value->is_bool() && value->get_bool();
}

inline const json::object& child(const json::object& object, std::string_view name) {
  static const json::object kEmpty;
  auto* value = field(object, name);
  return value && value->is_object() ? value->get_object() : kEmpty;
}

inline const json::array& list(const json::object& object, std::string_view name) {
  static const json::array kEmpty;
  auto* value = field(object, name);
  return value && value->is_array() ? value->get_array() : kEmpty;
}

inline std::vector<std::string> texts(const json::object& object, std::string_view name) {
  std::vector<std::string> out;
  auto* value = field(object, name);
  // Cmd and Entrypoint may be one string.
  if (value && value->is_string()) out.emplace_back(value->get_string());
  for (const auto& item : list(object, name)) {
    if (item.is_string()) out.emplace_back(item.get_string());
  }
  return out;
}

inline json::array toJson(const std::vector<std::string>& values) {
  json::array out;
  for (const auto& value : values) out.emplace_back(value);
  return out;
}

}  // namespace dhow::engine
