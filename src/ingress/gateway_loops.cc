#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "gateway_model.h"
#include "service_servers.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

TcpLoops::TcpLoops(const GatewayDocuments& documents, const std::vector<Gateway>& gateways, Config& config)
    : documents_(documents), config_(config) {
  for (const Gateway& gateway : gateways) {
    const std::string name = gatewayService(*gateway.object);
    const ObjectPtr service = documents.service(kGatewayServiceNamespace, name);
    if (!service) continue;
    gateways_.insert(fmt::format("{}/{}", kGatewayServiceNamespace, name));
    std::vector<std::string> addresses = client::strings(array(service->root(), {"spec", "clusterIPs"}));
    addresses.emplace_back(text(service->root(), {"spec", "clusterIP"}));
    eachObject(array(service->root(), {"status", "loadBalancer", "ingress"}),
               [&](const json::object& one) { addresses.emplace_back(text(one, "ip")); });
    for (const auto& [port, nodePort] : gateway.nodePorts) {
      const Place place{gateway.object->key(), port};
      for (const std::string& address : addresses) places_[endpointText(address, port)] = place;
      services_[fmt::format("{}/{}:{}", kGatewayServiceNamespace, name, port)] = place;
      // Of the nodes.
      for (const ObjectPtr& slice : documents.slices(kGatewayServiceNamespace, name))
        eachObject(array(slice->root(), {"endpoints"}), [&](const json::object& endpoint) {
          for (const std::string& address : client::strings(array(endpoint, {"addresses"})))
            places_[endpointText(address, nodePort)] = place;
        });
    }
  }
}

std::set<TcpLoops::Place> TcpLoops::targets(const Route& route, const json::object& ref) {
  const std::string_view ns = text(ref, "namespace").empty() ? route.object->ns() : text(ref, "namespace");
  const std::string_view name = text(ref, "name");
  const int64_t wanted = number(ref, {"port"}, 0);
  std::set<Place> out;
  if (auto found = services_.find(fmt::format("{}/{}:{}", ns, name, wanted)); found != services_.end())
    out.insert(found->second);
  const ObjectPtr service = documents_.service(ns, name);
  const auto port = service ? findPort(*service, "", wanted) : std::nullopt;
  // Pods are no gateway; whoever writes endpoints himself may write the address of one.
  if (!port || !client::object(service->root(), {"spec", "selector"}).empty()) return out;
  config_.decisive.insert(fmt::format("{}/{}", ns, name));
  config_.decisive.insert(gateways_.begin(), gateways_.end());
  for (const Server& server : serversOf(documents_.slices(ns, name), port->name))
    if (auto found = places_.find(endpointText(server.address, server.port)); found != places_.end())
      out.insert(found->second);
  return out;
}

bool TcpLoops::leads(const Place& from, const std::set<Place>& to, std::set<Place>& seen) const {
  if (to.contains(from)) return true;
  if (!seen.insert(from).second) return false;
  auto next = next_.find(from);
  return next != next_.end() && std::any_of(next->second.begin(), next->second.end(),
                                            [&](const Place& place) { return leads(place, to, seen); });
}

void TcpLoops::add(RouteModel& route) {
  if (route.route.kind != RouteKind::kTls && route.route.kind != RouteKind::kTcp) return;
  std::set<Place> from;
  for (const Attachment& attachment : route.attachments)
    from.emplace(attachment.gateway->object->key(), attachment.listener->port);
  for (const RuleModel& rule : route.rules)
    eachObject(array(*rule.spec, {"backendRefs"}), [&](const json::object& ref) {
      const std::set<Place> to = targets(route.route, ref);
      for (const Place& place : to) {
        std::set<Place> seen;
        if (!leads(place, from, seen)) continue;
        route.loops.insert(&ref);
        if (route.resolved.status)
          route.resolved = {
              "ResolvedRefs", false, "BackendLoop",
              fmt::format("the service \"{}\" leads back to the gateway \"{}\"", text(ref, "name"), place.first)};
        return;
      }
      for (const Place& place : from) next_[place].insert(to.begin(), to.end());
    });
}

}  // namespace dhow::ingress
