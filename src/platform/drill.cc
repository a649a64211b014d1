#include "platform/drill.h"

#include <fmt/format.h>

#include "base/files.h"
#include "base/gate.h"
#include "base/log.h"
#include "client/fields.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "client/reflector.h"
#include "drill_identities.h"
#include "drill_load.h"
#include "drill_story.h"
#include "drill_target.h"
#include "drill_workload.h"
#include "platform/deploy.h"

namespace dhow::platform {

using namespace std::chrono_literals;
using client::HttpClient;
using client::Reflector;
namespace kinds = object::resources;

namespace {

constexpr Duration kDeployLimit = 60s;
constexpr Duration kRemoveLimit = 60s;
constexpr Duration kCalm = 2s;             // of load before the break and after the end
constexpr Duration kComeBackLimit = 5min;  // a zone is trusted the later the more often it was lost
constexpr Duration kRetry = 200ms;
constexpr int kWarmRequests = 20;
constexpr int kReadBackTries = 50;
constexpr char kProgram[] = "/examples/hello/hello";

// One of each cluster's contacts: reflectors that come again soon.
Reflector::Options soon() {
  Reflector::Options options;
  options.firstDelay = 100ms;
  options.maxDelay = 500ms;
  return options;
}

// Why the first pod that is not Ready is not.
std::string whyWaiting(const client::Cache& pods) {
  for (const auto& pod : pods.list()) {
    if (client::conditionTrue(pod->root(), "Ready")) continue;
    for (const auto& value : client::array(pod->root(), {"status", "containerStatuses"})) {
      if (!value.is_object()) continue;
      const auto& waiting = client::object(value.get_object(), {"state", "waiting"});
      if (!waiting.empty())
        return fmt::format("pod {}: {} {}", pod->name(), client::text(waiting, "reason"),
                           client::text(waiting, "message"));
    }
    const auto* scheduled = client::condition(pod->root(), "PodScheduled");
    return fmt::format("pod {} is not Ready {}", pod->name(), scheduled ? client::text(*scheduled, "message") : "");
  }
  return "pods are missing";
}

}  // namespace

struct Drill::Rep {
  Rep(Loop& l, BlockingPool& p, const ClusterConfig& c, Programs g, Drill& o)
      : loop(l), pool(p), config(c), programs(std::move(g)), owner(o), news(l), gate(l) {}

  Loop& loop;
  BlockingPool& pool;
  const ClusterConfig config;
  const Programs programs;
  Drill& owner;
  DrillRequest request;
  DrillTarget target;
  DrillReport report;
  TimePoint zero;
  int interrupts = 0;
  bool ending = false;
  Signal news;
  Gate gate;
  std::unique_ptr<HttpClient> api, direct;
  std::unique_ptr<RegionClient> region;
  std::unique_ptr<Reflector> zones, machines, nodes, leases, pods, served;
  std::unique_ptr<client::Cache::Subscription> listening;
  std::unique_ptr<DrillStory> story;
  std::unique_ptr<DrillWorkload> workload;
  std::unique_ptr<DrillIdentities> identities;
  std::unique_ptr<RequestLoad> requests;
  std::unique_ptr<WriteLoad> writes;

  void step(const std::string& what) {
    if (owner.onStep) owner.onStep(what);
  }
  void tell(DrillMark mark, std::string text);
  Result<std::unique_ptr<HttpClient>> clientOf(const std::string& server);
  Task<Result<DrillView>> view();
  Task<Result<>> prepare();
  Task<Result<std::string>> image();
  Task<Result<>> startWatching();
  Task<Result<>> deploy();
  Task<Result<>> startLoad();
  Task<Result<>> breakAndRestore();
  Task<> restore();
  Task<> settle();
  Task<> conclude();
  Task<> cleanUp();
  Result<> followMaster();
  static Task<> followMember(Rep* self);
  // Until `done` holds; false when the time is over or, before `patience` interrupts came, on those.
  Task<bool> waitFor(std::function<bool()> done, Duration limit, int patience);
};

void Drill::Rep::tell(DrillMark mark, std::string text) {
  DrillEvent event{loop.now() - zero, mark, std::move(text)};
  if (owner.onEvent) owner.onEvent(event);
  report.events.push_back(std::move(event));
  news.notify();
}

Task<bool> Drill::Rep::waitFor(std::function<bool()> done, Duration limit, int patience) {
  const TimePoint end = loop.now() + limit;
  while (!done()) {
    if (interrupts >= patience || loop.now() >= end) co_return false;
    co_await news.waitFor(end - loop.now());
  }
  co_return true;
}

Result<std::unique_ptr<HttpClient>> Drill::Rep::clientOf(const std::string& server) {
  ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(config.paths().kubeconfig()));
  if (!server.empty()) kubeconfig.server = server;
  ASSIGN_OR_RETURN(auto options, client::httpOptions(kubeconfig));
  options.requestTimeout = 5s;
  options.keepAlive = 2s;
  options.keepAliveTimeout = 2s;
  options.dropOnTimeout = true;
  options.fieldManager = "dhow-drill";
  return std::make_unique<HttpClient>(loop, std::move(options));
}

Task<Result<DrillView>> Drill::Rep::view() {
  Cluster cluster(loop, pool, programs);
  DrillView view;
  auto state = co_await cluster.state(config);
  CO_RETURN_IF_ERROR(state);
  view.state = std::move(*state);
  view.foreignStore = !config.request.datastore.empty();
  if (!view.state.regionAnswers || !view.state.serverAnswers) co_return view;
  auto listed = co_await region->list();
  CO_RETURN_IF_ERROR(listed);
  view.zones = std::move(listed->zones);
  auto zoneObjects = co_await api->list(kinds::kZones, {});
  CO_RETURN_IF_ERROR(zoneObjects);
  for (const auto& zone : zoneObjects->items)
    view.phases[std::string(zone->name())] = client::text(zone->root(), {"status", "phase"});
  co_return view;
}

// Whole and with a target; nothing is changed yet.
Task<Result<>> Drill::Rep::prepare() {
  RegionClient::Options local;
  local.unixSocket = config.paths().regionSocket();
  region = std::make_unique<RegionClient>(loop, std::move(local));
  CO_ASSIGN_OR_RETURN(api, clientOf(""));
  auto seen = co_await view();
  CO_RETURN_IF_ERROR(seen);
  CO_RETURN_IF_ERROR(checkWhole(*seen));
  CO_ASSIGN_OR_RETURN(target, chooseTarget(*seen, request.kind, request.target));
  report.kind = request.kind;
  report.target = target.name;
  report.span = request.span;
  co_return Result<>();
}

// The example's program, under a name of its own; where it was not built, the example's image as it was deployed.
Task<Result<std::string>> Drill::Rep::image() {
  const std::string program = programs.folder() + kProgram;
  if (!pathExists(program)) co_return config.registryHost() + "/hello:1";
  image::AssembleOptions options;
  options.tags = {config.registryHost() + "/dhow-drill:1"};
  options.config.entrypoint = {"/hello"};
  options.config.user = "65532:65532";
  options.additions.push_back({program, "/hello"});
  const std::string tag = options.tags[0];
  auto pushed = co_await publishImage(loop, pool, config, std::move(options));
  CO_RETURN_IF_ERROR(pushed);
  co_return tag;
}

Task<Result<>> Drill::Rep::startWatching() {
  auto watch = [&](const client::Resource& resource, Reflector::Options options) {
    auto reflector = std::make_unique<Reflector>(loop, *api, resource, std::move(options));
    reflector->start();
    return reflector;
  };
  auto zoneOptions = soon();
  zoneOptions.onContact = [this](bool connected) {
    if (story) story->contact(connected);
  };
  zones = watch(kinds::kZones, std::move(zoneOptions));
  machines = watch(kinds::kMachines, soon());
  nodes = watch(kinds::kNodes, soon());
  leases = watch(kinds::kLeases, soon());
  auto podOptions = soon();
  podOptions.select.ns = kDrillNamespace;
  pods = watch(kinds::kPods, std::move(podOptions));
  for (Reflector* reflector : {zones.get(), machines.get(), nodes.get(), leases.get(), pods.get()})
    co_await reflector->cache().waitSynced();
  listening = pods->cache().subscribe([this](const auto&, const auto&) { news.notify(); });
  co_return Result<>();
}

Task<Result<>> Drill::Rep::deploy() {
  auto image = co_await this->image();
  CO_RETURN_IF_ERROR(image);
  const int zoneCount = config.request.zones;
  const int nodeCount = static_cast<int>(nodes->cache().list().size());
  DrillWorkload::Options options{std::move(*image), std::max(2 * zoneCount, nodeCount), nodeCount};
  DrillStory::Subject subject{target.kind, target.name,       target.nodes,
                              target.led,  target.onlyMaster, static_cast<size_t>(options.replicas)};
  workload = std::make_unique<DrillWorkload>(loop, *api, std::move(options));
  subject.identities = workload->identities();
  subject.ns = kDrillNamespace;
  report.identities = subject.identities.size();
  story = std::make_unique<DrillStory>(
      loop, std::move(subject),
      DrillStory::Caches{zones->cache(), machines->cache(), nodes->cache(), leases->cache(), pods->cache()},
      [this](DrillMark mark, std::string text) { tell(mark, std::move(text)); });
  identities = std::make_unique<DrillIdentities>(loop, pool, workload->identities());
  identities->start(pods->cache());
  auto deployed = co_await workload->deploy(pods->cache());
  CO_RETURN_IF_ERROR(deployed);
  const bool runs = co_await waitFor([this] { return story->whole(); }, kDeployLimit, 1);
  if (!runs && interrupts > 0) co_return Error(Code::kCancelled, "interrupted before anything was broken");
  if (!runs)
    co_return Error(Code::kDeadlineExceeded,
                    fmt::format("the load does not run after {} s: {}", kDeployLimit / 1s, whyWaiting(pods->cache())));
  co_return Result<>();
}

Task<Result<>> Drill::Rep::startLoad() {
  auto url = co_await workload->url(kDeployLimit);
  CO_RETURN_IF_ERROR(url);
  requests = std::make_unique<RequestLoad>(loop, *url);
  auto warm = co_await requests->warmUp(kWarmRequests, kDeployLimit);
  CO_RETURN_IF_ERROR(warm);
  writes = std::make_unique<WriteLoad>(loop, *api, kDrillNamespace);
  writes->onAcknowledged = [this](TimePoint sent) { story->acknowledged(sent); };
  requests->start();
  writes->start();
  (void)co_await waitFor([] { return false; }, kCalm, 1);
  if (interrupts > 0) co_return Error(Code::kCancelled, "interrupted before anything was broken");
  co_return Result<>();
}

// Whether the master itself serves, whoever else does.
Result<> Drill::Rep::followMaster() {
  ASSIGN_OR_RETURN(direct, clientOf(fmt::format("https://{}:{}", target.address, config.apiPort)));
  auto options = soon();
  // Matches nothing: what counts is that the watch lives.
  options.select.fieldSelector = "metadata.name=none.invalid";
  options.onContact = [this](bool connected) {
    if (connected) story->targetServes();
  };
  served = std::make_unique<Reflector>(loop, *direct, kinds::kNodes, std::move(options));
  served->start();
  return {};
}

// Until the member takes part in the quorum again. It tells nobody when it does: it is asked until it answers.
Task<> Drill::Rep::followMember(Rep* self) {
  auto options = loadMasterOptions(self->config.paths().masterConfig(self->target.name));
  if (!options.ok()) co_return log::warn("drill", "{}", options.error().message());
  auto etcd = storeOptions(*options);
  if (!etcd.ok()) co_return log::warn("drill", "{}", etcd.error().message());
  etcd->timeout = 2s;
  etcd->patience = 500ms;
  store::EtcdAdmin admin(self->loop, std::move(*etcd));
  const std::string endpoint = fmt::format("https://{}:{}", self->target.address, kMemberClientPort);
  while (!self->ending) {
    auto answers = co_await admin.health(endpoint);
    if (answers.ok()) co_return self->story->targetServes();
    co_await self->news.waitFor(kRetry);
  }
}

Task<Result<>> Drill::Rep::breakAndRestore() {
  zero = loop.now();
  story->breaking();
  tell(DrillMark::kBroken, brokenText(target));
  auto broken = co_await breakTarget(loop, pool, config, *region, target);
  story->broken();
  Result<> followed;
  if (broken.ok() && target.kind == DrillKind::kStore) {
    if (target.member)
      gate.spawn(followMember(this));
    else
      followed = followMaster();
  }
  if (broken.ok() && followed.ok())
    (void)co_await waitFor([this] { return loop.now() - zero >= request.span; }, request.span, 1);
  co_await restore();
  if (!broken.ok()) co_return std::move(broken).error().wrap("break " + target.name);
  if (followed.ok() && target.kind == DrillKind::kMaster) followed = followMaster();
  co_return followed;
}

// Whatever it takes: a cluster is not left broken.
Task<> Drill::Rep::restore() {
  const TimePoint end = loop.now() + kRemoveLimit;
  // What is minded by somebody has mostly come back by itself.
  const bool ours = !target.repairsItself() || (target.kind == DrillKind::kNode && !story->returned());
  while (ours) {
    auto done = co_await restoreTarget(*region, target);
    if (done.ok()) break;
    if (loop.now() >= end) {
      report.events.push_back({loop.now() - zero, DrillMark::kNone,
                               fmt::format("{} could not be put back: {}", target.name, done.error().message())});
      if (owner.onEvent) owner.onEvent(report.events.back());
      co_return;
    }
    co_await loop.sleep(kRetry);
  }
  if (ours) tell(DrillMark::kRestored, restoredText(target));
  story->restored();
}

Task<> Drill::Rep::settle() {
  (void)co_await waitFor([this] { return story->healed() && story->returned(); }, kComeBackLimit, 2);
  (void)co_await waitFor([] { return false; }, kCalm, 2);
}

Task<> Drill::Rep::conclude() {
  co_await requests->stop();
  co_await writes->stop();
  report.interrupted = interrupts > 0;
  report.requestsSent = requests->sent();
  for (const auto& lost : requests->lost()) report.requestsLost.push_back({lost.sent - zero, lost.why});
  report.writesAcknowledged = writes->acknowledged();
  for (const auto& failed : writes->failed()) report.writesFailed.push_back({failed.sent - zero, failed.why});
  report.longestPause = writes->longestPause();
  for (int i = 0; i < kReadBackTries; ++i) {
    auto missing = co_await writes->missing();
    report.writesUnread = missing.ok() ? "" : missing.error().message();
    if (missing.ok()) {
      report.writesMissing = std::move(*missing);
      break;
    }
    co_await loop.sleep(kRetry);
  }
  report.processes = identities->processes();
  report.doubled = identities->doubled();
}

Task<> Drill::Rep::cleanUp() {
  ending = true;
  news.notify();
  if (requests) co_await requests->stop();
  if (writes) co_await writes->stop();
  co_await gate.close();
  if (served) co_await served->stop();
  if (direct) co_await direct->stop();
  if (identities) co_await identities->stop();
  if (workload) {
    co_await workload->stop();
    auto removed = co_await removeDrillNamespace(loop, *api, kRemoveLimit);
    if (!removed.ok())
      log::warn("drill", "namespace {} is left: {}; the next drill removes it", kDrillNamespace,
                removed.error().message());
  }
  story.reset();
  listening.reset();
  for (auto* reflector : {&zones, &machines, &nodes, &leases, &pods})
    if (*reflector) co_await (*reflector)->stop();
  if (api) co_await api->stop();
  if (region) region->close();
}

Drill::Drill(Loop& loop, BlockingPool& pool, const ClusterConfig& config, Programs programs)
    : rep_(std::make_unique<Rep>(loop, pool, config, std::move(programs), *this)) {}
Drill::~Drill() = default;

void Drill::interrupt() {
  ++rep_->interrupts;
  rep_->news.notify();
}

Task<Result<DrillReport>> Drill::run(DrillRequest request) {
  auto& rep = *rep_;
  rep.request = std::move(request);
  auto lock = lockFile(rep.config.paths().run + "/drill.lock");
  if (!lock.ok() && lock.error().is(Code::kFailedPrecondition))
    co_return Error(Code::kFailedPrecondition, "another drill of this cluster is under way");
  if (!lock.ok()) co_return Error(Code::kFailedPrecondition, "the cluster is down; `dhow up` starts it");
  auto done = co_await rep.prepare();
  if (done.ok()) {
    rep.step(fmt::format("load in namespace {}", kDrillNamespace));
    done = co_await removeDrillNamespace(rep.loop, *rep.api, kRemoveLimit);
  }
  if (done.ok()) done = co_await rep.startWatching();
  if (done.ok()) done = co_await rep.deploy();
  if (done.ok()) done = co_await rep.startLoad();
  if (done.ok()) done = co_await rep.breakAndRestore();
  if (done.ok()) {
    co_await rep.settle();
    co_await rep.conclude();
  }
  co_await rep.cleanUp();
  if (!done.ok()) co_return std::move(done).error();
  co_return std::move(rep.report);
}

}  // namespace dhow::platform
