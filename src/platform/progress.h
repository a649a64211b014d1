// How commands that take a while tell what they have done.
#pragma once

#include <functional>
#include <string>

#include "base/loop.h"

namespace dhow::platform {

// Called as each step ends: what it was and how long it took.
using Progress = std::function<void(const std::string& step, Duration took)>;

struct Stopwatch {
  Loop& loop;
  Progress progress;
  TimePoint started = loop.now();
  void step(const std::string& name) {
    if (progress) progress(name, loop.now() - started);
    started = loop.now();
  }
};

}  // namespace dhow::platform
