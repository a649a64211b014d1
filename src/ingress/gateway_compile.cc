#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "gateway_model.h"

namespace dhow::ingress {

using client::array;
using client::text;

namespace {

std::string createdAt(const object::Object& object) {
  return std::string(text(object.root(), {"metadata", "creationTimestamp"}));
}

// The verdicts on a route as a whole: it cannot be served, or some of its rules cannot.
struct RuleVerdicts {
  std::optional<Verdict> unusable, partly;
};
RuleVerdicts judgeRules(const RouteModel& route) {
  std::vector<std::string> dropped;
  for (size_t i = 0; i < route.rules.size(); ++i)
    if (!route.rules[i].problem.empty()) dropped.push_back(fmt::format("{}: {}", i, route.rules[i].problem));
  if (dropped.empty() && route.problems.empty()) return {};
  if (dropped.empty())
    return {std::nullopt, Verdict{"PartiallyInvalid", true, "UnsupportedValue", join(route.problems, "; ")}};
  if (dropped.size() == route.rules.size())
    return {Verdict{"Accepted", false, "UnsupportedValue", "rule " + join(dropped, "; rule ")}, std::nullopt};
  return {std::nullopt, Verdict{"PartiallyInvalid", true, "UnsupportedValue",
                                "Dropped Rule " + join(dropped, "; Dropped Rule ") + "; answered with 500" +
                                    (route.problems.empty() ? "" : "; ") + join(route.problems, "; ")}};
}

// The first reference that leads nowhere.
void resolveReferences(RouteModel& route, BackendResolver& resolver) {
  auto resolve = [&](const json::object& ref) {
    ResolvedBackend resolved = resolver.resolve(route.route, ref);
    if (resolved.problem && route.resolved.status) route.resolved = std::move(*resolved.problem);
  };
  auto mirrors = [&](const json::object& holder) {
    eachObject(array(holder, {"filters"}), [&](const json::object& filter) {
      const json::object& ref = client::object(filter, {"requestMirror", "backendRef"});
      if (!ref.empty()) resolve(ref);
    });
  };
  for (const RuleModel& rule : route.rules) {
    eachObject(array(*rule.spec, {"backendRefs"}), [&](const json::object& ref) {
      resolve(ref);
      mirrors(ref);
    });
    mirrors(*rule.spec);
  }
}

// A firewall that cannot be understood closes the route.
void readWaf(RouteModel& route) {
  auto waf = wafPolicyOf(client::object(route.route.object->root(), {"metadata", "annotations"}));
  if (waf.ok()) {
    route.waf = std::move(*waf);
    return;
  }
  for (RuleModel& rule : route.rules)
    if (rule.problem.empty()) rule.problem = waf.error().message();
}

// As Ingresses have it. Requests of a rule that are shared out by weight belong to no pod.
void readAffinity(RouteModel& route) {
  if (route.route.kind != RouteKind::kHttp) return;
  ParsedAffinity parsed = parseAffinity(*route.route.object);
  route.affinity = std::move(parsed.affinity);
  route.problems = std::move(parsed.problems);
  if (!route.affinity) return;
  for (size_t i = 0; i < route.rules.size(); ++i)
    if (isSplit(route.rules[i]))
      route.problems.push_back(fmt::format("rule {} shares its requests out by weight: its users have no affinity", i));
}

GatewayVerdict verdictOf(const Gateway& gateway) {
  GatewayVerdict out{gateway.object, gateway.accepted, gateway.resolved, {}, {}};
  for (const GatewayListener& listener : gateway.listeners) {
    ListenerVerdict one;
    one.name = listener.name;
    one.kinds = listener.kinds;
    one.attachedRoutes = static_cast<int64_t>(listener.attached.size());
    one.served = gateway.accepted.status && listener.served();
    one.verdicts = {listener.accepted, listener.conflicted, listener.resolved};
    if (one.served) out.ports.insert(listener.port);
    out.listeners.push_back(std::move(one));
  }
  return out;
}

}  // namespace

GatewayVerdicts compileGateways(const GatewayDocuments& documents, Config& config) {
  std::vector<ObjectPtr> sorted = documents.gateways;
  auto older = [](const ObjectPtr& a, const ObjectPtr& b) {
    return std::tuple(createdAt(*a), a->key()) < std::tuple(createdAt(*b), b->key());
  };
  std::sort(sorted.begin(), sorted.end(), older);
  std::vector<Gateway> gateways;
  for (const ObjectPtr& one : sorted) gateways.push_back(readGateway(one, documents, config.files));

  std::vector<RouteModel> routes;
  if (!gateways.empty())
    for (const Route& one : documents.routes)
      routes.push_back({one, {}, createdAt(*one.object), one.object->key(), {}, {}, {}, {}, {}});
  std::sort(routes.begin(), routes.end(), [](const RouteModel& a, const RouteModel& b) {
    return std::tuple(std::string_view(a.created), std::string_view(a.key), a.route.kind) <
           std::tuple(std::string_view(b.created), std::string_view(b.key), b.route.kind);
  });
  BackendResolver resolver(documents, config);
  TcpLoops loops(documents, gateways, config);
  GatewayVerdicts out;
  for (RouteModel& route : routes) {
    route.rules = readRules(route.route);
    readWaf(route);
    readAffinity(route);
    const RuleVerdicts rules = judgeRules(route);
    std::vector<ParentVerdict> parents = attach(route, gateways, documents, rules.unusable);
    if (parents.empty()) continue;
    resolveReferences(route, resolver);
    loops.add(route);
    for (ParentVerdict& parent : parents) {
      const bool accepted = parent.verdicts[0].status;
      parent.verdicts.push_back(route.resolved);
      if (accepted && rules.partly) parent.verdicts.push_back(*rules.partly);
    }
    out.routes[static_cast<size_t>(route.route.kind)].push_back({route.route.object, std::move(parents)});
  }
  addFrontends(gateways, routes, resolver, config);
  for (const Gateway& gateway : gateways) out.gateways.push_back(verdictOf(gateway));
  out.policies = resolver.policies(routes);
  return out;
}

}  // namespace dhow::ingress
