#include "pod_plan.h"

namespace dhow::node {

namespace {

using Kind = ContainerRecord::Kind;
using State = ContainerRecord::State;

bool restarts(const ContainerRecord& record, RestartPolicy policy) {
  if (record.replaced) return true;
  if (record.kind == Kind::kSidecar) return true;
  const bool well = record.ended && record.ended->code == 0;
  if (record.kind == Kind::kInit) return !well && policy != RestartPolicy::kNever;
  if (policy == RestartPolicy::kAlways) return true;
  return policy == RestartPolicy::kOnFailure && !well;
}

// How long until it may be started.
Duration delayOf(const ContainerRecord& record, TimePoint now) {
  if (record.replaced) return Duration::zero();
  if (record.state == State::kExited) return record.restarts.remaining(record.failedAt, now);
  if (record.pullFailed) return record.pulls.remaining(record.failedAt, now);
  return Duration::zero();
}

void want(PodPlan& plan, const std::vector<ContainerRecord>& records, size_t index, TimePoint now) {
  const Duration delay = delayOf(records[index], now);
  if (delay <= Duration::zero()) {
    if (!records[index].configFailed) plan.start.push_back(index);
    return;
  }
  plan.waiting.push_back(index);
  if (!plan.lookAgain || delay < *plan.lookAgain) plan.lookAgain = delay;
}

// Brings the init containers forward; true when they are through.
bool planInit(PodPlan& plan, const std::vector<ContainerRecord>& records, RestartPolicy policy, TimePoint now) {
  for (size_t i = 0; i < records.size(); ++i) {
    const ContainerRecord& record = records[i];
    if (record.kind == Kind::kApp) continue;
    if (record.kind == Kind::kSidecar) {
      if (!record.live()) want(plan, records, i, now);
      if (!record.started) return false;
      continue;
    }
    if (record.state == State::kExited && record.ended && record.ended->code == 0) continue;
    if (record.live()) return false;
    if (record.state == State::kExited && !restarts(record, policy)) {
      plan.failed = true;
      return false;
    }
    want(plan, records, i, now);
    return false;
  }
  return true;
}

}  // namespace

RestartPolicy restartPolicyOf(const json::object& podSpec) {
  std::string_view name = text(podSpec, "restartPolicy");
  if (name == "Never") return RestartPolicy::kNever;
  if (name == "OnFailure") return RestartPolicy::kOnFailure;
  return RestartPolicy::kAlways;
}

PodPlan planPod(const std::vector<ContainerRecord>& records, RestartPolicy policy, bool initialized, TimePoint now) {
  PodPlan plan;
  if (!initialized) {
    plan.initialized = planInit(plan, records, policy, now);
    if (plan.failed) {
      plan.start.clear();
      plan.waiting.clear();
      plan.finished = true;
      return plan;
    }
    if (!plan.initialized) return plan;
  } else {
    plan.initialized = true;
  }
  bool over = true;
  bool well = true;
  for (size_t i = 0; i < records.size(); ++i) {
    const ContainerRecord& record = records[i];
    if (record.kind != Kind::kApp) continue;
    if (record.live()) {
      over = false;
    } else if (record.state == State::kExited && !restarts(record, policy)) {
      if (!record.ended || record.ended->code != 0) well = false;
    } else {
      over = false;
      want(plan, records, i, now);
    }
  }
  if (over) {
    plan.start.clear();
    plan.waiting.clear();
    plan.lookAgain.reset();
    plan.finished = true;
    plan.failed = !well;
    return plan;
  }
  if (!initialized) return plan;  // planInit has seen to the sidecars
  for (size_t i = 0; i < records.size(); ++i) {
    if (records[i].kind == Kind::kSidecar && !records[i].live()) want(plan, records, i, now);
  }
  return plan;
}

}  // namespace dhow::node
