#include "endpointslice.h"

#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "client/node_lease.h"
#include "client/pod_ports.h"
#include "object/labels.h"
#include "platform.h"
#include "slice_writer.h"

namespace dhow::controllers {

using namespace client;
using object::kSliceController;
using object::kSliceManagedByLabel;
using object::kZoneLabel;
using object::resources::kEndpoints;
using object::resources::kEndpointSlices;
using object::resources::kNodes;
using object::resources::kPods;
using object::resources::kServices;

namespace {

constexpr size_t kEndpointsPerSlice = 100;
constexpr size_t kEndpointsAtMost = 1000;
constexpr char kHeadlessLabel[] = "service.kubernetes.io/headless";
constexpr char kBySlices[] = "serviceOfSlice";

bool isManaged(const Object& service) {
  return text(service.root(), {"spec", "type"}) != "ExternalName" &&
         !client::object(service.root(), {"spec", "selector"}).empty() && !service.deleting();
}

bool publishesNotReady(const Object& service) {
  return flag(service.root(), {"spec", "publishNotReadyAddresses"});
}

bool isHeadless(const Object& service) {
  return text(service.root(), {"spec", "clusterIP"}) == "None";
}

// A pod of a silent node may still be there for those who have a session with it: nobody else is sent to it, and who
// does not reach it goes elsewhere.
bool podServes(const Object& pod) {
  const json::object* ready = condition(pod.root(), "Ready");
  return podReady(pod) || (ready != nullptr && text(*ready, "reason") == kNodeNotReady);
}

// What of a pod the slices show.
bool sameEndpoint(const Object& a, const Object& b) {
  return text(a.root(), {"status", "podIP"}) == text(b.root(), {"status", "podIP"}) &&
         array(a.root(), {"status", "podIPs"}) == array(b.root(), {"status", "podIPs"}) && podReady(a) == podReady(b) &&
         podServes(a) == podServes(b) && a.deleting() == b.deleting() && podFinished(a) == podFinished(b) &&
         text(a.root(), {"spec", "nodeName"}) == text(b.root(), {"spec", "nodeName"}) &&
         client::object(a.root(), {"metadata", "labels"}) == client::object(b.root(), {"metadata", "labels"});
}

std::string hostnameIn(const Object& service, const Object& pod) {
  if (text(pod.root(), {"spec", "subdomain"}) != service.name()) return "";
  return std::string(text(pod.root(), {"spec", "hostname"}));
}

json::object targetOf(const Object& pod) {
  return {{"kind", "Pod"}, {"namespace", pod.ns()}, {"name", pod.name()}, {"uid", pod.uid()}};
}

json::array portsJson(const std::vector<EndpointPort>& ports) {
  json::array out;
  for (const auto& port : ports) {
    json::object entry{{"name", port.name}, {"port", port.number}, {"protocol", port.protocol}};
    if (!port.appProtocol.empty()) entry["appProtocol"] = port.appProtocol;
    out.push_back(std::move(entry));
  }
  return out;
}

// For whom the endpoint is meant first, by the service's trafficDistribution (KEP-4444, KEP-3015).
json::object hintsFor(const Object& service, const Object& node) {
  const std::string_view wish = text(service.root(), {"spec", "trafficDistribution"});
  json::object hints;
  if (wish == "PreferSameNode") hints["forNodes"] = json::array{json::object{{"name", node.name()}}};
  if ((wish == "PreferSameNode" || wish == "PreferSameZone" || wish == "PreferClose") &&
      !node.label(kZoneLabel).empty())
    hints["forZones"] = json::array{json::object{{"name", node.label(kZoneLabel)}}};
  return hints;
}

std::string_view familyOf(std::string_view address) {
  return address.find(':') == std::string_view::npos ? "IPv4" : "IPv6";
}

std::vector<std::string> familiesOf(const Object& service) {
  std::vector<std::string> out = strings(array(service.root(), {"spec", "ipFamilies"}));
  if (out.empty()) out.emplace_back(familyOf(text(service.root(), {"spec", "clusterIP"})));
  return out;
}

// Empty when the pod has none of that family.
std::string addressOf(const Object& pod, std::string_view family) {
  for (const json::value& entry : array(pod.root(), {"status", "podIPs"})) {
    const std::string_view address = entry.is_object() ? text(entry.get_object(), "ip") : "";
    if (!address.empty() && familyOf(address) == family) return std::string(address);
  }
  const std::string_view only = text(pod.root(), {"status", "podIP"});
  return only.empty() || familyOf(only) != family ? "" : std::string(only);
}

json::object endpointOf(const Object& service, const Object& pod, std::string_view address, const ObjectPtr& node) {
  const bool ready = podReady(pod);
  json::object endpoint{{"addresses", json::array{address}},
                        {"conditions", json::object{{"ready", publishesNotReady(service) || (ready && !pod.deleting())},
                                                    {"serving", podServes(pod)},
                                                    {"terminating", pod.deleting()}}},
                        {"targetRef", targetOf(pod)},
                        {"nodeName", text(pod.root(), {"spec", "nodeName"})}};
  if (std::string hostname = hostnameIn(service, pod); !hostname.empty()) endpoint["hostname"] = hostname;
  if (node) {
    if (!node->label(kZoneLabel).empty()) endpoint["zone"] = node->label(kZoneLabel);
    if (json::object hints = hintsFor(service, *node); ready && !pod.deleting() && !hints.empty())
      endpoint["hints"] = std::move(hints);
  }
  return endpoint;
}

json::object sliceLabels(const Object& service) {
  json::object labels = client::object(service.root(), {"metadata", "labels"});
  labels[object::kServiceNameLabel] = service.name();
  labels[kSliceManagedByLabel] = kSliceController;
  if (isHeadless(service)) labels[kHeadlessLabel] = "";
  return labels;
}

json::object newSlice(const Object& service, std::string_view family, json::array endpoints,
                      const std::vector<EndpointPort>& ports) {
  return {{"apiVersion", "discovery.k8s.io/v1"},
          {"kind", "EndpointSlice"},
          {"metadata", json::object{{"generateName", std::string(service.name()) + "-"},
                                    {"namespace", service.ns()},
                                    {"labels", sliceLabels(service)},
                                    {"ownerReferences", json::array{controllerReference(service)}}}},
          {"addressType", family},
          {"endpoints", std::move(endpoints)},
          {"ports", portsJson(ports)}};
}

Result<> withoutValue(Result<ObjectPtr> done) {
  if (!done.ok()) return std::move(done).error();
  return {};
}

}  // namespace

std::vector<EndpointPort> resolvePorts(const Object& service, const Object& pod) {
  std::vector<EndpointPort> ports;
  for (const json::value& value : array(service.root(), {"spec", "ports"})) {
    if (!value.is_object()) continue;
    const json::object& wanted = value.get_object();
    EndpointPort port{std::string(text(wanted, "name")), std::string(text(wanted, "protocol")),
                      std::string(text(wanted, "appProtocol")), 0};
    if (port.protocol.empty()) port.protocol = "TCP";
    const json::value* target = field(wanted, {"targetPort"});
    if (target == nullptr || (target->is_int64() && target->get_int64() == 0)) {
      port.number = number(wanted, {"port"}, 0);
    } else if (target->is_int64()) {
      port.number = target->get_int64();
    } else if (target->is_string()) {
      const auto all = podPorts(pod);
      auto named = std::find_if(all.begin(), all.end(), [&](const PodPort& offered) {
        return offered.name == target->get_string() && offered.protocol == port.protocol;
      });
      if (named != all.end()) port.number = named->number;
    }
    if (port.number > 0) ports.push_back(std::move(port));
  }
  return ports;
}

EndpointSliceController::EndpointSliceController(Context context)
    : context_(context),
      services_(context.caches.of(kServices)),
      pods_(context.caches.of(kPods)),
      nodes_(context.caches.of(kNodes)),
      slices_(context.caches.of(kEndpointSlices)),
      endpoints_(context.caches.of(kEndpoints)),
      controller_(context.loop, {.name = "endpointslice"},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  slices_.addIndex(kBySlices, [](const ObjectPtr& slice, std::vector<std::string>& keys) {
    if (slice->label(kSliceManagedByLabel) == kSliceController) keys.push_back(serviceOf(*slice));
  });
  indexByNode(pods_);
  controller_.watchOwn(services_);
  controller_.watch(pods_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    podChanged(before, after, queue);
  });
  // A slice that somebody removed or changed is put right; so is one that was made twice, as the first was not seen in
  // time.
  controller_.watch(slices_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const ObjectPtr& slice = after ? after : before;
    if (slice->label(kSliceManagedByLabel) == kSliceController) queue.add(serviceOf(*slice));
  });
  // Endpoints tell their node's zone, and hints follow from it.
  controller_.watch(nodes_, [this](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    nodeChanged(before, after, queue);
  });
  controller_.require(endpoints_);
}

void EndpointSliceController::nodeChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  const std::string_view was = before ? before->label(kZoneLabel) : "", is = after ? after->label(kZoneLabel) : "";
  if (was == is) return;
  const ObjectPtr& node = after ? after : before;
  for (const ObjectPtr& pod : pods_.byIndex(kPodsOfNode, node->name())) addServicesOf(nullptr, pod, queue);
}

void EndpointSliceController::podChanged(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  if (before && after && sameEndpoint(*before, *after)) return;
  addServicesOf(before, after, queue);
}

void EndpointSliceController::addServicesOf(const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
  for (const ObjectPtr& service : services_.list((after ? after : before)->ns())) {
    if (!isManaged(*service)) continue;
    auto selector = object::LabelSelector::fromMap(client::object(service->root(), {"spec", "selector"}));
    if ((before && selector.matches(*before)) || (after && selector.matches(*after))) queue.add(service->key());
  }
}

std::vector<ObjectPtr> EndpointSliceController::podsOf(const Object& service) const {
  auto selector = object::LabelSelector::fromMap(client::object(service.root(), {"spec", "selector"}));
  std::vector<ObjectPtr> pods;
  for (const ObjectPtr& pod : pods_.list(service.ns())) {
    if (!text(pod->root(), {"status", "podIP"}).empty() && !podFinished(*pod) && selector.matches(*pod))
      pods.push_back(pod);
  }
  std::sort(pods.begin(), pods.end(), [](const ObjectPtr& a, const ObjectPtr& b) { return a->name() < b->name(); });
  return pods;
}

Task<Result<>> EndpointSliceController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr service = services_.get(ns, name);
  // The slices of a service that is gone are its dependents: the garbage collector takes them.
  if (!service || !isManaged(*service)) co_return Result<>();
  std::vector<ObjectPtr> pods = podsOf(*service);
  Result<> slices = co_await syncSlices(service, pods);
  if (!slices.ok()) co_return slices;
  Result<> endpoints = co_await syncEndpoints(service, std::move(pods));
  co_return endpoints;
}

Task<Result<>> EndpointSliceController::syncSlices(ObjectPtr service, std::vector<ObjectPtr> pods) {
  std::vector<json::object> wanted;
  for (const std::string& family : familiesOf(*service)) {
    // Pods that serve the ports alike share slices.
    std::map<std::vector<EndpointPort>, json::array> groups;
    for (const ObjectPtr& pod : pods) {
      const std::string address = addressOf(*pod, family);
      if (address.empty()) continue;
      groups[resolvePorts(*service, *pod)].push_back(
          endpointOf(*service, *pod, address, nodes_.get("", text(pod->root(), {"spec", "nodeName"}))));
    }
    if (groups.empty()) wanted.push_back(newSlice(*service, family, {}, {}));
    for (auto& [ports, endpoints] : groups) {
      for (size_t at = 0; at < endpoints.size(); at += kEndpointsPerSlice) {
        json::array chunk(endpoints.begin() + static_cast<long>(at),
                          endpoints.begin() + static_cast<long>(std::min(at + kEndpointsPerSlice, endpoints.size())));
        wanted.push_back(newSlice(*service, family, std::move(chunk), ports));
      }
    }
  }

  std::vector<ObjectPtr> existing = slices_.byIndex(kBySlices, service->key());
  std::erase_if(existing,
                [&](const ObjectPtr& slice) { return slice->deleting() || controllerUid(*slice) != service->uid(); });
  const std::string ns(service->ns());
  Result<> done = co_await writeSlices(context_, ns, std::move(existing), std::move(wanted));
  co_return done;
}

Task<Result<>> EndpointSliceController::syncEndpoints(ObjectPtr service, std::vector<ObjectPtr> pods) {
  struct Addresses {
    json::array ready, notReady;
  };
  std::map<std::vector<EndpointPort>, Addresses> groups;
  size_t count = 0;
  const std::string family = familiesOf(*service).front();  // Endpoints know only one
  for (const ObjectPtr& pod : pods) {
    const std::string ip = addressOf(*pod, family);
    if (ip.empty() || pod->deleting() || ++count > kEndpointsAtMost) continue;
    json::object address{
        {"ip", ip}, {"nodeName", text(pod->root(), {"spec", "nodeName"})}, {"targetRef", targetOf(*pod)}};
    if (std::string hostname = hostnameIn(*service, *pod); !hostname.empty()) address["hostname"] = hostname;
    Addresses& group = groups[resolvePorts(*service, *pod)];
    (podReady(*pod) || publishesNotReady(*service) ? group.ready : group.notReady).push_back(std::move(address));
  }
  json::array subsets;
  for (auto& [ports, addresses] : groups) {
    json::object subset;
    if (!addresses.ready.empty()) subset["addresses"] = std::move(addresses.ready);
    if (!addresses.notReady.empty()) subset["notReadyAddresses"] = std::move(addresses.notReady);
    if (!ports.empty()) subset["ports"] = portsJson(ports);
    subsets.push_back(std::move(subset));
  }
  const std::string ns(service->ns()), name(service->name());
  json::object labels = client::object(service->root(), {"metadata", "labels"});
  labels["endpoints.kubernetes.io/managed-by"] = "endpoint-controller";
  if (isHeadless(*service)) labels[kHeadlessLabel] = "";
  ObjectPtr existing = endpoints_.get(ns, name);
  if (!existing) {
    json::object document{{"apiVersion", "v1"},
                          {"kind", "Endpoints"},
                          {"metadata", json::object{{"name", name},
                                                    {"namespace", ns},
                                                    {"labels", std::move(labels)},
                                                    {"ownerReferences", json::array{controllerReference(*service)}}}},
                          {"subsets", std::move(subsets)}};
    Result<ObjectPtr> created = co_await context_.client.create(kEndpoints, ns, std::move(document));
    co_return withoutValue(std::move(created));
  }
  if (array(existing->root(), {"subsets"}) == subsets &&
      client::object(existing->root(), {"metadata", "labels"}) == labels)
    co_return Result<>();
  json::object document = copyOf(existing);
  document["subsets"] = std::move(subsets);
  metadataOf(document)["labels"] = std::move(labels);
  Result<ObjectPtr> updated = co_await context_.client.update(kEndpoints, ns, name, "", std::move(document));
  co_return withoutValue(std::move(updated));
}

}  // namespace dhow::controllers
