#include "pod_manager.h"

#include <sys/stat.h>

#include <set>

#include "base/files.h"
#include "base/log.h"
#include "client/node_lease.h"

namespace dhow::node {

PodManager::PodManager(WorkerContext& context, client::Cache& pods, int64_t maxPods, size_t oldLogs)
    : context_(context), pods_(pods), maxPods_(maxPods), oldLogs_(oldLogs), gate_(context.loop) {
  context_.runtime.onEvent([this](const runtime::Event& event) { told(event); });
  context_.ended = [this](const std::string& containerId) { containerEnded(containerId); };
}

PodManager::~PodManager() = default;

PodWorker* PodManager::add(ObjectPtr pod) {
  std::string uid(pod->uid());
  auto worker = std::make_unique<PodWorker>(context_, std::move(pod), [this, uid] { over(uid); });
  PodWorker* raw = worker.get();
  workers_[uid] = std::move(worker);
  return raw;
}

Task<Result<>> PodManager::recover() {
  auto found = co_await context_.runtime.findSandboxes();
  if (!found.ok()) co_return std::move(found).error();
  std::map<std::string, std::shared_ptr<runtime::Sandbox>> byUid;
  std::vector<std::shared_ptr<runtime::Sandbox>> strangers;
  for (auto& sandbox : found->sandboxes) {
    auto [place, isNew] = byUid.emplace(noteOf(sandbox->annotations(), kNoteUid), sandbox);
    if (!isNew) strangers.push_back(sandbox);
  }
  CO_RETURN_IF_ERROR(makeDirs(context_.paths.pods(), 0755));
  context_.userNamespaces = co_await context_.runtime.checkUserNamespaces(context_.paths.data);
  if (!context_.userNamespaces.ok())
    log::info("node", "no user namespaces for pods: {}", context_.userNamespaces.error().message());
  auto folders = listDir(context_.paths.pods());
  if (!folders.ok()) co_return std::move(folders).error();
  std::vector<PodWorker*> restored;
  std::set<std::string> snapshots;
  for (const std::string& folder : *folders) {
    PodPaths paths(context_.paths.pods() + "/" + folder);
    auto bytes = readFile(paths.pod(), 4 << 20);
    if (!bytes.ok()) continue;
    auto pod = Object::parse(*bytes);
    if (!pod.ok()) {
      log::warn("node", "{}: {}", paths.pod(), pod.error().message());
      continue;
    }
    PodWorker* worker = add(*pod);
    worker->restoreFromDisk();
    auto sandbox = byUid.find(std::string((*pod)->uid()));
    if (sandbox != byUid.end()) {
      for (const runtime::ContainerStatus& container : sandbox->second->containers()) snapshots.insert(container.id);
      worker->adopt(sandbox->second);
      byUid.erase(sandbox);
    }
    restored.push_back(worker);
  }
  for (auto& [uid, sandbox] : byUid) strangers.push_back(sandbox);
  for (const auto& sandbox : strangers) {
    const std::string uid = noteOf(sandbox->annotations(), kNoteUid);
    log::info("node", "sandbox {} of pod {} has no pod here, it is removed", sandbox->id(), uid);
    (void)co_await sandbox->remove();
  }
  for (const std::string& snapshot : context_.images.snapshots()) {
    if (!snapshots.contains(snapshot)) (void)co_await context_.images.removeSnapshot(snapshot);
  }
  log::info("node", "{} pods from disk, {} sandboxes were lost", restored.size(), found->lost.size());
  for (PodWorker* worker : restored) begin(worker);
  dropOldLogs();
  co_return Result<>();
}

void PodManager::start() {
  subscription_ = pods_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) { seen(before, after); });
  gate_.spawn(reconcileOnce(this));
}

// What the API no longer knows when it is first heard was deleted while this node was away.
Task<> PodManager::reconcileOnce(PodManager* self) {
  co_await self->pods_.waitSynced();
  if (self->stopping_ || !self->pods_.synced()) co_return;
  std::set<std::string> known;
  for (const ObjectPtr& pod : self->pods_.list()) known.emplace(pod->uid());
  for (PodWorker* worker : self->workers()) {
    if (!known.contains(std::string(worker->pod()->uid()))) worker->removed();
  }
}

Task<> PodManager::stop() {
  stopping_ = true;
  subscription_.reset();
  co_await gate_.close();
  for (PodWorker* worker : workers()) co_await worker->stop();
  workers_.clear();
}

std::vector<PodWorker*> PodManager::workers() const {
  std::vector<PodWorker*> out;
  for (const auto& [uid, worker] : workers_) out.push_back(worker.get());
  return out;
}

PodWorker* PodManager::find(std::string_view ns, std::string_view name) const {
  PodWorker* best = nullptr;
  for (const auto& [uid, worker] : workers_) {
    if (worker->pod()->ns() != ns || worker->pod()->name() != name) continue;
    // One that ends may share its name with its successor for a moment.
    if (best == nullptr || best->pod()->deleting()) best = worker.get();
  }
  return best;
}

void PodManager::seen(const ObjectPtr& before, const ObjectPtr& after) {
  if (stopping_) return;
  if (before && (!after || after->uid() != before->uid())) {
    auto gone = workers_.find(std::string(before->uid()));
    if (gone != workers_.end()) gone->second->removed();
  }
  if (!after) return;
  auto found = workers_.find(std::string(after->uid()));
  if (found != workers_.end()) {
    found->second->update(after);
    return;
  }
  std::string_view phase = text(after->root(), {"status", "phase"});
  if (phase == "Succeeded" || phase == "Failed") {
    if (after->deleting()) gate_.spawn(forgetPod(this, after));
    return;
  }
  int64_t active = 0;
  for (const auto& [uid, worker] : workers_) active += worker->active() ? 1 : 0;
  PodWorker* worker = add(after);
  // A folder of the same pod is there when it was here before under an agent that lost its record.
  if (pathExists(worker->paths().status())) worker->restoreFromDisk();
  if (active >= maxPods_ && !after->deleting()) {
    worker->fail(
        "OutOfpods",
        fmt::format("Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: {}, capacity: {}",
                    active, maxPods_));
    return;
  }
  begin(worker);
}

void PodManager::fenceBy(Fence& fence) {
  fence_ = &fence;
  fence.onLost = [this] { leaseLost(); };
  fence.onHeld = [this] { leaseHeld(); };
}

void PodManager::begin(PodWorker* worker) {
  const bool fenced = fence_ != nullptr && client::hasIdentity(*worker->pod()) && !fence_->holds();
  if (fenced && !worker->sandbox()) {
    held_.emplace(worker->pod()->uid());
    return;
  }
  worker->start();
  if (fenced) worker->fence();
}

void PodManager::leaseLost() {
  for (PodWorker* worker : workers()) {
    if (!client::hasIdentity(*worker->pod()) || held_.contains(std::string(worker->pod()->uid()))) continue;
    log::warn("node", "pod {} ends: this node has lost its lease", worker->pod()->key());
    worker->fence();
  }
}

void PodManager::leaseHeld() {
  for (const std::string& uid : std::exchange(held_, {})) {
    if (auto found = workers_.find(uid); found != workers_.end()) found->second->start();
  }
}

Task<> PodManager::forgetPod(PodManager* self, ObjectPtr pod) {
  client::DeleteOptions options;
  options.gracePeriodSeconds = 0;
  options.uid = pod->uid();
  auto gone = co_await self->context_.client.remove(dhow::object::resources::kPods, std::string(pod->ns()),
                                                    std::string(pod->name()), std::move(options));
  if (!gone.ok() && !gone.error().is(Code::kNotFound))
    log::warn("node", "pod {}: {}", pod->key(), gone.error().message());
}

void PodManager::over(const std::string& uid) {
  if (stopping_) return;
  gate_.spawn(retire(this, uid));
}

Task<> PodManager::retire(PodManager* self, std::string uid) {
  // Not within the worker's own call.
  co_await self->context_.loop.sleep(Duration::zero());
  auto found = self->workers_.find(uid);
  if (found == self->workers_.end()) co_return;
  std::unique_ptr<PodWorker> worker = std::move(found->second);
  self->workers_.erase(found);
  co_await worker->stop();
  worker.reset();
  self->dropOldLogs();
}

void PodManager::told(const runtime::Event& event) {
  for (const auto& [uid, worker] : workers_) {
    if (worker->sandboxId() != event.sandboxId) continue;
    if (event.kind == runtime::Event::Kind::kExited) worker->onExit(event.containerId, event.exit);
    if (event.kind == runtime::Event::Kind::kShimGone) worker->onSandboxGone();
    return;
  }
}

uint64_t PodManager::onContainerEnd(const std::string& containerId, std::function<void()> run) {
  const uint64_t id = nextEnder_++;
  enders_[id] = {containerId, std::move(run)};
  return id;
}

void PodManager::containerEnded(const std::string& containerId) {
  std::vector<std::function<void()>> runs;
  for (auto entry = enders_.begin(); entry != enders_.end();) {
    if (entry->second.containerId == containerId) {
      runs.push_back(std::move(entry->second.run));
      entry = enders_.erase(entry);
    } else {
      ++entry;
    }
  }
  for (const auto& run : runs) run();
}

// Logs outlive their pods: those of the last ones are kept.
void PodManager::dropOldLogs() {
  auto folders = listDir(context_.paths.pods());
  if (!folders.ok()) return;
  std::set<std::string> live;
  for (const auto& [uid, worker] : workers_) live.insert(worker->paths().root);
  std::multimap<int64_t, std::string> dead;  // by time of the last change
  for (const std::string& folder : *folders) {
    const std::string path = context_.paths.pods() + "/" + folder;
    struct stat info{};
    if (live.contains(path) || pathExists(PodPaths(path).pod())) continue;
    if (::stat(path.c_str(), &info) == 0) dead.emplace(info.st_mtim.tv_sec, path);
  }
  while (dead.size() > oldLogs_) {
    auto removed = removeTree(dead.begin()->second);
    if (!removed.ok()) log::warn("node", "{}", removed.error().message());
    dead.erase(dead.begin());
  }
}

}  // namespace dhow::node
