// CHECK(condition, "format", args...): aborts with the text when one of our own invariants is broken. Never for
// anything that a peer, a file or the kernel can cause: that is a Result.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace dhow {
[[noreturn]] void checkFailed(const char* file, int line, const char* condition, std::string_view message);
}

#define CHECK(condition, ...)                                                             \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::dhow::checkFailed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
  } while (false)
