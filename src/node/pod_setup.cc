// What a pod needs before its containers: volumes and the sandbox. Both are set up at the same time, each tried again
// until it succeeds.
#include <boost/json/parse.hpp>

#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/time.h"
#include "pod_worker.h"
#include "volume_files.h"

namespace dhow::node {

namespace {

Duration retryDelay(int failures) {
  return std::min<Duration>(std::chrono::milliseconds(500) * (1 << std::min(failures, 8)), std::chrono::minutes(2));
}

std::string keyOf(const ObjectRef& ref) {
  return ref.kind + "/" + ref.name;
}

}  // namespace

std::vector<HostPort> PodWorker::hostPorts() const {
  std::vector<HostPort> out;
  const json::object& spec = podSpec();
  if (flag(spec, {"hostNetwork"})) return out;
  for (std::string_view list : {"initContainers", "containers"}) {
    for (const json::value& entry : array(spec, {list})) {
      if (!entry.is_object()) continue;
      for (const json::value& value : array(entry.get_object(), {"ports"})) {
        if (!value.is_object()) continue;
        const json::object& port = value.get_object();
        const int64_t hostPort = number(port, {"hostPort"}, 0);
        if (hostPort <= 0 || hostPort > 65535) continue;
        std::string_view protocol = text(port, "protocol");
        out.push_back({std::string(text(port, "hostIP")), static_cast<uint16_t>(hostPort),
                       static_cast<uint16_t>(number(port, {"containerPort"}, 0)),
                       std::string(protocol.empty() ? "TCP" : protocol)});
      }
    }
  }
  return out;
}

void PodWorker::beginSetUp() {
  setUpBegun_ = true;
  settledAt_ = loop_.now() + std::chrono::milliseconds(100);
  context_.objects.use(uid_, referencedObjects(pod_->root()), [this] { objectsChanged(); });
  refreshVolumes();
  if (!sandboxRunning_) {
    sandboxRunning_ = true;
    gate_.spawn(setUpSandbox(this));
  }
  // Two minutes without a volume are worth an event, as users look for it there.
  volumeComplaint_ = loop_.after(std::chrono::minutes(2), [this] {
    if (volumesReady_ || leaving() || volumeProblem_.empty()) return;
    context_.events.warning(
        *pod_, "FailedMount",
        "Unable to attach or mount volumes: " + volumeProblem_ + ": timed out waiting for the condition");
  });
}

void PodWorker::seedObjects() {
  auto bytes = readFile(paths_.objects(), 16 << 20);
  if (!bytes.ok()) return;
  boost::system::error_code failed;
  json::value parsed = json::parse(*bytes, failed);
  if (failed || !parsed.is_object()) return;
  for (const ObjectRef& ref : referencedObjects(pod_->root())) {
    const json::value* document = parsed.get_object().if_contains(keyOf(ref));
    if (document != nullptr && document->is_object()) context_.objects.seed(ref, Object::make(document->get_object()));
  }
}

void PodWorker::keepObjects() {
  json::object all;
  for (const ObjectRef& ref : referencedObjects(pod_->root())) {
    if (ObjectPtr found = context_.objects.find(ref)) all[keyOf(ref)] = found->root();
  }
  if (all.empty()) return;
  auto written = writeFile(paths_.objects(), json::serialize(all), 0600);
  if (!written.ok()) log::warn("node", "pod {}: {}", describe(), written.error().message());
}

void PodWorker::seedTokens() {
  auto bytes = readFile(paths_.tokens(), 1 << 20);
  if (!bytes.ok()) return;
  boost::system::error_code failed;
  json::value parsed = json::parse(*bytes, failed);
  if (failed || !parsed.is_array()) return;
  for (const json::value& value : parsed.get_array()) {
    if (!value.is_object()) continue;
    const json::object& entry = value.get_object();
    auto expires = client::time(entry, {"expires"});
    TokenRequest request{std::string(text(entry, "audience")), number(entry, {"expirationSeconds"}, 0)};
    if (expires) tokens_[request] = {std::string(text(entry, "token")), *expires};
  }
}

void PodWorker::keepTokens() {
  json::array all;
  for (const auto& [request, token] : tokens_) {
    all.push_back(json::object{{"audience", request.audience},
                               {"expirationSeconds", request.expirationSeconds},
                               {"token", token.token},
                               {"expires", formatTime(token.expires)}});
  }
  auto written = writeFile(paths_.tokens(), json::serialize(all), 0600);
  if (!written.ok()) log::warn("node", "pod {}: {}", describe(), written.error().message());
}

void PodWorker::objectsChanged() {
  if (over_ || quitting_) return;
  for (ContainerRecord& record : records_) record.configFailed = false;
  refreshVolumes();
  step();
}

void PodWorker::refreshVolumes() {
  if (leaving()) return;
  volumesAgain_ = true;
  if (volumesRunning_) return;
  volumesRunning_ = true;
  gate_.spawn(setUpVolumes(this));
}

Task<Result<>> PodWorker::fetchTokens() {
  std::vector<TokenRequest> wanted;
  for (const json::value& entry : array(podSpec(), {"volumes"})) {
    if (!entry.is_object()) continue;
    for (TokenRequest& request : tokensOf(entry.get_object())) wanted.push_back(std::move(request));
  }
  std::string account(text(podSpec(), "serviceAccountName"));
  if (account.empty()) account = "default";
  std::optional<Duration> next;
  bool fetched = false;
  for (const TokenRequest& request : wanted) {
    const WallTime now = loop_.wallNow();
    const Duration life = std::chrono::seconds(request.expirationSeconds);
    auto have = tokens_.find(request);
    // A new one at four fifths of its life, as kubelets do.
    if (have == tokens_.end() || have->second.expires - now <= life / 5) {
      auto token = co_await context_.tokens.request(ns_, account, request, name_, uid_);
      if (!token.ok()) {
        if (have == tokens_.end()) co_return std::move(token).error().wrap("failed to fetch token");
        next = std::chrono::minutes(1);
        continue;
      }
      tokens_[request] = std::move(*token);
      fetched = true;
    }
    const Duration left =
        std::max<Duration>(std::chrono::seconds(10), tokens_[request].expires - loop_.wallNow() - life / 5);
    if (!next || left < *next) next = left;
  }
  if (fetched) keepTokens();
  if (next) tokenRefresh_ = loop_.after(*next, [this] { refreshVolumes(); });
  co_return Result<>();
}

Result<> PodWorker::writeVolumes() {
  FieldContext context = fieldContext();
  std::map<TokenRequest, std::string> tokens;
  for (const auto& [request, token] : tokens_) tokens[request] = token.token;
  const std::optional<uint32_t> group = fsGroupOf(podSpec());
  for (const json::value& entry : array(podSpec(), {"volumes"})) {
    if (!entry.is_object()) continue;
    const json::object& volume = entry.get_object();
    const std::string name(text(volume, "name"));
    auto failed = [&](const Error& error) {
      return Error(error.code(), fmt::format("MountVolume.SetUp failed for volume \"{}\" : {}", name, error.message()));
    };
    auto path = volumePath(volume, paths_);
    if (!path) return failed(Error(Code::kFailedPrecondition, "this node has no support for that kind of volume"));
    if (client::has(volume, {"hostPath"})) {
      auto checked = checkHostPath(*path, text(volume, {"hostPath", "type"}));
      if (!checked.ok()) return failed(checked.error());
      continue;
    }
    const bool made = client::has(volume, {"configMap"}) || client::has(volume, {"secret"}) ||
                      client::has(volume, {"downwardAPI"}) || client::has(volume, {"projected"});
    if (!made) {
      const bool memory = text(volume, {"emptyDir", "medium"}) == "Memory";
      const auto size = quantityValue(text(volume, {"emptyDir", "sizeLimit"})).value_or(0);
      auto ready = memory ? mountMemoryDir(*path, static_cast<uint64_t>(size), group) : makeEmptyDir(*path, group);
      if (!ready.ok()) return failed(ready.error());
      continue;
    }
    auto files = volumeContent(context, volume, tokens);
    if (!files.ok()) return failed(files.error());
    auto written = writeVolume(*path, *files, group);
    if (!written.ok()) return failed(written.error());
  }
  return {};
}

void PodWorker::volumesFailed(const Error& error) {
  const bool fresh = volumeProblem_ != error.message();
  volumeProblem_ = error.message();
  if (fresh || volumeFailures_ % 4 == 0) context_.events.warning(*pod_, "FailedMount", volumeProblem_);
  volumeRetry_ = loop_.after(retryDelay(volumeFailures_++), [this] { refreshVolumes(); });
}

Task<> PodWorker::setUpVolumes(PodWorker* self) {
  while (self->volumesAgain_ && !self->leaving()) {
    self->volumesAgain_ = false;
    // Tokens come while the objects do.
    auto tokens = co_await self->fetchTokens();
    if (self->leaving()) break;
    bool known = true;
    for (const ObjectRef& ref : referencedObjects(self->pod_->root()))
      known = known && self->context_.objects.known(ref);
    // objectsChanged() comes when the rest is known, and asks again if it came meanwhile.
    if (!known) {
      if (self->volumesAgain_) continue;
      break;
    }
    if (!tokens.ok()) {
      self->volumesFailed(tokens.error());
      break;
    }
    self->keepObjects();
    ++self->busy_;
    auto made = makeDirs(self->paths_.volumes(), 0750);
    if (made.ok()) made = self->writeVolumes();
    --self->busy_;
    if (!made.ok()) {
      self->volumesFailed(made.error());
      break;
    }
    self->volumeFailures_ = 0;
    self->volumeProblem_.clear();
    self->volumesReady_ = true;
  }
  self->volumesRunning_ = false;
  self->changed_.notify();
  self->step();
}

Task<> PodWorker::setUpSandbox(PodWorker* self) {
  auto made = co_await self->makeSandbox();
  self->sandboxRunning_ = false;
  if (made.ok()) {
    self->sandboxFailures_ = 0;
    self->sandboxReady_ = true;
  } else {
    self->releaseAddress();
  }
  if (!made.ok() && !self->leaving()) {
    self->context_.events.warning(*self->pod_, "FailedCreatePodSandBox",
                                  "Failed to create pod sandbox: " + made.error().message());
    self->sandboxRetry_ = self->loop_.after(retryDelay(self->sandboxFailures_++), [self] {
      if (self->leaving() || self->sandboxRunning_) return;
      self->sandboxRunning_ = true;
      self->gate_.spawn(setUpSandbox(self));
    });
  }
  self->changed_.notify();
  self->step();
}

Task<Result<>> PodWorker::makeSandbox() {
  if (leaving()) co_return Error(Code::kCancelled, "the pod is being stopped");
  const bool host = hostNetworkOf(pod_->root());
  runtime::SandboxSpec spec = sandboxSpec(pod_->root(), context_.node, randomHex(32));
  if (spec.ownUsers && !context_.userNamespaces.ok())
    co_return Error(Code::kFailedPrecondition,
                    "can't set `spec.hostUsers: false`, runtime does not support user namespaces: " +
                        context_.userNamespaces.error().message());
  PodNetwork::Given given;
  if (!host) {
    auto acquired = co_await context_.network.acquire(uid_, spec.ownUsers);
    if (!acquired.ok()) co_return std::move(acquired).error().wrap("failed to set up the pod's network");
    given = std::move(*acquired);
    if (leaving()) co_return Error(Code::kCancelled, "the pod is being stopped");
    if (context_.policies != nullptr) {
      auto guarded = co_await context_.policies->protect(pod_, withoutEmpty({given.address, given.second}));
      if (!guarded.ok())
        co_return std::move(guarded).error().wrap("failed to put the pod's network policies into force");
      if (leaving()) co_return Error(Code::kCancelled, "the pod is being stopped");
    }
    spec.netFd = given.netns.get();
    spec.userFd = given.users.get();
    spec.annotations.emplace_back(std::string(kNoteAddress), given.address);
    if (!given.second.empty()) spec.annotations.emplace_back(std::string(kNoteSecondAddress), given.second);
    spec.annotations.emplace_back(std::string(kNoteLink), given.hostInterface);
  }
  CO_RETURN_IF_ERROR(makeDirs(paths_.root, 0755));
  CO_RETURN_IF_ERROR(
      writeFile(paths_.hosts(), hostsFile(pod_->root(), context_.node, withoutEmpty({given.address, given.second}))));
  CO_RETURN_IF_ERROR(writeFile(paths_.resolvConf(), resolvFile(pod_->root(), context_.node)));
  CO_RETURN_IF_ERROR(writeFile(paths_.root + "/hostname", spec.hostname + "\n"));
  ++busy_;
  auto made = co_await context_.runtime.createSandbox(std::move(spec));
  --busy_;
  changed_.notify();
  if (!made.ok()) co_return std::move(made).error();
  sandbox_ = std::move(*made);
  address_ = given.address;
  second_ = given.second;
  link_ = given.hostInterface;
  tellAddresses(true);
  if (const std::vector<HostPort> ports = hostPorts(); !ports.empty()) {
    auto published = context_.network.publish(uid_, podIps(), ports);
    if (!published.ok()) {
      auto broken = std::exchange(sandbox_, nullptr);
      ++busy_;
      (void)co_await broken->remove();
      --busy_;
      co_return std::move(published).error();
    }
  }
  co_return Result<>();
}

}  // namespace dhow::node
