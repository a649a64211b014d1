#include "platform.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kPods;

ZonePhase phaseOf(const Object* zone) {
  if (zone == nullptr) return ZonePhase::kUnknown;
  const std::string_view phase = text(zone->root(), {"status", "phase"});
  if (phase == "Up") return ZonePhase::kUp;
  if (phase == "Down") return ZonePhase::kDown;
  if (phase == "Returning") return ZonePhase::kReturning;
  return ZonePhase::kUnknown;
}

std::string_view phaseName(ZonePhase phase) {
  switch (phase) {
    case ZonePhase::kUp: return "Up";
    case ZonePhase::kDown: return "Down";
    case ZonePhase::kReturning: return "Returning";
    case ZonePhase::kUnknown: break;
  }
  return "Unknown";
}

std::string_view standsInFor(const Object& machine) {
  return text(machine.root(), {"spec", "standInFor", "machine"});
}

std::string nodeNameOf(const Object& machine) {
  const std::string_view node = text(machine.root(), {"spec", "nodeName"});
  return std::string(node.empty() ? machine.name() : node);
}

bool nodeReady(const Object& node) {
  return conditionTrue(node.root(), "Ready");
}

void indexByNode(Cache& pods) {
  pods.addIndex(kPodsOfNode, [](const ObjectPtr& pod, std::vector<std::string>& keys) {
    keys.emplace_back(text(pod->root(), {"spec", "nodeName"}));
  });
}

bool boundToNode(const Object& pod) {
  if (podFinished(pod)) return true;
  if (!pod.annotation("kubernetes.io/config.mirror").empty()) return true;
  const json::object* owner = controllerOf(pod);
  return owner != nullptr && (text(*owner, "kind") == "DaemonSet" || text(*owner, "kind") == "Node");
}

bool leaving(const Object& pod) {
  return !pod.annotation(kLeaving).empty();
}

Task<Result<>> writeStatus(Context context, Resource resource, ObjectPtr object, json::object status) {
  if (status == client::object(object->root(), {"status"})) co_return Result<>();
  json::object body = copyOf(object);
  body["status"] = std::move(status);
  Result<ObjectPtr> written =
      co_await context.client.update(resource, "", std::string(object->name()), "status", std::move(body));
  co_return unlessGone(std::move(written));
}

Task<Result<>> eraseDeadPod(Context context, ObjectPtr pod) {
  DeleteOptions options;
  options.uid = pod->uid();
  options.gracePeriodSeconds = 0;
  Result<> removed =
      co_await context.client.remove(kPods, std::string(pod->ns()), std::string(pod->name()), std::move(options));
  co_return unlessGone(std::move(removed));
}

Result<> unlessGone(Result<ObjectPtr> done) {
  if (!done.ok() && !done.error().is(Code::kNotFound)) return std::move(done).error();
  return {};
}

Result<> unlessGone(Result<> done) {
  if (!done.ok() && !done.error().is(Code::kNotFound)) return std::move(done).error();
  return {};
}

}  // namespace dhow::controllers
