// Compiles specs into plans for the shim (wire.h). Every decision of a start is taken here.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "cgroup.h"
#include "runtime/spec.h"
#include "wire.h"

namespace dhow::runtime {

class PlanWriter {
 public:
  PlanWriter();
  wire::Plan& head() { return plan_; }
  uint32_t text(std::string_view text);   // NUL-terminated; 0 for an empty one
  uint32_t blob(std::string_view bytes);  // 8-aligned
  wire::Step& add(wire::Op op, uint32_t flags = 0);
  wire::Step& add(wire::Op op, std::string_view path, uint32_t flags = 0);
  // The whole plan, as a sealed memory file. kTooLarge above wire::kMaxPlan.
  Result<UniqueFd> seal(std::vector<std::string>* names);
  const std::vector<std::string>& names() const { return names_; }

 private:
  wire::Plan plan_{};
  std::vector<wire::Step> steps_;
  std::vector<std::string> names_;  // of each step, for messages
  std::string data_;                // offsets are from the start of data_ until seal()
};

struct CompiledPlan {
  UniqueFd file;
  std::vector<std::string> stepNames;  // "mount /proc", to tell what failed
  size_t execStep = 0;                 // its failure is the command's, not ours
  std::vector<std::string> warnings;
};

inline constexpr uint32_t kUsersPerSandbox = 65536;  // as kubelets give to a pod

// `firstUser`: the id outside that is root inside; none: no user namespace of its own.
Result<CompiledPlan> compileSandbox(const SandboxSpec& spec, const std::string& stateDir,
                                    std::optional<uint32_t> firstUser);
// Makes a user namespace and shows `folder` with its ids, to no other end.
Result<CompiledPlan> compileUsersCheck(const SandboxSpec& spec, const std::string& stateDir, uint32_t firstUser,
                                       const std::string& folder);

struct ContainerContext {
  std::string mountPoint;  // an existing folder over which the root is put together
  GroupEntry group;
  bool sharedPid = false;             // the sandbox has a pid namespace to share
  std::optional<uint32_t> firstUser;  // as in compileSandbox()
};
Result<CompiledPlan> compileContainer(const ContainerSpec& spec, const ContainerContext& context);
// What an exec joins: the first process' namespaces that are not the sandbox's anyway.
Result<CompiledPlan> compileExec(const ProcessSpec& process, const std::string& containerId, const std::string& execId,
                                 const GroupEntry& group, std::optional<uint32_t> firstUser);

Result<> checkId(std::string_view id, std::string_view what);

// How a process comes into the user namespace of its sandbox.
struct EnterUsers {
  uint32_t first = 0;      // its root's id outside
  uint64_t fresh = 0;      // namespaces to make there
  bool ownMounts = false;  // one for mounts, too, if the process may mount
};
// The last part of a plan: who the process is, what it may do, and the exec.
Result<> addProcess(PlanWriter& writer, const ProcessSpec& process, bool init, const std::optional<EnterUsers>& users,
                    std::vector<std::string>& warnings);
// The mounts of a container: everything up to the pivot goes first, the rest after it.
Result<> addFileSystem(PlanWriter& writer, const ContainerSpec& spec, const ContainerContext& context);

}  // namespace dhow::runtime
