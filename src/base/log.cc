#include "base/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <memory>
#include <mutex>

namespace dhow::log {
namespace {

std::atomic<int> minimum{static_cast<int>(Level::kInfo)};
std::mutex mutex;

std::shared_ptr<spdlog::logger>& logger() {
  static std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("dhow", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    made->set_level(spdlog::level::trace);
    return made;
  }();
  return instance;
}

}  // namespace

void configure(Level level, const std::string& file) {
  minimum = static_cast<int>(level);
  if (file.empty()) return;
  std::lock_guard lock(mutex);
  try {
    logger()->sinks() = {std::make_shared<spdlog::sinks::basic_file_sink_mt>(file)};
    logger()->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    logger()->flush_on(spdlog::level::info);
  } catch (const spdlog::spdlog_ex& e) {
    logger()->warn("log: cannot open {}: {}", file, e.what());
  }
}

bool enabled(Level level) {
  return static_cast<int>(level) >= minimum.load(std::memory_order_relaxed);
}

void write(Level level, std::string_view component, std::string_view text) {
  if (!enabled(level)) return;
  static constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info,
                                                          spdlog::level::warn, spdlog::level::err};
  std::lock_guard lock(mutex);
  logger()->log(kLevels[static_cast<int>(level)], "{}: {}", component, text);
}

}  // namespace dhow::log
