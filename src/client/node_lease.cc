#include "node_lease.h"

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

Task<Result<>> awaitNode(Loop& loop, Client& api, std::string name, std::string program, Duration limit) {
  auto isWell = [&](const Object& node) {
    return conditionTrue(node.root(), "Ready") && (program.empty() || node.annotation(kRunsProgram) == program);
  };
  ListOptions one;
  one.fieldSelector = "metadata.name=" + name;
  auto listed = co_await api.list(object::resources::kNodes, one);
  CO_RETURN_IF_ERROR(listed);
  if (!listed->items.empty() && isWell(*listed->items[0])) co_return Result<>();
  auto watcher = co_await api.watch(object::resources::kNodes, one, listed->resourceVersion);
  CO_RETURN_IF_ERROR(watcher);
  Timer late = loop.after(limit, [&] { (*watcher)->close(); });
  while (true) {
    auto event = co_await (*watcher)->next();
    if (!event.ok() && event.error().is(Code::kCancelled))
      co_return Error(Code::kDeadlineExceeded, program.empty()
                                                   ? fmt::format("node {} is not Ready", name)
                                                   : fmt::format("node {} is not Ready with {}", name, program));
    CO_RETURN_IF_ERROR(event);
    if (event->type != WatchEvent::Type::kBookmark && event->object && isWell(*event->object)) break;
  }
  (*watcher)->close();
  co_return Result<>();
}

}  // namespace dhow::client
