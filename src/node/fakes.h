// The floors below, in memory, for tests of this folder.
#pragma once

#include <csignal>
#include <map>
#include <set>

#include "floors.h"
#include "pod_worker.h"
#include "runtime/runtime.h"

namespace dhow::node {

class FakeRuntime;

class FakeExec final : public runtime::Exec {
 public:
  explicit FakeExec(int code) : code_(code) {}
  pid_t pid() const override { return 4711; }
  Task<Result<runtime::ExitInfo>> wait() override { co_return exitInfo(); }
  std::optional<runtime::ExitInfo> exit() const override { return exitInfo(); }
  Task<Result<>> signal(int) override { co_return Result<>(); }
  Result<> resize(uint16_t, uint16_t) override { return {}; }

 private:
  runtime::ExitInfo exitInfo() const {
    runtime::ExitInfo exit;
    exit.code = code_;
    return exit;
  }
  int code_;
};

struct FakeContainer {
  runtime::ContainerSpec spec;
  runtime::ContainerStatus status;
  std::vector<int> signals;
};

class FakeSandbox final : public runtime::Sandbox {
 public:
  FakeSandbox(FakeRuntime& runtime, runtime::SandboxSpec spec) : runtime_(runtime), spec_(std::move(spec)) {}
  const std::string& id() const override { return spec_.id; }
  pid_t shimPid() const override { return 1; }
  std::string netPath() const override { return "/proc/self/ns/net"; }
  std::string ipcPath() const override { return {}; }
  std::string utsPath() const override { return {}; }
  bool alive() const override { return alive_; }
  const std::vector<std::pair<std::string, std::string>>& annotations() const override { return spec_.annotations; }
  const runtime::SandboxSpec& spec() const { return spec_; }

  Task<Result<runtime::Started>> start(runtime::ContainerSpec spec, std::vector<runtime::StreamOptions>) override;
  Task<Result<std::unique_ptr<runtime::Exec>>> exec(std::string containerId, runtime::ProcessSpec process,
                                                    runtime::StreamOptions) override;
  Task<Result<runtime::Streams>> attach(std::string, runtime::StreamOptions) override { co_return runtime::Streams(); }
  Task<Result<>> closeStdin(std::string) override { co_return Result<>(); }
  Task<Result<>> resize(std::string, uint16_t, uint16_t) override { co_return Result<>(); }
  Task<Result<>> signal(std::string id, int signal, bool) override;
  Task<Result<runtime::ExitInfo>> wait(std::string) override { co_return Error(Code::kUnimplemented, "not faked"); }
  Task<Result<>> pause(std::string) override { co_return Result<>(); }
  Task<Result<>> resume(std::string) override { co_return Result<>(); }
  Task<Result<>> update(std::string, runtime::Resources) override { co_return Result<>(); }
  Task<Result<runtime::Stats>> stats(std::string) override { co_return runtime::Stats(); }
  Task<Result<runtime::Stats>> stats() override { co_return runtime::Stats(); }
  Task<Result<std::vector<pid_t>>> processes(std::string) override { co_return std::vector<pid_t>(); }
  Task<Result<>> reopenLog(std::string) override { co_return Result<>(); }
  std::vector<runtime::ContainerStatus> containers() const override {
    std::vector<runtime::ContainerStatus> out;
    for (const auto& [id, container] : containers_) out.push_back(container.status);
    return out;
  }
  std::optional<runtime::ContainerStatus> container(const std::string& id) const override {
    auto found = containers_.find(id);
    if (found == containers_.end()) return std::nullopt;
    return found->second.status;
  }
  Task<Result<>> removeContainer(std::string id) override {
    containers_.erase(id);
    co_return Result<>();
  }
  Task<Result<>> remove() override;

  FakeRuntime& runtime_;
  runtime::SandboxSpec spec_;
  std::map<std::string, FakeContainer> containers_;
  bool alive_ = true;
};

class FakeRuntime final : public runtime::Runtime {
 public:
  explicit FakeRuntime(Loop& loop) : loop_(loop) {}
  Task<Result<Found>> findSandboxes() override {
    Found found;
    for (auto& [id, sandbox] : sandboxes_) found.sandboxes.push_back(sandbox);
    co_return found;
  }
  Task<Result<std::shared_ptr<runtime::Sandbox>>> createSandbox(runtime::SandboxSpec spec) override {
    ++created;
    if (!sandboxError.empty()) co_return Error(Code::kUnavailable, sandboxError);
    auto sandbox = std::make_shared<FakeSandbox>(*this, std::move(spec));
    sandboxes_[sandbox->id()] = sandbox;
    co_return std::static_pointer_cast<runtime::Sandbox>(sandbox);
  }
  Task<Result<>> checkUserNamespaces(std::string) override { co_return userNamespaces; }
  std::shared_ptr<runtime::Sandbox> sandbox(const std::string& id) const override {
    auto found = sandboxes_.find(id);
    return found == sandboxes_.end() ? nullptr : found->second;
  }
  std::vector<std::shared_ptr<runtime::Sandbox>> sandboxes() const override {
    std::vector<std::shared_ptr<runtime::Sandbox>> out;
    for (auto& [id, sandbox] : sandboxes_) out.push_back(sandbox);
    return out;
  }
  void onEvent(std::function<void(const runtime::Event&)> listener) override { listener_ = std::move(listener); }
  Task<Result<>> createMachine(runtime::MachineSpec) override { co_return Result<>(); }
  Task<Result<pid_t>> startMachine(std::string) override { co_return 1; }
  Task<Result<>> stopMachine(std::string, Duration) override { co_return Result<>(); }
  Task<Result<>> killMachine(std::string) override { co_return Result<>(); }
  Task<Result<>> removeMachine(std::string) override { co_return Result<>(); }
  Task<Result<std::vector<runtime::MachineStatus>>> machines() override {
    co_return std::vector<runtime::MachineStatus>();
  }
  Result<> removeCgroupParent() override { return {}; }
  int cgroupVersion() const override { return 1; }
  Task<> stop() override { co_return; }

  // The running container of that name, in any sandbox; null when there is none.
  FakeContainer* running(std::string_view name) {
    for (auto& [id, sandbox] : sandboxes_) {
      for (auto& [cid, container] : sandbox->containers_) {
        if (container.status.state != runtime::ContainerState::kRunning) continue;
        if (noteOf(container.status.annotations, kNoteContainer) == name) return &container;
      }
    }
    return nullptr;
  }
  // Its process ends. `silent`: as while no agent listens.
  void exit(std::string_view name, int code, bool silent = false) {
    for (auto& [id, sandbox] : sandboxes_) {
      for (auto& [cid, container] : sandbox->containers_) {
        if (container.status.state != runtime::ContainerState::kRunning) continue;
        if (noteOf(container.status.annotations, kNoteContainer) != name) continue;
        finish(*sandbox, container, code, silent);
        return;
      }
    }
  }
  void finish(FakeSandbox& sandbox, FakeContainer& container, int code, bool silent = false) {
    runtime::ExitInfo exit;
    exit.code = code;
    exit.time = loop_.wallNow();
    container.status.state = runtime::ContainerState::kExited;
    container.status.exit = exit;
    if (silent) return;
    runtime::Event event;
    event.sandboxId = sandbox.id();
    event.containerId = container.status.id;
    event.exit = exit;
    loop_.post([this, event] {
      if (listener_) listener_(event);
    });
  }
  void loseSandbox(const std::string& id) {
    auto found = sandboxes_.find(id);
    if (found == sandboxes_.end()) return;
    found->second->alive_ = false;
    runtime::Event event;
    event.kind = runtime::Event::Kind::kShimGone;
    event.sandboxId = id;
    loop_.post([this, event] {
      if (listener_) listener_(event);
    });
  }

  Loop& loop_;
  std::map<std::string, std::shared_ptr<FakeSandbox>> sandboxes_;
  std::function<void(const runtime::Event&)> listener_;
  std::vector<std::string> starts;  // names, in order
  std::set<std::string> deaf;       // containers that do not end at SIGTERM
  std::map<std::string, std::string> startErrors;
  std::vector<std::vector<std::string>> execs;
  int execCode = 0;
  int created = 0;
  Result<> userNamespaces;
  std::string sandboxError;
};

inline Task<Result<runtime::Started>> FakeSandbox::start(runtime::ContainerSpec spec,
                                                         std::vector<runtime::StreamOptions>) {
  const std::string name = noteOf(spec.annotations, kNoteContainer);
  auto failure = runtime_.startErrors.find(name);
  if (failure != runtime_.startErrors.end()) co_return Error(Code::kNotFound, failure->second);
  runtime_.starts.push_back(name);
  FakeContainer container;
  container.status.id = spec.id;
  container.status.pid = 100;
  container.status.startedAt = runtime_.loop_.wallNow();
  container.status.annotations = spec.annotations;
  container.spec = std::move(spec);
  runtime::Started started;
  started.pid = 100;
  started.startedAt = container.status.startedAt;
  containers_[container.status.id] = std::move(container);
  co_return started;
}

inline Task<Result<std::unique_ptr<runtime::Exec>>> FakeSandbox::exec(std::string, runtime::ProcessSpec process,
                                                                      runtime::StreamOptions) {
  runtime_.execs.push_back(process.args);
  co_return std::unique_ptr<runtime::Exec>(new FakeExec(runtime_.execCode));
}

inline Task<Result<>> FakeSandbox::signal(std::string id, int signal, bool) {
  auto found = containers_.find(id);
  if (found == containers_.end() || found->second.status.state != runtime::ContainerState::kRunning) {
    co_return Error(Code::kNotFound, "it has ended");
  }
  FakeContainer& container = found->second;
  container.signals.push_back(signal);
  const bool deaf = runtime_.deaf.contains(noteOf(container.status.annotations, kNoteContainer));
  if (signal == SIGKILL) {
    runtime_.finish(*this, container, 137);
  } else if (!deaf) {
    runtime_.finish(*this, container, 0);
  }
  co_return Result<>();
}

inline Task<Result<>> FakeSandbox::remove() {
  alive_ = false;
  containers_.clear();
  runtime_.sandboxes_.erase(std::string(spec_.id));
  co_return Result<>();
}

class FakeImages final : public Images {
 public:
  bool present(const std::string& reference) const override { return here.contains(reference); }
  Task<Result<image::ImagePtr>> ensure(std::string reference, image::PullPolicy policy, image::Keyring) override {
    ++ensured;
    if (!here.contains(reference)) {
      if (policy == image::PullPolicy::kNever) co_return Error(Code::kNotFound, "no such image");
      if (!registry.contains(reference)) co_return Error(Code::kNotFound, "manifest unknown");
      here.insert(reference);
    }
    auto image = std::make_shared<image::Image>();
    image->id = "sha256:" + reference;
    image->repoDigests = {reference + "@sha256:1"};
    image->config.run.cmd = {"/app"};
    image->config.run.env = {"FROM_IMAGE=yes"};
    image->contentSize = 1234;
    co_return image::ImagePtr(image);
  }
  Task<Result<image::Snapshot>> prepare(std::string imageId, std::string containerId) override {
    prepared.insert(containerId);
    image::Snapshot snapshot;
    snapshot.imageId = imageId;
    snapshot.lowers = {"/nonexistent"};
    snapshot.upper = "/nonexistent/u";
    snapshot.work = "/nonexistent/w";
    co_return snapshot;
  }
  Task<Result<>> removeSnapshot(std::string containerId) override {
    prepared.erase(containerId);
    co_return Result<>();
  }
  std::vector<std::string> snapshots() const override { return {prepared.begin(), prepared.end()}; }
  std::vector<image::ImagePtr> list() const override { return {}; }

  std::set<std::string> here{"web:1"}, registry, prepared;
  int ensured = 0;
};

class FakeNetwork final : public PodNetwork {
 public:
  Task<Result<Given>> acquire(std::string uid, bool) override {
    Given given;
    given.address = "10.244.1." + std::to_string(++next);
    given.hostInterface = "veth" + std::to_string(next);
    held[uid] = given.address;
    co_return given;
  }
  Result<> adopt(const std::string& uid, const std::string& address, const std::string&) override {
    held[uid] = address;
    return {};
  }
  void release(const std::string& uid) override { held.erase(uid); }
  Result<> publish(const std::string& uid, const std::vector<std::string>&,
                   const std::vector<HostPort>& ports) override {
    published[uid] = ports;
    return {};
  }
  std::map<std::string, std::string> held;
  std::map<std::string, std::vector<HostPort>> published;
  int next = 1;
};

class FakePolicies final : public PodPolicies {
 public:
  Task<Result<>> protect(ObjectPtr pod, std::vector<std::string> given) override {
    if (!error.empty()) co_return Error(Code::kUnavailable, error);
    addresses[std::string(pod->uid())] = given.front();
    co_return Result<>();
  }
  void adopt(ObjectPtr pod, const std::vector<std::string>& given) override {
    addresses[std::string(pod->uid())] = given.front();
  }
  void update(ObjectPtr pod) override { updated = std::move(pod); }
  void release(const std::string& podUid) override { addresses.erase(podUid); }
  std::map<std::string, std::string> addresses;
  ObjectPtr updated;
  std::string error;
};

class FakeTokens final : public Tokens {
 public:
  explicit FakeTokens(Loop& loop) : loop_(loop) {}
  Task<Result<Token>> request(std::string ns, std::string account, TokenRequest request, std::string,
                              std::string) override {
    if (!error.empty()) co_return Error(Code::kUnavailable, error);
    ++requests;
    co_return Token{fmt::format("{}/{}/{}", ns, account, requests),
                    loop_.wallNow() + std::chrono::seconds(request.expirationSeconds)};
  }
  Loop& loop_;
  int requests = 0;
  std::string error;
};

class FakeObjects final : public ObjectSource {
 public:
  void use(const std::string& user, std::vector<ObjectRef> refs, std::function<void()> changed) override {
    if (refs.empty()) {
      users.erase(user);
    } else {
      users[user] = std::move(changed);
    }
  }
  void seed(const ObjectRef& ref, ObjectPtr object) override { objects.emplace(ref, std::move(object)); }
  bool known(const ObjectRef&) const override { return true; }
  ObjectPtr find(const ObjectRef& ref) const override {
    auto found = objects.find(ref);
    return found == objects.end() ? nullptr : found->second;
  }
  void put(const ObjectRef& ref, ObjectPtr object) {
    objects[ref] = std::move(object);
    for (const auto& [user, changed] : std::map<std::string, std::function<void()>>(users)) changed();
  }
  std::map<ObjectRef, ObjectPtr> objects;
  std::map<std::string, std::function<void()>> users;
};

class FakeServices final : public ServiceSource {
 public:
  std::vector<ObjectPtr> services(std::string_view) const override { return all; }
  std::vector<ObjectPtr> all;
};

class FakeConnector final : public Connector {
 public:
  Task<Result<Answer>> httpGet(HttpGet request, Duration) override {
    gets.push_back(fmt::format("{}://{}:{}{}", request.scheme, request.host, request.port, request.path));
    if (status == 0) co_return Error(Code::kUnavailable, "connection refused");
    Answer answer;
    answer.status = status;
    co_return answer;
  }
  Task<Result<>> tcpConnect(std::string, uint16_t, Duration) override {
    if (status == 0) co_return Error(Code::kUnavailable, "connection refused");
    co_return Result<>();
  }
  Task<Result<>> grpcHealth(std::string, uint16_t, std::string, Duration) override {
    if (status == 0) co_return Error(Code::kUnavailable, "not serving");
    co_return Result<>();
  }
  int status = 200;  // 0: nobody listens
  std::vector<std::string> gets;
};

// Answers when the test says so.
class FakeBarrier final : public Barrier {
 public:
  explicit FakeBarrier(Loop& loop) : loop_(loop), answered_(loop) {}
  Task<Result<client::Drained>> pass(client::DrainQuestion pod) override {
    asked.push_back(std::move(pod));
    if (none) co_return Error(Code::kUnavailable, "connection refused");
    const size_t mine = asked.size();
    while (!answer_ || mine > answers_) co_await answered_.wait();
    co_return *answer_;
  }
  // To all questions so far.
  void answer(Result<client::Drained> answer) {
    answer_.emplace(std::move(answer));
    answers_ = asked.size();
    answered_.notify();
  }
  Task<Result<client::Held>> held(client::HeldQuestion question) override {
    heldAsked.push_back(question);
    if (none) co_return Error(Code::kUnavailable, "connection refused");
    const TimePoint end = loop_.now() + client::kHeldLimit;
    while (question.known == std::pair(holds.sessions, holds.connections) && loop_.now() < end)
      co_await answered_.waitFor(end - loop_.now());
    co_return holds;
  }
  void hold(client::Held now) {
    holds = std::move(now);
    answered_.notify();
  }
  std::vector<client::DrainQuestion> asked;
  std::vector<client::HeldQuestion> heldAsked;
  client::Held holds;
  bool none = false;  // no master answers

 private:
  Loop& loop_;
  std::optional<Result<client::Drained>> answer_;
  size_t answers_ = 0;
  Signal answered_;
};

class InlineOffload final : public Offload {
 public:
  Task<> run(std::function<void()> work) override {
    work();
    co_return;
  }
};

}  // namespace dhow::node
