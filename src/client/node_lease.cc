#include "node_lease.h"

#include <algorithm>
#include <functional>

#include "base/time.h"
#include "fields.h"

namespace dhow::client {

bool hasIdentity(const object::Object& pod) {
  const json::object* owner = controllerOf(pod);
  if (owner != nullptr && text(*owner, "kind") == "StatefulSet") return true;
  if (pod.annotation("dhow.io/exclusive") == "true") return true;
  for (const json::value& volume : array(pod.root(), {"spec", "volumes"})) {
    if (volume.is_object() && has(volume.get_object(), {"persistentVolumeClaim"})) return true;
  }
  return false;
}

namespace {

// Returns when the node is so; kNotFound when it is deleted, kDeadlineExceeded when it has not become so.
Task<Result<>> awaitNodeThat(Loop& loop, Client& api, std::string name, std::function<bool(const Object&)> isSo,
                             Duration limit) {
  ListOptions one;
  one.fieldSelector = "metadata.name=" + name;
  auto listed = co_await api.list(object::resources::kNodes, one);
  CO_RETURN_IF_ERROR(listed);
  if (!listed->items.empty() && isSo(*listed->items[0])) co_return Result<>();
  auto watcher = co_await api.watch(object::resources::kNodes, one, listed->resourceVersion);
  CO_RETURN_IF_ERROR(watcher);
  Timer late = loop.after(limit, [&] { (*watcher)->close(); });
  while (true) {
    auto event = co_await (*watcher)->next();
    if (!event.ok() && event.error().is(Code::kCancelled))
      co_return Error(Code::kDeadlineExceeded, fmt::format("node {} has not become so", name));
    CO_RETURN_IF_ERROR(event);
    if (event->type == WatchEvent::Type::kDeleted)
      co_return Error(Code::kNotFound, fmt::format("node {} is deleted", name));
    if (event->type != WatchEvent::Type::kBookmark && event->object && isSo(*event->object)) break;
  }
  (*watcher)->close();
  co_return Result<>();
}

bool servesIngress(const Object& node) {
  return conditionTrue(node.root(), kServesIngress);
}

// `since`: a string, or null.
Task<Result<ObjectPtr>> setIngressLeaves(Client& api, std::string node, json::value since) {
  json::object change{{"metadata", {{"annotations", {{kIngressLeavesSince, std::move(since)}}}}}};
  auto done =
      co_await api.patch(object::resources::kNodes, "", std::move(node), "", PatchType::kMerge, std::move(change));
  co_return done;
}

}  // namespace

Task<Result<>> awaitNode(Loop& loop, Client& api, std::string name, std::string program, Duration limit) {
  auto isWell = [program](const Object& node) {
    return conditionTrue(node.root(), "Ready") && (program.empty() || node.annotation(kRunsProgram) == program);
  };
  auto done = co_await awaitNodeThat(loop, api, name, isWell, limit);
  if (!done.ok() && done.error().is(Code::kDeadlineExceeded))
    co_return Error(Code::kDeadlineExceeded, program.empty()
                                                 ? fmt::format("node {} is not Ready", name)
                                                 : fmt::format("node {} is not Ready with {}", name, program));
  co_return done;
}

Task<Result<>> letIngressClientsGo(Loop& loop, Client& api, std::string name, Duration limit) {
  auto node = co_await api.get(object::resources::kNodes, "", name);
  if (!node.ok() && node.error().is(Code::kNotFound)) co_return Result<>();
  CO_RETURN_IF_ERROR(node);
  if (!servesIngress(**node)) co_return Result<>();
  const TimePoint begun = loop.now();
  auto asked = co_await setIngressLeaves(api, name, json::string(formatTime(loop.wallNow())));
  CO_RETURN_IF_ERROR(asked);
  auto heard = co_await awaitNodeThat(
      loop, api, name,
      [](const Object& one) {
        const json::object* serves = condition(one.root(), kServesIngress);
        return !servesIngress(one) || text(*serves, "reason") == kIngressLeaves;
      },
      std::min(limit, kIngressLeaveHeard));
  if (!heard.ok() && heard.error().is(Code::kDeadlineExceeded))
    co_return Error(Code::kDeadlineExceeded, fmt::format("node {} does not let the clients of its Ingresses go", name));
  CO_RETURN_IF_ERROR(heard);
  const Duration left = std::max(Duration::zero(), limit - (loop.now() - begun));
  auto gone = co_await awaitNodeThat(loop, api, name, [](const Object& one) { return !servesIngress(one); }, left);
  if (!gone.ok() && gone.error().is(Code::kDeadlineExceeded))
    co_return Error(Code::kDeadlineExceeded, fmt::format("clients of Ingresses have connections to node {}", name));
  co_return gone;
}

Task<Result<>> keepIngressClients(Client& api, std::string name) {
  auto node = co_await api.get(object::resources::kNodes, "", name);
  if (!node.ok() && node.error().is(Code::kNotFound)) co_return Result<>();
  CO_RETURN_IF_ERROR(node);
  if ((*node)->annotation(kIngressLeavesSince).empty()) co_return Result<>();
  auto kept = co_await setIngressLeaves(api, name, nullptr);
  co_return kept.ok() ? Result<>() : Result<>(std::move(kept).error());
}

}  // namespace dhow::client
