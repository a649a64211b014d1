#include "edge_services.h"

#include <algorithm>

#include "client/fields.h"
#include "client/node_lease.h"
#include "object/labels.h"
#include "object/resource_names.h"
#include "slice_writer.h"

namespace dhow::controllers {

using namespace client;
namespace resources = object::resources;

namespace {

constexpr const char* kManagedBy = "app.kubernetes.io/managed-by";
constexpr const char* kPolicy = "PreferDualStack";

std::string_view internalAddress(const Object& node, bool six) {
  for (const auto& one : array(node.root(), {"status", "addresses"})) {
    if (!one.is_object() || text(one.get_object(), "type") != "InternalIP") continue;
    const std::string_view address = text(one.get_object(), "address");
    if ((address.find(':') != std::string_view::npos) == six) return address;
  }
  return {};
}

bool mayServe(const Object& node) {
  return !node.deleting() && node.annotation(kIngressLeavesSince).empty() &&
         conditionTrue(node.root(), kServesIngress) && conditionTrue(node.root(), "Ready");
}

json::array servicePorts(const std::vector<EdgeServices::Port>& ports) {
  json::array out;
  for (const auto& port : ports)
    out.push_back(
        json::object{{"name", port.name}, {"port", port.port}, {"protocol", "TCP"}, {"targetPort", port.nodePort}});
  return out;
}

json::array slicePorts(const std::vector<EdgeServices::Port>& ports) {
  json::array out;
  for (const auto& port : ports)
    out.push_back(json::object{{"name", port.name}, {"port", port.nodePort}, {"protocol", "TCP"}});
  return out;
}

// Those of `now`, with what the API gave the ports of `before`.
json::array withNodePorts(json::array now, const json::array& before) {
  for (auto& value : now) {
    json::object& port = value.get_object();
    for (const auto& old : before)
      if (old.is_object() && number(old.get_object(), {"port"}, 0) == number(port, {"port"}, -1))
        if (const auto* nodePort = field(old.get_object(), {"nodePort"})) port["nodePort"] = *nodePort;
  }
  return now;
}

// Whether the members of `wanted` are so in `present`.
bool holds(const json::object& present, const json::object& wanted) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const auto& member) {
    const auto* value = present.if_contains(member.key());
    return value && *value == member.value();
  });
}

}  // namespace

EdgeServices::EdgeServices(Context context, std::string manager)
    : context_(context),
      manager_(std::move(manager)),
      services_(context.caches.of(resources::kServices)),
      slices_(context.caches.of(resources::kEndpointSlices)),
      nodes_(context.caches.of(resources::kNodes)) {}

void EdgeServices::watch(Controller& controller, std::function<void(WorkQueue&)> changed) {
  controller.watch(services_, [this, changed](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const Object& service = after ? *after : *before;
    if (service.ns() == kNamespace && service.label(kManagedBy) == manager_) changed(queue);
  });
  controller.watch(slices_, [this, changed](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    const Object& slice = after ? *after : *before;
    if (slice.ns() == kNamespace && slice.label(object::kSliceManagedByLabel) == manager_) changed(queue);
  });
  controller.watch(nodes_, [changed](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    auto relevant = [](const ObjectPtr& node) {
      return node ? std::tuple(mayServe(*node), std::string(internalAddress(*node, false)),
                               std::string(internalAddress(*node, true)))
                  : std::tuple(false, std::string(), std::string());
    };
    if (relevant(before) != relevant(after)) changed(queue);
  });
}

std::vector<ObjectPtr> EdgeServices::serving() const {
  std::vector<ObjectPtr> out;
  for (const ObjectPtr& node : nodes_.list())
    if (mayServe(*node) && !(internalAddress(*node, false).empty() && internalAddress(*node, true).empty()))
      out.push_back(node);
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a->name() < b->name(); });
  return out;
}

bool EdgeServices::anyNode() const {
  return !serving().empty();
}

std::vector<ObjectPtr> EdgeServices::all() const {
  std::vector<ObjectPtr> out;
  for (const ObjectPtr& service : services_.list(kNamespace))
    if (service->label(kManagedBy) == manager_) out.push_back(service);
  return out;
}

std::vector<std::string> EdgeServices::addresses(std::string_view name) const {
  std::vector<std::string> out;
  if (ObjectPtr service = find(name))
    for (const auto& one : array(service->root(), {"status", "loadBalancer", "ingress"}))
      if (one.is_object() && !text(one.get_object(), "ip").empty()) out.emplace_back(text(one.get_object(), "ip"));
  return out;
}

Task<Result<>> EdgeServices::keep(Wanted wanted) {
  wanted.labels[kManagedBy] = manager_;
  CO_RETURN_IF_ERROR(co_await keepService(wanted));
  const ObjectPtr service = find(wanted.name);
  if (!service) co_return Result<>();  // the cache will hear of it, and of its families
  auto families = strings(array(service->root(), {"spec", "ipFamilies"}));
  if (families.empty()) families = {"IPv4"};
  std::vector<json::object> slices;
  for (const std::string& family : families) slices.push_back(sliceOf(wanted, family == "IPv6"));
  auto written = co_await writeSlices(context_, kNamespace, slicesOf(wanted.name), std::move(slices));
  // The cache will hear of it.
  if (!written.ok() && !written.error().is(Code::kAlreadyExists)) co_return written;
  co_return Result<>();
}

std::vector<ObjectPtr> EdgeServices::slicesOf(std::string_view name) const {
  std::vector<ObjectPtr> out;
  for (const ObjectPtr& slice : slices_.list(kNamespace))
    if (!slice->deleting() && slice->label(object::kServiceNameLabel) == name &&
        slice->label(object::kSliceManagedByLabel) == manager_)
      out.push_back(slice);
  return out;
}

Task<Result<>> EdgeServices::keepService(const Wanted& wanted) {
  ObjectPtr present = find(wanted.name);
  if (!present) {
    json::object metadata{{"name", wanted.name}, {"labels", wanted.labels}};
    if (!wanted.annotations.empty()) metadata["annotations"] = wanted.annotations;
    json::object spec{{"type", "LoadBalancer"}, {"ipFamilyPolicy", kPolicy}, {"ports", servicePorts(wanted.ports)}};
    if (wanted.loadBalancerIp && !wanted.loadBalancerIp->empty()) spec["loadBalancerIP"] = *wanted.loadBalancerIp;
    json::object service{
        {"apiVersion", "v1"}, {"kind", "Service"}, {"metadata", std::move(metadata)}, {"spec", std::move(spec)}};
    auto made = co_await context_.client.create(resources::kServices, kNamespace, std::move(service), "");
    if (!made.ok() && !made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
    co_return Result<>();
  }
  // Somebody else's, which has the name.
  if (present->label(kManagedBy) != manager_)
    co_return Error(Code::kAlreadyExists, fmt::format("the service {}/{} is not ours", kNamespace, wanted.name));
  const json::array& ports = array(present->root(), {"spec", "ports"});
  bool samePorts = ports.size() == wanted.ports.size();
  const json::array asked = servicePorts(wanted.ports);
  for (size_t i = 0; samePorts && i < asked.size(); ++i)
    samePorts = ports[i].is_object() && holds(ports[i].get_object(), asked[i].get_object());
  if (samePorts && text(present->root(), {"spec", "ipFamilyPolicy"}) == kPolicy &&
      holds(client::object(present->root(), {"metadata", "labels"}), wanted.labels) &&
      holds(client::object(present->root(), {"metadata", "annotations"}), wanted.annotations) &&
      (!wanted.loadBalancerIp || text(present->root(), {"spec", "loadBalancerIP"}) == *wanted.loadBalancerIp))
    co_return Result<>();
  json::object spec{{"ipFamilyPolicy", kPolicy}, {"ports", withNodePorts(asked, ports)}};
  if (wanted.loadBalancerIp) {
    if (wanted.loadBalancerIp->empty())
      spec["loadBalancerIP"] = nullptr;
    else
      spec["loadBalancerIP"] = *wanted.loadBalancerIp;
  }
  json::object change{{"metadata", json::object{{"labels", wanted.labels}, {"annotations", wanted.annotations}}},
                      {"spec", std::move(spec)}};
  auto written = co_await context_.client.patch(resources::kServices, kNamespace, wanted.name, "", PatchType::kMerge,
                                                guardedPatch(*present, std::move(change)));
  if (!written.ok()) co_return std::move(written).error();
  co_return Result<>();
}

json::object EdgeServices::sliceOf(const Wanted& wanted, bool six) const {
  json::array endpoints;
  for (const ObjectPtr& node : serving()) {
    const std::string_view address = internalAddress(*node, six);
    if (address.empty()) continue;
    json::object one{{"addresses", json::array{json::string(address)}},
                     {"conditions", json::object{{"ready", true}, {"serving", true}, {"terminating", false}}},
                     {"nodeName", node->name()}};
    if (auto zone = node->label(object::kZoneLabel); !zone.empty()) one["zone"] = zone;
    endpoints.push_back(std::move(one));
  }
  return {{"apiVersion", "discovery.k8s.io/v1"},
          {"kind", "EndpointSlice"},
          {"metadata", json::object{{"name", wanted.name + (six ? "-ipv6" : "")},
                                    {"labels", json::object{{object::kServiceNameLabel, wanted.name},
                                                            {object::kSliceManagedByLabel, manager_}}}}},
          {"addressType", six ? "IPv6" : "IPv4"},
          {"endpoints", std::move(endpoints)},
          {"ports", slicePorts(wanted.ports)}};
}

Task<Result<>> EdgeServices::remove(std::string name) {
  ObjectPtr service = find(name);
  if (service && service->label(kManagedBy) == manager_) {
    auto removed = co_await context_.client.remove(resources::kServices, kNamespace, name, {});
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  }
  co_return co_await writeSlices(context_, kNamespace, slicesOf(name), {});
}

}  // namespace dhow::controllers
