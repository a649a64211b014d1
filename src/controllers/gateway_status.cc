#include "gateway_status.h"

#include <algorithm>

#include "base/strings.h"
#include "base/time.h"

namespace dhow::controllers {

using namespace client;
using ingress::Verdict;
using ingress::Verdicts;

namespace {

// Names of the specification (pkg/features), sorted.
constexpr std::string_view kFeatures[] = {"BackendTLSPolicy",
                                          "GRPCRoute",
                                          "Gateway",
                                          "GatewayFrontendClientCertificateValidation",
                                          "GatewayHTTPListenerIsolation",
                                          "GatewayInfrastructurePropagation",
                                          "GatewayPort8080",
                                          "GatewayStaticAddresses",
                                          "HTTPRoute",
                                          "HTTPRoute303RedirectStatusCode",
                                          "HTTPRoute307RedirectStatusCode",
                                          "HTTPRoute308RedirectStatusCode",
                                          "HTTPRouteBackendProtocolH2C",
                                          "HTTPRouteBackendProtocolWebSocket",
                                          "HTTPRouteBackendRequestHeaderModification",
                                          "HTTPRouteBackendTimeout",
                                          "HTTPRouteCORS",
                                          "HTTPRouteDestinationPortMatching",
                                          "HTTPRouteHostRewrite",
                                          "HTTPRouteMethodMatching",
                                          "HTTPRouteNamedRouteRule",
                                          "HTTPRouteParentRefPort",
                                          "HTTPRoutePathRedirect",
                                          "HTTPRoutePathRewrite",
                                          "HTTPRoutePortRedirect",
                                          "HTTPRouteQueryParamMatching",
                                          "HTTPRouteRequestMirror",
                                          "HTTPRouteRequestMultipleMirrors",
                                          "HTTPRouteRequestPercentageMirror",
                                          "HTTPRouteResponseHeaderModification",
                                          "HTTPRouteSchemeRedirect",
                                          "ReferenceGrant",
                                          "TCPRoute",
                                          "TLSRoute",
                                          "TLSRouteModeTerminate"};

Verdict programmed(const ingress::GatewayVerdict& verdict, const GatewayProgress& progress) {
  if (!verdict.accepted.status) return {"Programmed", false, "Invalid", verdict.accepted.message};
  if (!progress.ports) return {"Programmed", false, "NoResources", "the nodes have no port left for a listener"};
  if (progress.addresses.empty())
    return {"Programmed", false, progress.addressAsked ? "AddressNotUsable" : "AddressNotAssigned",
            fmt::format("no address yet; the events of the service {}/{} say why",
                        std::string(ingress::kGatewayServiceNamespace), ingress::gatewayService(*verdict.gateway))};
  if (!progress.nodes) return {"Programmed", false, "Pending", "no node serves yet"};
  return {"Programmed", true, "Programmed", "the nodes serve it"};
}

json::array kindsOf(const ingress::ListenerVerdict& listener) {
  json::array out;
  for (ingress::RouteKind kind : listener.kinds)
    out.push_back(json::object{{"group", ingress::kGatewayGroup}, {"kind", ingress::nameOf(kind)}});
  return out;
}

const json::array& conditionsOf(const json::array& entries, std::string_view name) {
  for (const auto& entry : entries)
    if (entry.is_object() && text(entry.get_object(), "name") == name) return array(entry.get_object(), {"conditions"});
  static const json::array kNone;
  return kNone;
}

}  // namespace

json::array withConditions(const json::array& present, const Verdicts& verdicts, int64_t generation, WallTime now) {
  json::array out;
  auto find = [](const json::array& all, std::string_view type) -> const json::object* {
    for (const auto& one : all)
      if (one.is_object() && text(one.get_object(), "type") == type) return &one.get_object();
    return nullptr;
  };
  for (const Verdict& verdict : verdicts) {
    const std::string_view status = verdict.status ? "True" : "False";
    const json::object* before = find(present, verdict.type);
    const bool same = before != nullptr && text(*before, "status") == status;
    out.push_back(
        json::object{{"type", verdict.type},
                     {"status", status},
                     {"observedGeneration", generation},
                     {"lastTransitionTime", same ? std::string(text(*before, "lastTransitionTime")) : formatTime(now)},
                     {"reason", verdict.reason},
                     {"message", verdict.message}});
  }
  // Of ours, what no longer holds goes; others' stay.
  for (const auto& one : present)
    if (one.is_object() && !find(out, text(one.get_object(), "type")) &&
        text(one.get_object(), "type").find('/') != std::string_view::npos)
      out.push_back(one);
  return out;
}

json::object gatewayStatus(const ingress::GatewayVerdict& verdict, const GatewayProgress& progress, WallTime now) {
  const object::Object& gateway = *verdict.gateway;
  const int64_t generation = number(gateway.metadata(), {"generation"}, 0);
  const Verdict whole = programmed(verdict, progress);
  json::object out;
  json::array addresses;
  for (const std::string& address : progress.addresses)
    addresses.push_back(json::object{{"type", "IPAddress"}, {"value", address}});
  out["addresses"] = std::move(addresses);
  out["conditions"] = withConditions(array(gateway.root(), {"status", "conditions"}),
                                     {verdict.accepted, whole, verdict.resolvedRefs}, generation, now);
  json::array listeners;
  for (const ingress::ListenerVerdict& listener : verdict.listeners) {
    Verdicts verdicts = listener.verdicts;
    if (!listener.served)
      verdicts.push_back({"Programmed", false, "Invalid", "it cannot be served"});
    else if (!whole.status)
      verdicts.push_back({"Programmed", false, "Pending", whole.message});
    else
      verdicts.push_back({"Programmed", true, "Programmed", "the nodes serve it"});
    listeners.push_back(json::object{
        {"name", listener.name},
        {"supportedKinds", kindsOf(listener)},
        {"attachedRoutes", listener.attachedRoutes},
        {"conditions", withConditions(conditionsOf(array(gateway.root(), {"status", "listeners"}), listener.name),
                                      verdicts, generation, now)}});
  }
  out["listeners"] = std::move(listeners);
  return out;
}

json::object gatewayClassStatus(const object::Object& gatewayClass, WallTime now) {
  Verdict accepted{"Accepted", true, "Accepted", "gateways of this class are served by HAProxy on every node"};
  if (has(gatewayClass.root(), {"spec", "parametersRef"}))
    accepted = {"Accepted", false, "InvalidParameters", "classes of this controller have no parameters"};
  json::object out;
  out["conditions"] = withConditions(array(gatewayClass.root(), {"status", "conditions"}), {accepted},
                                     number(gatewayClass.metadata(), {"generation"}, 0), now);
  json::array features;
  for (std::string_view name : kFeatures) features.push_back(json::object{{"name", name}});
  out["supportedFeatures"] = std::move(features);
  return out;
}

json::array parentStatuses(const object::Object& object, std::string_view list, std::string_view reference,
                           const ingress::AttachmentVerdict* verdict, WallTime now) {
  const json::array& present = array(object.root(), {"status", list});
  json::array out;
  auto isOurs = [](const json::value& entry) {
    return entry.is_object() && text(entry.get_object(), "controllerName") == ingress::kGatewayController;
  };
  for (const auto& entry : present)
    if (!isOurs(entry)) out.push_back(entry);
  if (verdict == nullptr) return out;
  for (const ingress::ParentVerdict& parent : verdict->parents) {
    static const json::array kNone;
    const json::array* before = &kNone;
    for (const auto& entry : present)
      if (isOurs(entry) && client::object(entry.get_object(), {reference}) == parent.parent)
        before = &array(entry.get_object(), {"conditions"});
    json::object entry;
    entry[reference] = parent.parent;
    entry["controllerName"] = ingress::kGatewayController;
    entry["conditions"] = withConditions(*before, parent.verdicts, number(object.metadata(), {"generation"}, 0), now);
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace dhow::controllers
