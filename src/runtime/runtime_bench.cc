// How long one container's life takes: create, start, exit and removal of busybox `true` with a memory limit,
// the default seccomp filter and a network namespace of its own. Needs root. A pause between lives lets the
// kernel take the last network namespace down, which holds locks. Usage: runtime_bench [lives [pause in ms [users]]];
// users: each with a user namespace of its own.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "test_world.h"

namespace dhow::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double millis(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

Task<bool> life(World& world, int number, bool users, std::map<std::string, std::vector<double>>& times) {
  auto spec = world.shell("");
  spec.process.args = {"/bin/true"};
  spec.id = "c";
  spec.inSandboxCgroup = true;
  spec.resources.memory = 64 << 20;
  auto a = Clock::now();
  auto box = co_await world.runtime->createSandbox({.id = "b" + std::to_string(number), .ownUsers = users});
  if (!box.ok()) co_return false;
  auto b = Clock::now();
  auto started = co_await (*box)->start(spec);
  if (!started.ok()) {
    std::fprintf(stderr, "%s\n", started.error().message().c_str());
    co_return false;
  }
  auto c = Clock::now();
  auto exit = co_await (*box)->wait("c");
  auto d = Clock::now();
  auto removed = co_await (*box)->remove();
  auto e = Clock::now();
  times["1 create"].push_back(millis(a, b));
  times["2 start"].push_back(millis(b, c));
  times["3 exit"].push_back(millis(c, d));
  times["4 remove"].push_back(millis(d, e));
  times["5 all"].push_back(millis(a, e));
  co_return exit.ok() && removed.ok();
}

// Of this program, and of the shims and containers that have been waited for: says more than the clock on a
// machine that is busy otherwise.
double cpuMillis() {
  double sum = 0;
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage{};
    ::getrusage(who, &usage);
    for (const timeval& time : {usage.ru_utime, usage.ru_stime})
      sum += static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
  }
  return sum;
}

int run(int lives, int pause, bool users) {
  World world;
  std::map<std::string, std::vector<double>> times;
  double cpu = 0;
  for (int i = 0; i < lives + 3; ++i) {
    if (i == 3) {
      times.clear();
      cpu = cpuMillis();
    }
    if (!runOn(world.loop, life(world, i, users, times))) return 1;
    if (pause) runOn(world.loop, world.loop.sleep(std::chrono::milliseconds(pause)));
  }
  std::printf("processor time %.3f ms a life\n", (cpuMillis() - cpu) / lives);
  for (auto& [name, values] : times) {
    std::sort(values.begin(), values.end());
    std::printf("%-10s median %7.3f ms   p95 %7.3f ms\n", name.c_str() + 2, values[values.size() / 2],
                values[values.size() * 95 / 100]);
  }
  return 0;
}

}  // namespace
}  // namespace dhow::runtime

int main(int argc, char** argv) {
  return dhow::runtime::run(argc > 1 ? std::atoi(argv[1]) : 200, argc > 2 ? std::atoi(argv[2]) : 0,
                            argc > 3 && std::string_view(argv[3]) == "users");
}
