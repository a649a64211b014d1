// Usage, from the files of each cgroup version.
#include "base/files.h"
#include "base/strings.h"
#include "cgroup.h"

namespace dhow::runtime {

namespace {

uint64_t number(const std::string& file) {
  auto text = readFile(file);
  return text.ok() ? parseUint(trim(*text)).value_or(0) : 0;
}

// Lines of "key value".
std::map<std::string, uint64_t> table(const std::string& file) {
  std::map<std::string, uint64_t> out;
  auto text = readFile(file);
  if (!text.ok()) return out;
  for (const auto& line : split(*text, '\n')) {
    auto pair = splitOnce(line, ' ');
    if (pair) out[std::string(pair->first)] = parseUint(trim(pair->second)).value_or(0);
  }
  return out;
}

uint64_t limitOf(uint64_t value) {
  return value >= (1ull << 62) ? 0 : value;
}

}  // namespace

uint64_t Cgroups::oomKills(const std::string& path) const {
  const Hierarchy* memory = of("memory");
  if (!memory) return 0;
  return table(dir(memory, path) + (memory->v2 ? "/memory.events" : "/memory.oom_control"))["oom_kill"];
}

bool Cgroups::oomStruck(const std::string& path, uint64_t told) const {
  const Hierarchy* memory = of("memory");
  if (!memory) return false;
  return memory->v2 ? oomKills(path) > told : pathExists(dir(memory, path));
}

Stats Cgroups::stats(const std::string& path) const {
  Stats out;
  statsV1(path, out);
  statsV2(path, out);
  out.oomKills = oomKills(path);
  out.memoryWorkingSet = out.memoryUsage > out.memoryInactiveFile ? out.memoryUsage - out.memoryInactiveFile : 0;
  return out;
}

void Cgroups::statsV1(const std::string& path, Stats& out) const {
  auto at = [&](const char* controller) {
    const Hierarchy* hierarchy = of(controller);
    return hierarchy && !hierarchy->v2 ? dir(hierarchy, path) : std::string();
  };
  if (std::string folder = at("cpuacct"); !folder.empty()) {
    out.cpuUsageNanos = number(folder + "/cpuacct.usage");
    auto usage = readFile(folder + "/cpuacct.usage_percpu");
    if (usage.ok()) {
      for (const auto& part : split(trim(*usage), ' ')) {
        if (auto value = parseUint(part)) out.cpuPerCpuNanos.push_back(*value);
      }
    }
    auto parts = table(folder + "/cpuacct.stat");  // USER_HZ, 100 on Linux
    out.cpuUserNanos = parts["user"] * 10000000;
    out.cpuSystemNanos = parts["system"] * 10000000;
  }
  if (std::string folder = at("cpu"); !folder.empty()) {
    auto parts = table(folder + "/cpu.stat");
    out.cpuPeriods = parts["nr_periods"];
    out.cpuThrottledPeriods = parts["nr_throttled"];
    out.cpuThrottledNanos = parts["throttled_time"];
  }
  if (std::string folder = at("memory"); !folder.empty()) {
    out.memoryUsage = number(folder + "/memory.usage_in_bytes");
    out.memoryMaxUsage = number(folder + "/memory.max_usage_in_bytes");
    out.memoryLimit = limitOf(number(folder + "/memory.limit_in_bytes"));
    out.memoryFailCount = number(folder + "/memory.failcnt");
    auto parts = table(folder + "/memory.stat");
    out.memoryRss = parts["total_rss"];
    out.memoryCache = parts["total_cache"];
    out.memoryInactiveFile = parts["total_inactive_file"];
    out.memoryPageFaults = parts["total_pgfault"];
    out.memoryMajorPageFaults = parts["total_pgmajfault"];
  }
  if (std::string folder = at("pids"); !folder.empty()) {
    out.pids = number(folder + "/pids.current");
    out.pidsLimit = number(folder + "/pids.max");
  }
  if (std::string folder = at("blkio"); !folder.empty()) {
    auto sum = [&](const char* file, uint64_t& reads, uint64_t& writes) {
      auto text = readFile(folder + file);
      if (!text.ok()) return;
      for (const auto& line : split(*text, '\n')) {
        auto fields = split(line, ' ');  // "8:0 Read 4096"
        if (fields.size() != 3) continue;
        if (fields[1] == "Read") reads += parseUint(fields[2]).value_or(0);
        if (fields[1] == "Write") writes += parseUint(fields[2]).value_or(0);
      }
    };
    sum("/blkio.throttle.io_service_bytes_recursive", out.ioReadBytes, out.ioWriteBytes);
    sum("/blkio.throttle.io_serviced_recursive", out.ioReads, out.ioWrites);
  }
}

void Cgroups::statsV2(const std::string& path, Stats& out) const {
  const Hierarchy* hierarchy = v2();
  if (!hierarchy) return;
  std::string folder = dir(hierarchy, path);
  auto has = [&](const char* controller) { return of(controller) == hierarchy; };
  if (has("cpu") || hierarchies_.size() == 1) {
    auto parts = table(folder + "/cpu.stat");
    out.cpuUsageNanos = parts["usage_usec"] * 1000;
    out.cpuUserNanos = parts["user_usec"] * 1000;
    out.cpuSystemNanos = parts["system_usec"] * 1000;
    out.cpuPeriods = parts["nr_periods"];
    out.cpuThrottledPeriods = parts["nr_throttled"];
    out.cpuThrottledNanos = parts["throttled_usec"] * 1000;
  }
  if (has("memory")) {
    out.memoryUsage = number(folder + "/memory.current");
    out.memoryMaxUsage = number(folder + "/memory.peak");
    out.memoryLimit = number(folder + "/memory.max");
    auto events = table(folder + "/memory.events");
    out.memoryFailCount = events["max"];
    auto parts = table(folder + "/memory.stat");
    out.memoryRss = parts["anon"];
    out.memoryCache = parts["file"];
    out.memoryInactiveFile = parts["inactive_file"];
    out.memoryPageFaults = parts["pgfault"];
    out.memoryMajorPageFaults = parts["pgmajfault"];
  }
  if (has("pids")) {
    out.pids = number(folder + "/pids.current");
    out.pidsLimit = number(folder + "/pids.max");
  }
  if (has("io")) {
    auto text = readFile(folder + "/io.stat");
    if (!text.ok()) return;
    for (const auto& line : split(*text, '\n')) {
      for (const auto& field : split(line, ' ')) {
        auto pair = splitOnce(field, '=');
        if (!pair) continue;
        uint64_t value = parseUint(pair->second).value_or(0);
        if (pair->first == "rbytes") out.ioReadBytes += value;
        if (pair->first == "wbytes") out.ioWriteBytes += value;
        if (pair->first == "rios") out.ioReads += value;
        if (pair->first == "wios") out.ioWrites += value;
      }
    }
  }
}

}  // namespace dhow::runtime
