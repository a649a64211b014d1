// Gateways and the routes that attach to them, by the Gateway API (gateway.networking.k8s.io/v1; the specification is
// the comments of its Go types and its GEPs): added to what a HAProxy shall serve, and judged: which conditions hold of
// gateways, listeners, routes and policies. Pure, as compile.h: the agent takes the configuration, the controller the
// verdicts.
//
// Every gateway has ports of its own on the nodes, to which its service leads (gatewayService), so gateways share
// nothing but the process. What is wrong in one listener, route or rule is served in all others.
#pragma once

#include <array>

#include "ingress/compile.h"

namespace dhow::ingress {

constexpr std::string_view kGatewayController = "dhow.io/gateway";
constexpr std::string_view kGatewayGroup = "gateway.networking.k8s.io";
constexpr std::string_view kGatewayServiceNamespace = "kube-system";
// Ports of nodes that gateways may have; below those of NodePort services.
constexpr uint16_t kFirstGatewayPort = 28000, kLastGatewayPort = 29999;

enum class RouteKind : uint8_t { kHttp, kGrpc, kTls, kTcp };
constexpr std::array kRouteKinds{RouteKind::kHttp, RouteKind::kGrpc, RouteKind::kTls, RouteKind::kTcp};
std::string_view nameOf(RouteKind kind);

struct Route {
  RouteKind kind = RouteKind::kHttp;
  ObjectPtr object;
};

struct GatewayDocuments {
  std::vector<ObjectPtr> gateways;  // of our classes, no others
  std::vector<Route> routes;        // all
  std::vector<ObjectPtr> grants, backendTlsPolicies;
  Documents::Find service, secret, configMap;
  std::function<std::vector<ObjectPtr>(std::string_view ns, std::string_view service)> slices;
  std::function<ObjectPtr(std::string_view name)> ns;
};

struct Verdict {
  std::string type;
  bool status = true;
  std::string reason, message;
};
using Verdicts = std::vector<Verdict>;

struct ListenerVerdict {
  std::string name;
  std::vector<RouteKind> kinds;
  int64_t attachedRoutes = 0;
  bool served = false;  // nothing is wrong with it that keeps it from being so
  Verdicts verdicts;    // Accepted, Conflicted, ResolvedRefs
};

struct GatewayVerdict {
  ObjectPtr gateway;
  Verdict accepted;
  Verdict resolvedRefs;
  std::vector<ListenerVerdict> listeners;
  std::set<uint16_t> ports;  // of the listeners that are served
};

// Of a route or policy in the eyes of one of its parents.
struct ParentVerdict {
  boost::json::object parent;  // a reference, as the object has it
  Verdicts verdicts;
};
struct AttachmentVerdict {
  ObjectPtr object;
  std::vector<ParentVerdict> parents;
};

struct GatewayVerdicts {
  std::vector<GatewayVerdict> gateways;
  std::array<std::vector<AttachmentVerdict>, kRouteKinds.size()> routes;
  std::vector<AttachmentVerdict> policies;
};

// Adds to `config`, which holds what Ingresses ask for.
GatewayVerdicts compileGateways(const GatewayDocuments& documents, Config& config);

// The name of its service in kGatewayServiceNamespace; which ports of the nodes are behind the gateway's says that
// service: its targetPorts.
std::string gatewayService(const object::Object& gateway);
std::map<uint16_t, uint16_t> nodePortsOf(const object::Object& service);

// "ns/name" of the secrets and config maps that a gateway, or a BackendTLSPolicy, names and may use.
std::set<std::string> gatewaySecrets(const object::Object& gateway, const std::vector<ObjectPtr>& grants);
std::set<std::string> gatewayConfigMaps(const object::Object& gateway, const std::vector<ObjectPtr>& grants);
std::set<std::string> policyConfigMaps(const object::Object& policy);

}  // namespace dhow::ingress
