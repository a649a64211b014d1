#include "json_read.h"

namespace dhow::image::jsonread {

namespace json = boost::json;

Result<json::value> parseValue(std::string_view text, std::string_view what) {
  boost::system::error_code problem;
  json::value value = json::parse(text, problem);
  if (problem) return Error(Code::kInvalid, std::string(what) + " is not valid JSON: " + problem.message());
  return value;
}

Result<json::object> parseObject(std::string_view text, std::string_view what) {
  ASSIGN_OR_RETURN(auto value, parseValue(text, what));
  if (!value.is_object()) return Error(Code::kInvalid, std::string(what) + " is not a JSON object");
  return std::move(value.get_object());
}

std::string stringAt(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

int64_t intAt(const json::object& object, std::string_view key, int64_t otherwise) {
  const auto* value = object.if_contains(key);
  if (!value) return otherwise;
  if (value->is_int64()) return value->get_int64();
  if (value->is_uint64() && value->get_uint64() <= INT64_MAX) return static_cast<int64_t>(value->get_uint64());
  return otherwise;
}

bool boolAt(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value && value->is_bool() && value->get_bool();
}

const json::object* objectAt(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value && value->is_object() ? &value->get_object() : nullptr;
}

const json::array* arrayAt(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value && value->is_array() ? &value->get_array() : nullptr;
}

std::vector<std::string> stringsAt(const json::object& object, std::string_view key) {
  std::vector<std::string> out;
  if (const auto* array = arrayAt(object, key)) {
    for (const auto& value : *array) {
      if (value.is_string()) out.emplace_back(value.get_string());
    }
  }
  return out;
}

std::map<std::string, std::string> stringMapAt(const json::object& object, std::string_view key) {
  std::map<std::string, std::string> out;
  if (const auto* map = objectAt(object, key)) {
    for (const auto& [name, value] : *map) {
      if (value.is_string()) out.emplace(name, value.get_string());
    }
  }
  return out;
}

json::object toObject(const std::map<std::string, std::string>& map) {
  json::object out;
  for (const auto& [name, value] : map) out[name] = value;
  return out;
}

json::array toArray(const std::vector<std::string>& strings) {
  json::array out;
  for (const auto& value : strings) out.emplace_back(value);
  return out;
}

}  // namespace dhow::image::jsonread
