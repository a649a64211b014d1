#include "capabilities.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/strings.h"

namespace dhow::runtime {

namespace {

// In the order of their numbers (linux/capability.h).
constexpr std::string_view kNames[] = {"chown",
                                       "dac_override",
                                       "dac_read_search",
                                       "fowner",
                                       "fsetid",
                                       "kill",
                                       "setgid",
                                       "setuid",
                                       "setpcap",
                                       "linux_immutable",
                                       "net_bind_service",
                                       "net_broadcast",
                                       "net_admin",
                                       "net_raw",
                                       "ipc_lock",
                                       "ipc_owner",
                                       "sys_module",
                                       "sys_rawio",
                                       "sys_chroot",
                                       "sys_ptrace",
                                       "sys_pacct",
                                       "sys_admin",
                                       "sys_boot",
                                       "sys_nice",
                                       "sys_resource",
                                       "sys_time",
                                       "sys_tty_config",
                                       "mknod",
                                       "lease",
                                       "audit_write",
                                       "audit_control",
                                       "setfcap",
                                       "mac_override",
                                       "mac_admin",
                                       "syslog",
                                       "wake_alarm",
                                       "block_suspend",
                                       "audit_read",
                                       "perfmon",
                                       "bpf",
                                       "checkpoint_restore"};
constexpr uint64_t kAll = (1ull << std::size(kNames)) - 1;
constexpr std::string_view kDefaults[] = {
    "chown",  "dac_override", "fsetid",  "fowner",           "mknod",      "net_raw", "setgid",
    "setuid", "setfcap",      "setpcap", "net_bind_service", "sys_chroot", "kill",    "audit_write"};

Result<uint64_t> bitsOf(const std::vector<std::string>& names) {
  uint64_t out = 0;
  for (const auto& name : names) {
    ASSIGN_OR_RETURN(uint64_t bit, capabilityBit(name));
    out |= bit;
  }
  return out;
}

bool hasAll(const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return equalsIgnoreCase(name, "ALL") || equalsIgnoreCase(name, "CAP_ALL");
  });
}

}  // namespace

Result<uint64_t> capabilityBit(std::string_view name) {
  std::string lower = toLower(name);
  std::string_view plain = lower;
  if (plain.starts_with("cap_")) plain.remove_prefix(4);
  if (plain == "all") return kAll;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == plain) return 1ull << i;
  }
  return Error(Code::kInvalid, "invalid capability \"" + std::string(name) + "\"");
}

Result<uint64_t> capabilitiesOf(const ProcessSpec& process) {
  if (process.capabilities) return bitsOf(*process.capabilities);
  ASSIGN_OR_RETURN(uint64_t add, bitsOf(process.capAdd));
  ASSIGN_OR_RETURN(uint64_t drop, bitsOf(process.capDrop));
  if (process.privileged) return kAll;
  uint64_t base = 0;
  for (auto name : kDefaults) base |= *capabilityBit(name);
  if (hasAll(process.capDrop)) return hasAll(process.capAdd) ? kAll : add;
  return (base | add) & ~drop;
}

uint64_t permittedCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) return 0;
  return data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32;
}

}  // namespace dhow::runtime
