// The column functions that api/ names. Private to this folder.
#pragma once

#include <boost/json/value.hpp>

#include <string_view>

#include "object/table.h"

namespace dhow::object::columns {

using Function = boost::json::value (*)(const Object& object, WallTime now);
struct Entry {
  std::string_view name;
  Function function;
};

inline constexpr std::string_view kPodSessions = "podSessions";  // TableOptions::podSessions knows better

Function find(std::string_view name);
std::span<const Entry> podColumns();
std::span<const Entry> otherColumns();
std::string age(std::optional<WallTime> time, WallTime now);  // "<unknown>" where missing

}  // namespace dhow::object::columns
