// How docker's command line shows tables, sizes, ages and JSON.
#include <boost/json/serialize.hpp>

#include <chrono>
#include <cmath>

#include "base/strings.h"
#include "docker.h"

namespace dhow::cli::docker {

namespace {

constexpr size_t kLeastColumn = 10, kGap = 3;

// Bytes that begin a character: those are what takes a place on the screen.
size_t width(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void append(std::string& out, const json::value& value, size_t depth) {
  auto indent = [&](size_t to) { out += "\n" + std::string(to * 4, ' '); };
  if (value.is_object() && !value.get_object().empty()) {
    out += "{";
    bool first = true;
    for (const auto& [key, item] : value.get_object()) {
      if (!std::exchange(first, false)) out += ",";
      indent(depth + 1);
      out += json::serialize(json::value(json::string(key))) + ": ";
      append(out, item, depth + 1);
    }
    indent(depth);
    out += "}";
  } else if (value.is_array() && !value.get_array().empty()) {
    out += "[";
    bool first = true;
    for (const auto& item : value.get_array()) {
      if (!std::exchange(first, false)) out += ",";
      indent(depth + 1);
      append(out, item, depth + 1);
    }
    indent(depth);
    out += "]";
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

std::string table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width(row[i]) + kGap);
  }
  std::string out;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out += std::string(std::max(widths[i], kLeastColumn) - width(row[i]), ' ');
    }
    out += "\n";
  }
  return out;
}

std::string humanSize(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < std::size(kUnits)) {
    bytes /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g}{}", bytes, kUnits[unit]);
}

std::string humanAgo(int64_t unixSeconds) {
  auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  int64_t s = now - unixSeconds, m = s / 60, h = (s + 1800) / 3600;
  auto text = [&]() -> std::string {
    if (s < 1) return "Less than a second";
    if (s == 1) return "1 second";
    if (s < 60) return fmt::format("{} seconds", s);
    if (m == 1) return "About a minute";
    if (m < 60) return fmt::format("{} minutes", m);
    if (h == 1) return "About an hour";
    if (h < 48) return fmt::format("{} hours", h);
    if (h < 24 * 14) return fmt::format("{} days", h / 24);
    if (h < 24 * 60) return fmt::format("{} weeks", h / 24 / 7);
    if (h < 24 * 365 * 2) return fmt::format("{} months", h / 24 / 30);
    return fmt::format("{} years", h / 24 / 365);
  };
  return text() + " ago";
}

std::string shortId(std::string_view id) {
  if (auto colon = id.find(':'); colon != std::string_view::npos) id.remove_prefix(colon + 1);
  return std::string(id.substr(0, 12));
}

std::string pretty(const json::value& value) {
  std::string out;
  append(out, value, 0);
  return out;
}

const json::value& at(const json::value& object, std::string_view name) {
  static const json::value kNull;
  if (!object.is_object()) return kNull;
  auto* value = object.get_object().if_contains(name);
  return value ? *value : kNull;
}

std::string stringAt(const json::value& object, std::string_view name) {
  const auto& value = at(object, name);
  return value.is_string() ? std::string(value.get_string()) : std::string();
}

int64_t numberAt(const json::value& object, std::string_view name) {
  const auto& value = at(object, name);
  if (value.is_int64()) return value.get_int64();
  if (value.is_uint64()) return static_cast<int64_t>(value.get_uint64());
  return value.is_double() ? static_cast<int64_t>(value.get_double()) : 0;
}

bool boolAt(const json::value& object, std::string_view name) {
  const auto& value = at(object, name);
  return value.is_bool() && value.get_bool();
}

Result<int64_t> parseSize(const std::string& text) {
  char* end = nullptr;
  double number = std::strtod(text.c_str(), &end);
  auto unit = toLower(end ? end : "");
  if (unit.ends_with("ib"))
    unit.resize(unit.size() - 2);
  else if (unit.size() == 2 && unit.ends_with("b"))
    unit.resize(1);
  static constexpr std::string_view kUnits = "bkmgtp";
  size_t power = unit.empty() ? 0 : kUnits.find(unit);
  if (end == text.c_str() || !std::isfinite(number) || number < 0 || unit.size() > 1 || power == std::string_view::npos)
    return Error(Code::kInvalid, "invalid size: '" + text + "'");
  return static_cast<int64_t>(number * std::pow(1024.0, static_cast<double>(power)));
}

}  // namespace dhow::cli::docker
