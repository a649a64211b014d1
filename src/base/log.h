// Logging: one line an event, `level component text`. log::info("node", "pod {} ready in {} ms", key, ms).
// Only log.cc knows the library behind it. Any thread.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace dhow::log {

enum class Level { kDebug, kInfo, kWarn, kError };

// Where lines go from now on: a file's path, or empty for standard error.
void configure(Level level, const std::string& file);
bool enabled(Level level);
void write(Level level, std::string_view component, std::string_view text);

template <class... Args>
void debug(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kDebug)) write(Level::kDebug, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void info(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kInfo)) write(Level::kInfo, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarn, component, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void error(std::string_view component, fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kError, component, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace dhow::log
