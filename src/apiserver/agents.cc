// What agents ask of a master for themselves, with their node's certificate: to keep their tunnel, to pass the drain
// barrier, and what users hold of a pod that leaves.
#include "base/strings.h"
#include "base/version.h"
#include "client/fields.h"
#include "client/streaming.h"
#include "front.h"

namespace dhow::apiserver {

namespace {

constexpr size_t kMostName = 253;

Result<> checkNames(const std::string& ns, const std::string& name, const std::string& uid) {
  for (const std::string* one : {&ns, &name, &uid}) {
    if (one->empty() || one->size() > kMostName)
      return Error(Code::kBadRequest, "namespace, name and uid of a pod are needed");
  }
  return {};
}

Result<> checkOwner(WatchCache& caches, const std::string& node, const std::string& ns, const std::string& name,
                    const std::string& uid) {
  auto pod = caches.of(object::resources::kPods).get(ns, name);
  if (pod && pod->uid() == uid && client::text(pod->root(), {"spec", "nodeName"}) != node)
    return Error(Code::kPermissionDenied, fmt::format("pod {}/{} is not node \"{}\"'s", ns, name, node));
  return {};
}

}  // namespace

Task<Result<>> Front::serveAgent(Call& call) {
  constexpr std::string_view prefix = client::streaming::kTunnelPrefix;
  const std::string_view rest = std::string_view(call.info.path).substr(prefix.size());
  const size_t slash = rest.find('/');
  const std::string_view what = slash == rest.npos ? std::string_view() : rest.substr(slash);
  const bool known =
      what == client::streaming::kTunnelSuffix || what == client::kDrainSuffix || what == client::kHeldSuffix;
  if (!known || slash == 0) co_return Error(Code::kNotFound, "the server could not find the requested resource");
  auto node = percentDecode(rest.substr(0, slash));
  if (!node || call.caller.node() != *node) {
    co_return Error(Code::kPermissionDenied,
                    fmt::format("User \"{}\" cannot speak for another node", call.caller.user));
  }
  if (what == client::kHeldSuffix) co_return co_await serveHeld(call, std::move(*node));
  if (what == client::kDrainSuffix) co_return co_await serveDrain(call, std::move(*node));
  co_return co_await serveTunnel(call, std::move(*node));
}

Task<Result<>> Front::serveTunnel(Call& call, std::string node) {
  if (call.request.version != "2" &&
      !equalsIgnoreCase(call.request.headers.get("Upgrade"), client::streaming::kTunnelUpgrade)) {
    co_return Error(Code::kBadRequest,
                    fmt::format("a tunnel is opened with Upgrade: {}", client::streaming::kTunnelUpgrade));
  }
  const int protocol =
      client::streaming::tunnelProtocol(call.request.headers.get(client::streaming::kTunnelProtocolHeader));
  if (protocol < client::streaming::kOldestTunnelProtocol)
    co_return Error(Code::kBadRequest,
                    fmt::format("the agent of {} and this master (dhow {}) are too far apart: it speaks the tunnel's "
                                "protocol {}, and the master {} to {}",
                                node, thisProgram().version.text(),
                                call.request.headers.get(client::streaming::kTunnelProtocolHeader),
                                client::streaming::kOldestTunnelProtocol, client::streaming::kTunnelProtocol));
  http::Headers headers;
  headers.set("Connection", "Upgrade");
  headers.set("Upgrade", client::streaming::kTunnelUpgrade);
  headers.set(client::streaming::kTunnelProtocolHeader, std::to_string(protocol));
  auto stream = co_await call.writer.hijack(101, std::move(headers));
  CO_RETURN_IF_ERROR(stream);
  tunnels_.add(node, std::move(*stream));
  co_return Result<>();
}

Task<Result<>> Front::serveDrain(Call& call, std::string node) {
  const http::Query& query = call.request.query;
  client::DrainQuestion question{std::string(query.get("namespace")), std::string(query.get("name")),
                                 std::string(query.get("uid")), parseUint(query.get("revision")).value_or(0),
                                 query.get("over") == "1"};
  const bool ofPod = !question.name.empty();
  if (ofPod) CO_RETURN_IF_ERROR(checkNames(question.ns, question.name, question.uid));
  // The pod's deletion may have been told to the agent by another server.
  if (question.revision > 0)
    CO_RETURN_IF_ERROR(co_await registry_.caches().waitFor(static_cast<Revision>(question.revision)));
  if (ofPod) CO_RETURN_IF_ERROR(checkOwner(registry_.caches(), node, question.ns, question.name, question.uid));
  auto drained = co_await barrier_.pass(std::move(question));
  CO_RETURN_IF_ERROR(drained);
  co_return co_await sendJson(call, 200, client::encodeDrained(*drained));
}

Task<Result<>> Front::serveHeld(Call& call, std::string node) {
  client::HeldQuestion question = client::heldQuestion(call.request.query);
  CO_RETURN_IF_ERROR(checkNames(question.ns, question.name, question.uid));
  CO_RETURN_IF_ERROR(checkOwner(registry_.caches(), node, question.ns, question.name, question.uid));
  auto held = co_await sessions_.held(std::move(question));
  CO_RETURN_IF_ERROR(held);
  co_return co_await sendJson(call, 200, client::encodeHeld(*held));
}

}  // namespace dhow::apiserver
