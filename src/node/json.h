// Short names for reading API documents (client/fields.h) and times as the API writes them.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include "base/time.h"
#include "client/fields.h"
#include "object/quantity.h"

namespace dhow::node {

namespace json = boost::json;
using client::array;
using client::field;
using client::flag;
using client::number;
using client::object;
using client::ObjectPtr;
using client::strings;
using client::text;
using dhow::object::Object;
using dhow::object::Resource;

// Map entries whose values are text.
inline std::vector<std::pair<std::string, std::string>> textMap(const json::object& values) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [key, value] : values) {
    if (value.is_string()) out.emplace_back(std::string(key), std::string(value.get_string()));
  }
  return out;
}

// A status for a strategic merge patch that takes these lists' place, where a merge would keep elements that are gone,
// or one of several with the same key.
inline json::object replacing(json::object status, std::initializer_list<std::string_view> lists) {
  for (std::string_view name : lists) {
    if (status.contains(name)) client::arrayAt(status, name).push_back(json::object{{"$patch", "replace"}});
  }
  return status;
}

// The element of `list` whose "name" is `name`; null when there is none.
inline const json::object* named(const json::array& list, std::string_view name) {
  for (const json::value& value : list) {
    if (value.is_object() && text(value.get_object(), "name") == name) return &value.get_object();
  }
  return nullptr;
}

inline std::optional<int64_t> quantityValue(std::string_view text) {
  auto quantity = dhow::object::Quantity::parse(text);
  return quantity.ok() ? std::optional(quantity->value()) : std::nullopt;
}
inline std::optional<int64_t> quantityMilli(std::string_view text) {
  auto quantity = dhow::object::Quantity::parse(text);
  return quantity.ok() ? std::optional(quantity->milliValue()) : std::nullopt;
}

inline json::string timeValue(WallTime time) {
  return json::string(formatTime(time));
}

}  // namespace dhow::node
