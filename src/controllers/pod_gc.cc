#include "pod_gc.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kPods;

namespace {
// Many pods may finish at once: they are counted once for all.
constexpr Duration kPause = std::chrono::seconds(20);
}  // namespace

PodGarbageCollector::PodGarbageCollector(Context context, size_t limit)
    : context_(context),
      limit_(limit),
      pods_(context.caches.of(kPods)),
      controller_(context.loop, {.name = "podgc", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watch(pods_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (after && podFinished(*after) && (!before || !podFinished(*before))) queue.addAfter("all", kPause);
  });
}

Task<Result<>> PodGarbageCollector::reconcile(std::string) {
  std::vector<std::pair<std::string, ObjectPtr>> finished;
  for (ObjectPtr& pod : pods_.list()) {
    if (!podFinished(*pod) || pod->deleting()) continue;
    std::string born(text(pod->metadata(), "creationTimestamp"));
    finished.emplace_back(std::move(born), std::move(pod));
  }
  if (finished.size() <= limit_) co_return Result<>();
  std::sort(finished.begin(), finished.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second->key() < b.second->key();
  });
  finished.resize(finished.size() - limit_);
  for (const auto& [born, pod] : finished) {
    DeleteOptions options;
    options.uid = pod->uid();
    options.gracePeriodSeconds = 0;
    Result<> removed =
        co_await context_.client.remove(kPods, std::string(pod->ns()), std::string(pod->name()), std::move(options));
    if (!removed.ok() && !removed.error().is(Code::kNotFound) && !removed.error().is(Code::kConflict))
      co_return removed;
  }
  co_return Result<>();
}

}  // namespace dhow::controllers
