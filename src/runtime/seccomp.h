// Seccomp filters, compiled from rules to the kernel's classic BPF by libseccomp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/spec.h"

namespace dhow::runtime {

struct SeccompArg {
  unsigned index = 0;
  uint64_t value = 0, valueTwo = 0;
  std::string op;  // SCMP_CMP_EQ, ...
};

struct SeccompRule {
  std::vector<std::string> names;
  std::string action = "SCMP_ACT_ALLOW";
  int errnoRet = 1;  // EPERM
  std::vector<SeccompArg> args;
};

struct SeccompProfile {
  std::string defaultAction = "SCMP_ACT_ERRNO";
  int defaultErrno = 1;
  std::vector<SeccompRule> rules;
};

// Docker's default profile for a process that holds `capabilities`, on this architecture.
SeccompProfile defaultSeccomp(uint64_t capabilities);
// A profile in the OCI form, or in Docker's with includes and excludes.
Result<SeccompProfile> parseSeccomp(const std::string& json, uint64_t capabilities);
// The bytes of an array of sock_filter. Blocks for some milliseconds; any thread.
Result<std::string> compileSeccomp(const SeccompProfile& profile);
// All of it, remembered by its inputs; empty: no filter. Any thread.
Result<std::string> seccompFilter(const ProcessSpec& process, uint64_t capabilities);

}  // namespace dhow::runtime
