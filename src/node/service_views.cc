#include "services.h"

#include "json.h"

namespace dhow::node {

namespace {

bool conditionOf(const json::object& endpoint, std::string_view name, bool otherwise) {
  const json::value* value = field(endpoint, {"conditions", name});
  return value != nullptr && value->is_bool() ? value->get_bool() : otherwise;
}

struct Candidate {
  ServiceEndpoint endpoint;
  bool ready = false, terminating = false, serving = false;
  std::vector<std::string> zones, nodes;  // hints
};

std::vector<Candidate> candidates(const std::vector<ObjectPtr>& slices, std::string_view portName, Protocol protocol,
                                  bool publishNotReady, const ServiceView& view) {
  std::vector<Candidate> out;
  for (const ObjectPtr& slice : slices) {
    std::optional<uint16_t> port;
    for (const json::value& entry : array(slice->root(), {"ports"})) {
      if (!entry.is_object() || text(entry.get_object(), "name") != portName) continue;
      auto found = parseProtocol(text(entry.get_object(), "protocol"));
      if (!found.ok() || *found != protocol) continue;
      port = static_cast<uint16_t>(number(entry.get_object(), {"port"}, 0));
    }
    if (!port || *port == 0) continue;
    for (const json::value& entry : array(slice->root(), {"endpoints"})) {
      if (!entry.is_object()) continue;
      const json::object& endpoint = entry.get_object();
      const bool ready = publishNotReady || conditionOf(endpoint, "ready", true);
      const bool terminating = conditionOf(endpoint, "terminating", false);
      const bool serving = conditionOf(endpoint, "serving", ready);
      for (const std::string& address : strings(array(endpoint, {"addresses"}))) {
        auto parsed = IpAddress::parse(address);
        if (!parsed.ok()) continue;
        Candidate candidate{
            {*parsed, *port, text(endpoint, "nodeName") == view.node}, ready, terminating, serving, {}, {}};
        for (const json::value& zone : array(endpoint, {"hints", "forZones"})) {
          if (zone.is_object()) candidate.zones.emplace_back(text(zone.get_object(), "name"));
        }
        for (const json::value& node : array(endpoint, {"hints", "forNodes"})) {
          if (node.is_object()) candidate.nodes.emplace_back(text(node.get_object(), "name"));
        }
        out.push_back(std::move(candidate));
      }
    }
  }
  return out;
}

// Those that the hints give to this node, when all have hints and some are for it.
void preferNear(std::vector<Candidate>& all, std::vector<std::string> Candidate::* hints, const std::string& here) {
  if (here.empty()) return;
  std::vector<Candidate> near;
  for (const Candidate& candidate : all) {
    if ((candidate.*hints).empty()) return;
    for (const std::string& hint : candidate.*hints) {
      if (hint == here) near.push_back(candidate);
    }
  }
  if (!near.empty()) all = std::move(near);
}

std::vector<ServiceEndpoint> endpointsOf(const std::vector<Candidate>& from) {
  std::vector<ServiceEndpoint> out;
  for (const Candidate& candidate : from) out.push_back(candidate.endpoint);
  return out;
}

// The ready ones; when there is none, those that end but still answer are better than none (KEP-1669).
std::vector<Candidate> usable(std::vector<Candidate> from) {
  const bool anyReady = std::any_of(from.begin(), from.end(), [](const Candidate& c) { return c.ready; });
  std::erase_if(from, [&](const Candidate& c) { return anyReady ? !c.ready : !c.serving || !c.terminating; });
  return from;
}

// For traffic to everywhere the nearest of all usable ones. For traffic that stays on this node (a policy Local) the
// usable ones of this node: hints do not count there, and a local one that ends is better than none though others are
// ready elsewhere. Both as kube-proxy chooses.
void chooseEndpoints(ServicePort& port, const std::vector<Candidate>& all, const ServiceView& view) {
  std::vector<Candidate> anywhere = usable(all);
  preferNear(anywhere, &Candidate::zones, view.zone);
  preferNear(anywhere, &Candidate::nodes, view.node);
  port.endpoints = endpointsOf(anywhere);
  if (port.internalLocal || port.externalLocal) {
    std::vector<Candidate> here = all;
    std::erase_if(here, [](const Candidate& c) { return !c.endpoint.local; });
    port.localEndpoints = endpointsOf(usable(std::move(here)));
  }
  // A flow without a connection stays with an endpoint that is ready, though others are nearer now. An association is a
  // connection: it lasts while its pod is there.
  if (port.protocol != Protocol::kTcp) {
    std::vector<Candidate> there = all;
    if (port.protocol == Protocol::kUdp) std::erase_if(there, [](const Candidate& c) { return !c.ready; });
    port.standing = endpointsOf(there);
  }
  for (auto* list : {&port.endpoints, &port.localEndpoints, &port.standing}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
}

void addAddress(std::vector<IpAddress>& out, std::string_view value) {
  auto parsed = IpAddress::parse(value);
  if (parsed.ok() && std::find(out.begin(), out.end(), *parsed) == out.end()) out.push_back(*parsed);
}

std::vector<IpAddress> clusterIps(const Object& service) {
  std::vector<IpAddress> out;
  for (const std::string& address : strings(array(service.root(), {"spec", "clusterIPs"}))) addAddress(out, address);
  addAddress(out, text(service.root(), {"spec", "clusterIP"}));
  return out;
}

}  // namespace

std::vector<ServicePort> servicePorts(const Object& service, const std::vector<ObjectPtr>& slices,
                                      const ServiceView& view) {
  std::vector<ServicePort> out;
  const json::object& spec = object(service.root(), {"spec"});
  std::vector<IpAddress> addresses = clusterIps(service);
  if (addresses.empty() || text(spec, "type") == "ExternalName") return out;
  if (std::find(view.dnsAddresses.begin(), view.dnsAddresses.end(), addresses.front()) != view.dnsAddresses.end())
    return out;
  for (const json::value& entry : array(spec, {"ports"})) {
    if (!entry.is_object()) continue;
    const json::object& from = entry.get_object();
    auto protocol = parseProtocol(text(from, "protocol"));
    if (!protocol.ok()) continue;
    ServicePort port;
    port.key = fmt::format("{}:{}/{}", service.key(), number(from, {"port"}, 0), protocolName(*protocol));
    port.protocol = *protocol;
    port.port = static_cast<uint16_t>(number(from, {"port"}, 0));
    port.clusterIps = addresses;
    port.nodePort = static_cast<uint16_t>(number(from, {"nodePort"}, 0));
    for (const json::value& ingress : array(service.root(), {"status", "loadBalancer", "ingress"})) {
      if (!ingress.is_object()) continue;
      // ipMode Proxy: the balancer itself is the way in.
      if (text(ingress.get_object(), "ipMode") != "Proxy")
        addAddress(port.loadBalancerIps, text(ingress.get_object(), "ip"));
    }
    for (const std::string& address : strings(array(spec, {"externalIPs"}))) addAddress(port.externalIps, address);
    for (const std::string& range : strings(array(spec, {"loadBalancerSourceRanges"}))) {
      auto parsed = IpPrefix::parse(range);
      if (parsed.ok()) port.loadBalancerSourceRanges.push_back(*parsed);
    }
    if (text(spec, "sessionAffinity") == "ClientIP") {
      port.affinitySeconds =
          static_cast<int>(number(spec, {"sessionAffinityConfig", "clientIP", "timeoutSeconds"}, 10800));
    }
    port.internalLocal = text(spec, "internalTrafficPolicy") == "Local";
    port.externalLocal = text(spec, "externalTrafficPolicy") == "Local";
    chooseEndpoints(
        port, candidates(slices, text(from, "name"), *protocol, flag(spec, {"publishNotReadyAddresses"}), view), view);
    out.push_back(std::move(port));
  }
  return out;
}

ClusterDns::Service dnsService(const Object& service, const std::vector<ObjectPtr>& slices) {
  ClusterDns::Service out;
  const json::object& spec = object(service.root(), {"spec"});
  out.ns = service.ns();
  out.name = service.name();
  if (text(spec, "type") == "ExternalName") {
    out.externalName = text(spec, "externalName");
    return out;
  }
  out.clusterIps = clusterIps(service);
  for (const json::value& entry : array(spec, {"ports"})) {
    if (!entry.is_object()) continue;
    auto protocol = parseProtocol(text(entry.get_object(), "protocol"));
    if (!protocol.ok()) continue;
    out.ports.push_back({std::string(text(entry.get_object(), "name")), *protocol,
                         static_cast<uint16_t>(number(entry.get_object(), {"port"}, 0))});
  }
  if (!out.clusterIps.empty()) return out;
  const bool publishNotReady = flag(spec, {"publishNotReadyAddresses"});
  for (const ObjectPtr& slice : slices) {
    std::vector<ClusterDns::Port> ports;
    for (const json::value& entry : array(slice->root(), {"ports"})) {
      if (!entry.is_object()) continue;
      auto protocol = parseProtocol(text(entry.get_object(), "protocol"));
      if (!protocol.ok()) continue;
      ports.push_back({std::string(text(entry.get_object(), "name")), *protocol,
                       static_cast<uint16_t>(number(entry.get_object(), {"port"}, 0))});
    }
    for (const json::value& entry : array(slice->root(), {"endpoints"})) {
      if (!entry.is_object()) continue;
      const json::object& endpoint = entry.get_object();
      if (!publishNotReady && !conditionOf(endpoint, "ready", true)) continue;
      for (const std::string& address : strings(array(endpoint, {"addresses"}))) {
        auto parsed = IpAddress::parse(address);
        if (parsed.ok()) out.endpoints.push_back({*parsed, std::string(text(endpoint, "hostname")), ports});
      }
    }
  }
  return out;
}

AddressElection::Wanted announcedAddresses(const Object& service, const std::vector<ObjectPtr>& slices) {
  AddressElection::Wanted out;
  const json::object& spec = object(service.root(), {"spec"});
  if (text(spec, "type") != "LoadBalancer" || !text(spec, "loadBalancerClass").empty()) return out;
  AddressElection::Candidates candidates;
  if (text(spec, "externalTrafficPolicy") == "Local") {
    candidates.any = false;
    for (const ObjectPtr& slice : slices) {
      for (const json::value& entry : array(slice->root(), {"endpoints"})) {
        if (entry.is_object() && conditionOf(entry.get_object(), "ready", true))
          candidates.nodes.emplace(text(entry.get_object(), "nodeName"));
      }
    }
  }
  for (const json::value& ingress : array(service.root(), {"status", "loadBalancer", "ingress"})) {
    if (!ingress.is_object() || text(ingress.get_object(), "ipMode") == "Proxy") continue;
    auto address = IpAddress::parse(text(ingress.get_object(), "ip"));
    if (address.ok()) out[*address] = candidates;
  }
  return out;
}

}  // namespace dhow::node
