// One sandbox as the daemon sees it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/files.h"
#include "cgroup.h"
#include "link.h"
#include "plan.h"
#include "runtime/runtime.h"

namespace dhow::runtime {

// Ranges of ids for user namespaces. None is given out while processes may live in it.
class UserRanges {
 public:
  UserRanges(uint32_t first, uint32_t count) : first_(first / kUsersPerSandbox), count_(count) {}
  Result<uint32_t> take();
  void found(uint32_t user) { taken_.insert(user / kUsersPerSandbox); }
  void release(uint32_t user) { taken_.erase(user / kUsersPerSandbox); }

 private:
  uint32_t first_, count_, next_ = 0;
  std::set<uint32_t> taken_;
};

// What sandboxes share; owned by the Runtime, which outlives them.
struct Core {
  Loop& loop;
  BlockingPool& pool;
  Options options;
  Cgroups cgroups;
  std::vector<std::function<void(const Event&)>> listeners;
  std::map<std::string, std::shared_ptr<class SandboxImpl>> sandboxes;
  UserRanges users;

  void emit(const Event& event) const {
    for (const auto& listener : listeners) listener(event);
  }
};

// As it is kept in sandbox.json.
struct SandboxRecord {
  std::string id, cgroup;
  bool sharedPid = false;
  std::vector<std::pair<std::string, std::string>> annotations;
  std::optional<uint32_t> firstUser;  // root's id outside, in a user namespace of its own
};

struct ContainerRecord {
  explicit ContainerRecord(Loop& loop) : changed(loop) {}
  ContainerStatus status;
  std::string cgroup;
  bool starting = true;
  bool busy = false;  // being removed
  std::unique_ptr<OomWatch> oom;
  uint64_t oomKills = 0;  // those that were told
  bool oomTold = false;
  Signal changed;
};

struct ExecState {
  explicit ExecState(Loop& loop) : changed(loop) {}
  std::string id;
  pid_t pid = 0;
  bool gone = false;
  std::optional<ExitInfo> exit;
  Signal changed;
};

class SandboxImpl final : public Sandbox, public std::enable_shared_from_this<SandboxImpl> {
 public:
  SandboxImpl(Core& core, SandboxRecord record, UniqueFd socket);

  void begin(UniqueFd pidfd, pid_t pid);  // listens to the shim
  Task<Result<>> recover();               // asks the shim for what it minds
  Task<Result<wire::Message>> up() { return link_->up(); }
  void detach();  // closes the connection, leaves everything running

  const std::string& id() const override { return record_.id; }
  pid_t shimPid() const override { return shimPid_; }
  std::string netPath() const override { return nsPath("net"); }
  std::string ipcPath() const override { return nsPath("ipc"); }
  std::string utsPath() const override { return nsPath("uts"); }
  bool alive() const override { return alive_; }
  const std::vector<std::pair<std::string, std::string>>& annotations() const override { return record_.annotations; }

  Task<Result<Started>> start(ContainerSpec spec, std::vector<StreamOptions> attach) override;
  Task<Result<std::unique_ptr<Exec>>> exec(std::string containerId, ProcessSpec process,
                                           StreamOptions streams) override;
  Task<Result<Streams>> attach(std::string containerId, StreamOptions streams) override;
  Task<Result<>> closeStdin(std::string containerId) override;
  Task<Result<>> resize(std::string containerId, uint16_t rows, uint16_t columns) override;
  Task<Result<>> signal(std::string containerId, int signal, bool all) override;
  Task<Result<ExitInfo>> wait(std::string containerId) override;
  Task<Result<>> pause(std::string containerId) override;
  Task<Result<>> resume(std::string containerId) override;
  Task<Result<>> update(std::string containerId, Resources resources) override;
  Task<Result<Stats>> stats(std::string containerId) override;
  Task<Result<Stats>> stats() override;
  Task<Result<std::vector<pid_t>>> processes(std::string containerId) override;
  Task<Result<>> reopenLog(std::string containerId) override;
  std::vector<ContainerStatus> containers() const override;
  std::optional<ContainerStatus> container(const std::string& id) const override;
  Task<Result<>> removeContainer(std::string containerId) override;
  Task<Result<>> remove() override;

  std::string dir() const { return core_.options.stateDir + "/" + record_.id; }
  const std::string& cgroup() const { return record_.cgroup; }

 private:
  friend class ExecImpl;
  std::string nsPath(const char* name) const { return "/proc/" + std::to_string(shimPid_) + "/ns/" + name; }
  void received(const wire::Message& message);
  void exited(const wire::Message& message);
  void watchOom(const std::shared_ptr<ContainerRecord>& record, UniqueFd fd);
  void oomHappened(const std::shared_ptr<ContainerRecord>& record);
  void linkEnded();
  void shimGone();
  Task<> cleanAfterShim();
  Result<std::shared_ptr<ContainerRecord>> find(const std::string& containerId) const;
  Result<std::shared_ptr<ContainerRecord>> findRunning(const std::string& containerId) const;
  // A request about one container that has no more than an error for an answer.
  Task<Result<>> simple(wire::Type type, std::string containerId, int64_t a, int64_t b);
  Task<Result<>> freezeContainer(std::string containerId, bool frozen);

  Core& core_;
  SandboxRecord record_;
  std::shared_ptr<ShimLink> link_;
  std::unique_ptr<ProcessWatch> watch_;
  pid_t shimPid_ = 0;
  bool alive_ = true;
  bool removing_ = false;
  bool detached_ = false;
  std::map<std::string, std::shared_ptr<ContainerRecord>> containers_;
  std::map<std::string, std::shared_ptr<ExecState>> execs_;
};

ExitInfo exitOf(const wire::Message& message);
wire::Message request(wire::Type type, const std::string& id, int64_t a = 0, int64_t b = 0);
// The error of a failed plan: which step, and why; the command's own failure reads as people know it.
Error planError(const wire::Message& message, const CompiledPlan& plan, const std::string& command);
WallTime wallTime(int64_t nanos);
// Kills what is inside and removes the group. Normally everything has ended before, and it is done at once.
Task<Result<>> removeGroup(Core& core, std::string path);
// Sockets of a sandbox live in its folder; paths longer than a socket address are no problem.
Result<UniqueFd> listenAt(const std::string& dir);
Result<UniqueFd> connectAt(const std::string& dir);
std::string containerFile(const std::string& dir, const std::string& id);
Result<> saveSandbox(const std::string& dir, const SandboxRecord& record);
Result<SandboxRecord> loadSandbox(const std::string& dir);
Result<> saveContainer(const std::string& dir, const ContainerRecord& record);
Result<> loadContainer(const std::string& dir, const std::string& id, ContainerRecord& record);

}  // namespace dhow::runtime
