// Forgiving reads of JSON that others wrote: a missing or mistyped field is its default.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dhow::image::jsonread {

Result<boost::json::object> parseObject(std::string_view text, std::string_view what);
Result<boost::json::value> parseValue(std::string_view text, std::string_view what);
std::string stringAt(const boost::json::object& object, std::string_view key);
int64_t intAt(const boost::json::object& object, std::string_view key, int64_t otherwise);
bool boolAt(const boost::json::object& object, std::string_view key);
const boost::json::object* objectAt(const boost::json::object& object, std::string_view key);
const boost::json::array* arrayAt(const boost::json::object& object, std::string_view key);
std::vector<std::string> stringsAt(const boost::json::object& object, std::string_view key);
std::map<std::string, std::string> stringMapAt(const boost::json::object& object, std::string_view key);
boost::json::object toObject(const std::map<std::string, std::string>& map);
boost::json::array toArray(const std::vector<std::string>& strings);

}  // namespace dhow::image::jsonread
