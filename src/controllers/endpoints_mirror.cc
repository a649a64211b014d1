#include "endpoints_mirror.h"

#include <boost/json/serialize.hpp>

#include "object/labels.h"
#include "slice_writer.h"

namespace dhow::controllers {

using namespace client;
using object::kSliceManagedByLabel;
using object::kSliceMirror;
using object::resources::kEndpoints;
using object::resources::kEndpointSlices;
using object::resources::kServices;

namespace {

constexpr char kMirrored[] = "endpointsOfSlice";
constexpr char kSkip[] = "endpointslice.kubernetes.io/skip-mirror";
constexpr char kLeader[] = "control-plane.alpha.kubernetes.io/leader";
constexpr size_t kAddressesAtMost = 1000;  // of a subset, and so of a slice

bool wantsMirror(const ObjectPtr& endpoints, const ObjectPtr& service) {
  return endpoints && !endpoints->deleting() && service && !service->deleting() &&
         client::object(service->root(), {"spec", "selector"}).empty() && endpoints->label(kSkip) != "true" &&
         !client::object(endpoints->root(), {"metadata", "annotations"}).contains(kLeader);
}

json::object endpointOf(const json::object& address, bool ready) {
  json::object out{{"addresses", json::array{text(address, "ip")}}, {"conditions", json::object{{"ready", ready}}}};
  for (const char* field : {"hostname", "nodeName"}) {
    if (auto value = text(address, field); !value.empty()) out[field] = value;
  }
  if (const json::value* target = field(address, {"targetRef"})) out["targetRef"] = *target;
  return out;
}

json::object sliceOf(const Object& endpoints, std::string_view family, json::array entries, json::array ports) {
  json::object labels = client::object(endpoints.root(), {"metadata", "labels"});
  labels[object::kServiceNameLabel] = endpoints.name();
  labels[kSliceManagedByLabel] = kSliceMirror;
  return {{"apiVersion", "discovery.k8s.io/v1"},
          {"kind", "EndpointSlice"},
          {"metadata", json::object{{"generateName", std::string(endpoints.name()) + "-"},
                                    {"namespace", endpoints.ns()},
                                    {"labels", std::move(labels)},
                                    {"ownerReferences", json::array{controllerReference(endpoints)}}}},
          {"addressType", family},
          {"endpoints", std::move(entries)},
          {"ports", std::move(ports)}};
}

// One for each set of ports and family of addresses.
std::vector<json::object> slicesFor(const Object& endpoints) {
  struct Group {
    json::array entries, ports;
  };
  std::map<std::pair<std::string, std::string>, Group> groups;  // family, ports
  for (const json::value& value : array(endpoints.root(), {"subsets"})) {
    if (!value.is_object()) continue;
    const json::object& subset = value.get_object();
    json::array ports;
    for (const json::value& port : array(subset, {"ports"})) {
      if (!port.is_object()) continue;
      json::object entry = port.get_object();
      if (!entry.contains("name")) entry["name"] = "";
      if (!entry.contains("protocol")) entry["protocol"] = "TCP";
      ports.push_back(std::move(entry));
    }
    const std::string spelled = json::serialize(ports);
    for (const char* list : {"addresses", "notReadyAddresses"}) {
      for (const json::value& address : array(subset, {list})) {
        if (!address.is_object()) continue;
        const bool six = text(address.get_object(), "ip").find(':') != std::string_view::npos;
        Group& group = groups[{six ? "IPv6" : "IPv4", spelled}];
        if (group.entries.size() >= kAddressesAtMost) continue;
        group.ports = ports;
        group.entries.push_back(endpointOf(address.get_object(), list == std::string_view("addresses")));
      }
    }
  }
  std::vector<json::object> out;
  for (auto& [key, group] : groups)
    out.push_back(sliceOf(endpoints, key.first, std::move(group.entries), std::move(group.ports)));
  return out;
}

}  // namespace

EndpointsMirrorController::EndpointsMirrorController(Context context)
    : context_(context),
      services_(context.caches.of(kServices)),
      endpoints_(context.caches.of(kEndpoints)),
      slices_(context.caches.of(kEndpointSlices)),
      controller_(context.loop, {.name = "endpointslicemirroring"},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  slices_.addIndex(kMirrored, [](const ObjectPtr& slice, std::vector<std::string>& keys) {
    if (slice->label(kSliceManagedByLabel) == kSliceMirror) keys.push_back(serviceOf(*slice));
  });
  controller_.watchOwn(endpoints_);
  controller_.watchOwn(services_);
  controller_.watch(slices_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const ObjectPtr& slice = after ? after : before;
    if (slice->label(kSliceManagedByLabel) == kSliceMirror) queue.add(serviceOf(*slice));
  });
}

Task<Result<>> EndpointsMirrorController::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr endpoints = endpoints_.get(ns, name);
  std::vector<json::object> wanted;
  if (wantsMirror(endpoints, services_.get(ns, name))) wanted = slicesFor(*endpoints);
  std::vector<ObjectPtr> existing = slices_.byIndex(kMirrored, key);
  std::erase_if(existing, [](const ObjectPtr& slice) { return slice->deleting(); });
  Result<> done = co_await writeSlices(context_, std::string(ns), std::move(existing), std::move(wanted));
  co_return done;
}

}  // namespace dhow::controllers
