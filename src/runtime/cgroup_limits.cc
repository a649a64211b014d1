// Limits: what a Resources says, as the files of each cgroup version want it.
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/files.h"
#include "base/strings.h"
#include "cgroup.h"

namespace dhow::runtime {

namespace {

std::string deviceLine(const DeviceRule& rule) {
  auto number = [](int64_t n) { return n < 0 ? std::string("*") : std::to_string(n); };
  if (rule.type == 'a') return "a";
  return std::string(1, rule.type) + " " + number(rule.major) + ":" + number(rule.minor) + " " + rule.access;
}

}  // namespace

uint64_t weightOfShares(uint64_t shares) {
  if (shares == 0) return 0;
  shares = std::clamp<uint64_t>(shares, 2, 262144);
  return 1 + (shares - 2) * 9999 / 262142;
}

std::vector<DeviceRule> defaultDeviceRules() {
  return {{false, 'a', -1, -1, "rwm"}, {true, 'c', -1, -1, "m"}, {true, 'b', -1, -1, "m"}, {true, 'c', 1, 3, "rwm"},
          {true, 'c', 1, 5, "rwm"},    {true, 'c', 1, 7, "rwm"}, {true, 'c', 1, 8, "rwm"}, {true, 'c', 1, 9, "rwm"},
          {true, 'c', 5, 0, "rwm"},    {true, 'c', 5, 1, "rwm"}, {true, 'c', 5, 2, "rwm"}, {true, 'c', 136, -1, "rwm"}};
}

void Cgroups::limitV1(const std::string& path, const Resources& r, std::vector<std::string>& warnings) const {
  auto set = [&](const char* controller, const char* file, const std::string& value) {
    const Hierarchy* hierarchy = of(controller);
    if (hierarchy && hierarchy->v2) return true;
    if (!hierarchy) {
      warnings.push_back(std::string("no cgroup controller \"") + controller + "\": " + file + " is not set");
      return true;
    }
    auto written = writeControlFile(dir(hierarchy, path) + "/" + file, value);
    if (!written.ok()) warnings.push_back(std::string(file) + ": " + written.error().message());
    return written.ok();
  };
  if (r.memory || r.memorySwap) {
    const char* memoryFile = "memory.limit_in_bytes";
    const char* swapFile = "memory.memsw.limit_in_bytes";
    const Hierarchy* memory = of("memory");
    bool swap = r.memorySwap && memory && !memory->v2 && pathExists(dir(memory, path) + "/" + swapFile);
    if (r.memorySwap && !swap && memory && !memory->v2)
      warnings.push_back("swap is not limited: the kernel does not count it");
    // The sum may never be below the memory limit on the way: growing sets the sum first, shrinking the memory.
    auto current =
        memory && swap ? readFile(dir(memory, path) + "/" + swapFile) : Result<std::string>(std::string("0"));
    auto sum = current.ok() ? parseUint(trim(*current)) : std::nullopt;
    bool growing = swap && (*r.memorySwap < 0 || (sum && static_cast<uint64_t>(*r.memorySwap) > *sum));
    if (growing) set("memory", swapFile, std::to_string(*r.memorySwap));
    if (r.memory) set("memory", memoryFile, std::to_string(*r.memory));
    if (swap && !growing) set("memory", swapFile, std::to_string(*r.memorySwap));
  }
  if (r.memoryReservation) set("memory", "memory.soft_limit_in_bytes", std::to_string(*r.memoryReservation));
  if (r.memorySwappiness) set("memory", "memory.swappiness", std::to_string(*r.memorySwappiness));
  if (r.oomKillDisable) set("memory", "memory.oom_control", "1");
  if (r.cpuShares) set("cpu", "cpu.shares", std::to_string(*r.cpuShares));
  if (r.cpuPeriod) set("cpu", "cpu.cfs_period_us", std::to_string(*r.cpuPeriod));
  if (r.cpuQuota) set("cpu", "cpu.cfs_quota_us", std::to_string(*r.cpuQuota));
  if (!r.cpusetCpus.empty()) set("cpuset", "cpuset.cpus", r.cpusetCpus);
  if (!r.cpusetMems.empty()) set("cpuset", "cpuset.mems", r.cpusetMems);
  if (r.pids) set("pids", "pids.max", *r.pids < 0 ? "max" : std::to_string(*r.pids));
  if (r.blkioWeight) {
    const Hierarchy* blkio = of("blkio");
    bool bfq = blkio && pathExists(dir(blkio, path) + "/blkio.bfq.weight");
    set("blkio", bfq ? "blkio.bfq.weight" : "blkio.weight", std::to_string(*r.blkioWeight));
  }
}

void Cgroups::limitV2(const std::string& path, const Resources& r, std::vector<std::string>& warnings) const {
  const Hierarchy* hierarchy = v2();
  if (!hierarchy) return;
  auto set = [&](const char* controller, const char* file, const std::string& value) {
    if (of(controller) != hierarchy) return;
    auto written = writeControlFile(dir(hierarchy, path) + "/" + file, value);
    if (!written.ok()) warnings.push_back(std::string(file) + ": " + written.error().message());
  };
  auto limit = [](int64_t value) { return value < 0 ? std::string("max") : std::to_string(value); };
  if (r.memory) set("memory", "memory.max", limit(*r.memory));
  if (r.memorySwap) {
    int64_t swap = *r.memorySwap < 0 ? -1 : std::max<int64_t>(0, *r.memorySwap - r.memory.value_or(0));
    set("memory", "memory.swap.max", limit(swap));
  }
  if (r.memoryReservation) set("memory", "memory.low", limit(*r.memoryReservation));
  if (r.cpuShares) set("cpu", "cpu.weight", std::to_string(weightOfShares(*r.cpuShares)));
  if (r.cpuQuota || r.cpuPeriod) {
    std::string quota = r.cpuQuota && *r.cpuQuota > 0 ? std::to_string(*r.cpuQuota) : "max";
    set("cpu", "cpu.max", quota + " " + std::to_string(r.cpuPeriod.value_or(100000)));
  }
  if (!r.cpusetCpus.empty()) set("cpuset", "cpuset.cpus", r.cpusetCpus);
  if (!r.cpusetMems.empty()) set("cpuset", "cpuset.mems", r.cpusetMems);
  if (r.pids) set("pids", "pids.max", limit(*r.pids));
  if (r.blkioWeight) {
    // 10 to 1000 onto 1 to 10000, as runc does.
    uint64_t weight = 1 + (std::clamp<uint64_t>(*r.blkioWeight, 10, 1000) - 10) * 9999 / 990;
    bool bfq = pathExists(dir(hierarchy, path) + "/io.bfq.weight");
    set("io", bfq ? "io.bfq.weight" : "io.weight", std::to_string(bfq ? *r.blkioWeight : weight));
  }
}

Result<> Cgroups::restrictDevices(const std::string& path, const Resources& resources) const {
  auto rules = defaultDeviceRules();
  rules.insert(rules.end(), resources.devices.begin(), resources.devices.end());
  const Hierarchy* devices = of("devices");
  if (devices) {
    for (const auto& rule : rules) {
      const char* file = rule.allow ? "/devices.allow" : "/devices.deny";
      RETURN_IF_ERROR(writeControlFile(dir(devices, path) + file, deviceLine(rule)));
    }
    return {};
  }
  if (const Hierarchy* hierarchy = v2()) return attachDeviceFilter(dir(hierarchy, path), rules);
  return Error(Code::kUnimplemented, "no device controller");
}

// The program gets {u32 access_type: type | access << 16, u32 major, u32 minor} and answers 1 for yes. Later
// rules win, so they are tried last to first.
Result<> attachDeviceFilter(const std::string& groupDir, const std::vector<DeviceRule>& rules) {
  std::vector<bpf_insn> code;
  auto emit = [&](uint8_t op, uint8_t dst, uint8_t src, int16_t off, int32_t imm) {
    bpf_insn insn{};
    insn.code = op;
    insn.dst_reg = dst & 15;
    insn.src_reg = src & 15;
    insn.off = off;
    insn.imm = imm;
    code.push_back(insn);
  };
  // r2 = type, r3 = access, r4 = major, r5 = minor
  emit(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0);
  emit(BPF_ALU | BPF_MOV | BPF_X, 3, 2, 0, 0);
  emit(BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff);
  emit(BPF_ALU | BPF_RSH | BPF_K, 3, 0, 0, 16);
  emit(BPF_LDX | BPF_MEM | BPF_W, 4, 1, 4, 0);
  emit(BPF_LDX | BPF_MEM | BPF_W, 5, 1, 8, 0);
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
    int32_t access = 0;
    for (char c : rule->access)
      access |= c == 'r' ? BPF_DEVCG_ACC_READ : c == 'w' ? BPF_DEVCG_ACC_WRITE : BPF_DEVCG_ACC_MKNOD;
    constexpr int32_t kAll = BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE | BPF_DEVCG_ACC_MKNOD;
    std::vector<size_t> misses;
    auto test = [&](uint8_t reg, int32_t value) {
      misses.push_back(code.size());
      emit(BPF_JMP32 | BPF_JNE | BPF_K, reg, 0, 0, value);
    };
    if (rule->type != 'a') {
      test(2, rule->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
      if (access != kAll) {
        // An allowing rule must cover everything asked for; a denying one bites on any part of it.
        emit(BPF_ALU | BPF_MOV | BPF_X, 0, 3, 0, 0);
        emit(BPF_ALU | BPF_AND | BPF_K, 0, 0, 0, rule->allow ? ~access & kAll : access);
        misses.push_back(code.size());
        emit(static_cast<uint8_t>(BPF_JMP32 | (rule->allow ? BPF_JNE : BPF_JEQ) | BPF_K), 0, 0, 0, 0);
      }
      if (rule->major >= 0) test(4, static_cast<int32_t>(rule->major));
      if (rule->minor >= 0) test(5, static_cast<int32_t>(rule->minor));
    }
    emit(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, rule->allow ? 1 : 0);
    emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    for (size_t miss : misses) code[miss].off = static_cast<int16_t>(code.size() - miss - 1);
    if (rule->type == 'a') break;  // nothing after it is reached
  }
  if (code.back().code != (BPF_JMP | BPF_EXIT) || rules.empty() || rules.front().type != 'a') {
    emit(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
    emit(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  }
  bpf_attr load{};
  load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  load.insns = reinterpret_cast<uint64_t>(code.data());
  load.insn_cnt = static_cast<uint32_t>(code.size());
  load.license = reinterpret_cast<uint64_t>("Apache-2.0");
  UniqueFd program(static_cast<int>(::syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load)));
  if (!program) return Error::fromErrno("load a device filter");
  UniqueFd group(::open(groupDir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!group) return Error::fromErrno("open " + groupDir);
  bpf_attr attach{};
  attach.target_fd = static_cast<uint32_t>(group.get());
  attach.attach_bpf_fd = static_cast<uint32_t>(program.get());
  attach.attach_type = BPF_CGROUP_DEVICE;
  attach.attach_flags = BPF_F_ALLOW_MULTI;
  if (::syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach) != 0)
    return Error::fromErrno("attach a device filter");
  return {};
}

}  // namespace dhow::runtime
