#include "host/status.h"

#include "client/fields.h"
#include "client/node_lease.h"
#include "host_client.h"
#include "object/labels.h"

namespace dhow::host {

namespace resources = object::resources;
using client::text;

namespace {

constexpr Duration kLimit = std::chrono::seconds(5);

NodeState stateOfNode(const client::Object& node) {
  NodeState out;
  out.name = node.name();
  out.zone = node.label(object::kZoneLabel);
  out.program = node.annotation(client::kRunsProgram);
  const auto* ready = client::condition(node.root(), "Ready");
  const auto status = ready ? text(*ready, "status") : std::string_view();
  out.state = status == "True" ? "Ready" : status == "Unknown" ? "Unknown" : "NotReady";
  for (const auto& address : client::array(node.root(), {"status", "addresses"})) {
    if (out.address.empty() && address.is_object() && text(address.get_object(), "type") == "InternalIP")
      out.address = text(address.get_object(), "address");
  }
  return out;
}

}  // namespace

Task<Result<HostState>> stateOf(Loop& loop, HostConfig config) {
  CO_ASSIGN_OR_RETURN(auto options, hostClientOptions(config));
  options.requestTimeout = kLimit;
  HostState state;
  state.server = options.servers.front();
  client::HttpClient api(loop, std::move(options));
  auto nodes = co_await api.list(resources::kNodes, {});
  state.answers = nodes.ok();
  if (nodes.ok()) {
    for (const auto& node : nodes->items) state.nodes.push_back(stateOfNode(*node));
    client::ListOptions masters;
    masters.ns = "default";
    masters.labelSelector = "kubernetes.io/service-name=kubernetes";
    auto slices = co_await api.list(resources::kEndpointSlices, std::move(masters));
    if (slices.ok()) {
      for (const auto& slice : slices->items) {
        for (const auto& endpoint : client::array(slice->root(), {"endpoints"})) {
          if (!endpoint.is_object()) continue;
          for (auto& address : client::strings(client::array(endpoint.get_object(), {"addresses"})))
            state.masters.push_back(std::move(address));
        }
      }
    }
  }
  co_await api.stop();
  co_return state;
}

}  // namespace dhow::host
