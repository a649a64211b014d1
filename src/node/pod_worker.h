// One pod on this node, from the moment that it is bound here until it is gone from the API.
//
// step() is the heart: called after every event, it looks at what is and sets off what comes next; the work itself runs
// as tasks in the worker's gate and ends with step(). Updates coalesce (only the newest document counts); a stop, once
// wanted, is never taken back, and its deadline only comes nearer. All on the loop's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/client.h"
#include "client/event_recorder.h"
#include "container_record.h"
#include "exec_run.h"
#include "floors.h"
#include "handler.h"
#include "paths.h"
#include "pod_plan.h"
#include "pod_status.h"
#include "probe.h"
#include "run_spec.h"
#include "runtime/runtime.h"

namespace dhow::node {

struct WorkerContext {
  Loop& loop;
  runtime::Runtime& runtime;
  Images& images;
  PodNetwork& network;
  Tokens& tokens;
  ObjectSource& objects;
  ServiceSource& services;
  Connector& connector;
  Offload& offload;
  client::Client& client;
  client::EventRecorder& events;
  NodeFacts node;
  NodePaths paths;
  std::function<void(const std::string& containerId)> ended = {};  // its process has ended
  // A pod has (or no longer has) this address.
  std::function<void(const std::string& address, const std::string& ns, bool has)> addressed = {};
  Barrier* barrier = nullptr;       // null: stops wait for nobody
  PodPolicies* policies = nullptr;  // null: pods are not limited
  Result<> userNamespaces = {};     // whether pods can have their own, or why not
};

class PodWorker {
 public:
  // `onOver`: called once, when nothing of the pod is left here.
  PodWorker(WorkerContext& context, ObjectPtr pod, std::function<void()> onOver);
  ~PodWorker();

  // Before start(): what an earlier agent left on disk, and its sandbox if that still runs.
  void restoreFromDisk();
  void adopt(std::shared_ptr<runtime::Sandbox> sandbox);
  void start();
  // The agent ends: tasks end, containers go on.
  Task<> stop();

  void update(ObjectPtr pod);
  // It is gone from the API: stops it without telling the API.
  void removed();
  // Ends it with phase Failed ("Evicted", "OutOfpods").
  void fail(std::string reason, std::string message);
  // Ends it now, without grace: another node may be about to run it.
  void fence();

  void onExit(const std::string& containerId, const runtime::ExitInfo& exit);
  void onSandboxGone();

  const ObjectPtr& pod() const { return pod_; }
  const PodPaths& paths() const { return paths_; }
  const std::string& address() const { return address_; }
  const std::shared_ptr<runtime::Sandbox>& sandbox() const { return sandbox_; }
  std::string sandboxId() const { return sandbox_ ? sandbox_->id() : std::string(); }
  const std::vector<ContainerRecord>& containers() const { return records_; }
  const json::object& status() const { return status_; }
  bool active() const { return !over_ && !tornDown_; }  // takes one of the node's places
  // How a further command is run in a container as the container itself is.
  Task<Result<runtime::ProcessSpec>> processFor(std::string container, std::vector<std::string> command);

 private:
  struct Probes {
    std::unique_ptr<Probe> startup, liveness, readiness;
  };

  void step();
  void lookAgain(Duration delay);
  bool leaving() const { return stopWanted_ || quitting_ || finished_; }
  ContainerRecord& rec(size_t i) { return records_[i]; }
  const json::object& specOf(size_t i) const;
  const json::object& podSpec() const { return object(pod_->root(), {"spec"}); }
  std::optional<size_t> indexOf(std::string_view name) const;
  void checkDefinitions();
  void markWaiting(const PodPlan& plan);
  void applyDeletion();

  // Facts about the pod
  FieldContext fieldContext();
  void tellAddresses(bool has);
  void releaseAddress();
  std::string describe() const;  // web_default(uid)
  Duration graceOf() const;
  void eventFor(size_t i, std::string_view type, std::string_view reason, std::string message);

  // Set-up (pod_setup.cc)
  void beginSetUp();
  static Task<> setUpVolumes(PodWorker* self);
  static Task<> setUpSandbox(PodWorker* self);
  Task<Result<>> fetchTokens();
  Result<> writeVolumes();
  Task<Result<>> makeSandbox();
  void objectsChanged();
  void keepObjects();
  void seedTokens();
  void keepTokens();
  void seedObjects();
  void refreshVolumes();
  void volumesFailed(const Error& error);

  // Containers (pod_start.cc)
  static Task<> startOne(PodWorker* self, size_t i);
  Task<image::ImagePtr> fetchImage(size_t i);
  Task<bool> untilSetUp(size_t i);
  Task<> launch(size_t i, image::ImagePtr image, std::string id, Result<image::Snapshot> snapshot);
  void failWaiting(size_t i, std::string reason, std::string message);
  void startFailed(size_t i, const Error& error);
  void running(size_t i, const runtime::Started& started);
  static Task<> postStart(PodWorker* self, size_t i, int64_t attempt);
  void markStarted(size_t i);
  void ended(size_t i, const runtime::ExitInfo& exit);
  std::string terminationMessage(size_t i, bool failed) const;
  static Task<> forget(PodWorker* self, std::shared_ptr<runtime::Sandbox> sandbox, std::string containerId);
  void dropOldLogs(size_t i);

  // Probes (pod_probes.cc)
  HandlerTarget targetOf(size_t i);
  static Task<Result<ExecOutcome>> execIn(PodWorker* self, size_t i, std::vector<std::string> command, Duration limit);
  std::unique_ptr<Probe> makeProbe(size_t i, Probe::Kind kind, TimePoint startedAt);
  void startProbes(size_t i);
  void stopProbes(size_t i);
  void probeVerdict(size_t i, Probe::Kind kind, bool ok, const std::string& message);

  // The end (pod_stop.cc)
  static Task<> stopPod(PodWorker* self);
  static Task<> dropSandbox(PodWorker* self, std::shared_ptr<runtime::Sandbox> sandbox);
  static Task<> finishPod(PodWorker* self);
  static Task<> stopContainer(PodWorker* self, size_t i, Duration grace, std::string why);
  static Task<> preStop(PodWorker* self, size_t i, Duration grace, std::shared_ptr<bool> done);
  // Until nobody sends to the pod any more; bounded, and cut short when there is no time for it.
  // `over`: not even the users that it has.
  Task<> drain(Duration limit, bool over);
  static Task<> passBarrier(PodWorker* self, std::shared_ptr<bool> done, bool over);
  bool anyRuns() const;
  // By now, the last moment at which a container may be killed.
  TimePoint latestEnd() const;
  // While users have sessions or connections (pod_sessions.cc).
  struct HeldAnswer;
  Task<> holdSessions(TimePoint since);  // when the stop began
  bool mayHold() const;
  Duration holdLeft() const;
  static Task<> askHeld(PodWorker* self, client::HeldQuestion question, std::shared_ptr<HeldAnswer> answer);
  void tellHeld(const client::Held& held);
  void tellHoldOver(const client::Held& last, TimePoint since);
  Task<> stopAll(Duration grace);
  Task<> tearDown();
  Task<> tellDeleted();
  void over();

  // Status (pod_worker.cc)
  void publish();
  json::object computeStatus();
  // For a tenth of a second from its start a pod that nothing has befallen keeps steps short of readiness to itself.
  bool comingUp() const;
  static Task<> sendStatus(PodWorker* self);
  void tellAgain();
  void keepStatus();
  void keepPod();
  static Task<> writePod(PodWorker* self);

  WorkerContext& context_;
  Loop& loop_;
  ObjectPtr pod_;
  const std::string uid_, ns_, name_;
  const PodPaths paths_;
  std::function<void()> onOver_;
  RestartPolicy policy_;

  std::vector<ContainerRecord> records_;  // never resized after construction
  std::vector<Probes> probes_;
  std::vector<std::shared_ptr<const runtime::ProcessSpec>> processes_;
  std::vector<std::string> stopSignals_;
  std::vector<std::pair<std::string, runtime::ExitInfo>> earlyExits_;  // reported before start() had returned

  std::shared_ptr<runtime::Sandbox> sandbox_;
  std::vector<std::string> podIps() const;
  std::vector<HostPort> hostPorts() const;  // that are to be published
  std::vector<std::string> hostIps() const;
  std::string address_, second_, link_;
  bool setUpBegun_ = false, sandboxReady_ = false, volumesReady_ = false;
  bool volumesRunning_ = false, volumesAgain_ = false, sandboxRunning_ = false;
  int sandboxFailures_ = 0, volumeFailures_ = 0;
  Timer sandboxRetry_, volumeRetry_, tokenRefresh_, volumeComplaint_;
  std::string volumeProblem_;
  std::map<TokenRequest, Tokens::Token> tokens_;

  bool initialized_ = false;
  bool fenced_ = false;                     // there is no time for grace
  bool finished_ = false, failed_ = false;  // the pod has ended by itself, or by fail()
  bool stopWanted_ = false, stopping_ = false, removedFromApi_ = false;
  bool tearing_ = false, tornDown_ = false, stopped_ = false, over_ = false, quitting_ = false;
  TimePoint stopDeadline_ = TimePoint::max();
  bool holding_ = false;    // the grace period may begin later
  bool abandoned_ = false;  // see PodFacts
  std::optional<PodFacts::Sessions> sessions_;
  TimePoint sessionsToldAt_{};
  int busy_ = 0;  // steps under way that a teardown waits for
  std::string failReason_, failMessage_;
  Timer stepTimer_, deadlineTimer_;
  bool stepping_ = false, stepAgain_ = false;
  TimePoint settledAt_{};

  WallTime startTime_{};
  json::object status_;  // as last computed
  uint64_t sentAt_ = 0;  // the resourceVersion of the pod with the status sent last
  bool statusDirty_ = false, sending_ = false, statusOff_ = false;
  bool podDirty_ = false, writingPod_ = false;

  Signal changed_;
  Gate gate_;
};

}  // namespace dhow::node
