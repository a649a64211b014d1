// What benches share that run two ends in one process. Prints what went wrong, and ends.
#pragma once

#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>

#include "base/result.h"

namespace dhow::bench {

inline void must(Result<> result) {
  if (result.ok()) return;
  std::fprintf(stderr, "%s\n", result.error().message().c_str());
  std::exit(1);
}
template <class T>
T must(Result<T> result) {
  if (!result.ok()) must(Result<>(result.error()));
  return std::move(*result);
}

// Of this process; packets are worked off inside the calls that send them.
inline double cpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace dhow::bench
