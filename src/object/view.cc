#include "object/view.h"

#include "base/strings.h"

namespace dhow::api::view {

const json::value* at(const json::object* object, std::string_view key) {
  if (!object) return nullptr;
  const json::value* value = object->if_contains(key);
  return value && !value->is_null() ? value : nullptr;
}

std::string_view string(const json::object* object, std::string_view key) {
  const json::value* value = at(object, key);
  return value && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

int64_t integer(const json::object* object, std::string_view key) {
  const json::value* value = at(object, key);
  if (!value) return 0;
  if (value->is_int64()) return value->get_int64();
  if (value->is_double() && value->get_double() > -9e15 && value->get_double() < 9e15)
    return static_cast<int64_t>(value->get_double());
  return 0;
}

bool boolean(const json::object* object, std::string_view key) {
  const json::value* value = at(object, key);
  return value && value->is_bool() && value->get_bool();
}

double real(const json::object* object, std::string_view key) {
  const json::value* value = at(object, key);
  if (!value) return 0;
  if (value->is_double()) return value->get_double();
  return value->is_int64() ? static_cast<double>(value->get_int64()) : 0;
}

std::optional<WallTime> time(const json::object* object, std::string_view key) {
  return parseTime(string(object, key));
}

std::string bytes(const json::object* object, std::string_view key) {
  return fromBase64(string(object, key)).value_or(std::string());
}

const json::object* object(const json::object* parent, std::string_view key) {
  const json::value* value = at(parent, key);
  return value ? value->if_object() : nullptr;
}

const json::array* array(const json::object* parent, std::string_view key) {
  const json::value* value = at(parent, key);
  return value ? value->if_array() : nullptr;
}

const json::object& orEmpty(const json::object* object) {
  static const json::object empty;
  return object ? *object : empty;
}

}  // namespace dhow::api::view
