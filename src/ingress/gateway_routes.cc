#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "gateway_model.h"
#include "object/selector.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

bool hasHosts(RouteKind kind) {
  return kind != RouteKind::kTcp;
}

bool sameKindOfRequests(RouteKind a, RouteKind b) {
  return a == b || (a != RouteKind::kHttp && a != RouteKind::kGrpc);
}

// By the listener's allowedRoutes.namespaces.
bool allowsNamespace(const GatewayListener& listener, const Gateway& gateway, std::string_view ns,
                     const GatewayDocuments& documents) {
  const json::object& namespaces = client::object(*listener.spec, {"allowedRoutes", "namespaces"});
  const auto from = text(namespaces, "from");
  if (from == "All") return true;
  if (from != "Selector") return ns == gateway.object->ns();
  auto selector = object::LabelSelector::fromDocument(client::field(namespaces, {"selector"}));
  ObjectPtr object = documents.ns(ns);
  return selector.ok() && object && selector->matches(*object);
}

std::vector<std::string> commonHosts(const Route& route, const GatewayListener& listener) {
  if (!hasHosts(route.kind)) return {""};
  std::vector<std::string> wanted = client::strings(array(route.object->root(), {"spec", "hostnames"}));
  if (wanted.empty()) wanted.emplace_back();
  std::vector<std::string> out;
  for (const std::string& host : wanted)
    if (auto common = intersection(listener.hostname, host);
        common && std::find(out.begin(), out.end(), *common) == out.end())
      out.push_back(std::move(*common));
  return out;
}

}  // namespace

std::string_view nameOf(RouteKind kind) {
  switch (kind) {
    case RouteKind::kHttp: return "HTTPRoute";
    case RouteKind::kGrpc: return "GRPCRoute";
    case RouteKind::kTls: return "TLSRoute";
    case RouteKind::kTcp: return "TCPRoute";
  }
  return "";
}

const json::object& RouteModel::spec() const {
  return client::object(route.object->root(), {"spec"});
}

std::optional<std::string> intersection(const std::string& a, const std::string& b) {
  if (a.empty() || a == b) return b;
  if (b.empty()) return a;
  auto covers = [](const std::string& wide, const std::string& host) {
    return wide.starts_with("*.") && host.size() > wide.size() - 1 &&
           host.ends_with(std::string_view(wide).substr(1)) && host != wide;
  };
  if (covers(a, b)) return b;
  if (covers(b, a)) return a;
  return std::nullopt;
}

const std::string* bestHost(const std::vector<std::string>& hosts, const std::string& host) {
  const std::string* best = nullptr;
  for (const std::string& one : hosts) {
    if (intersection(one, host) != host) continue;
    // Of wildcards that cover it the longer; itself before all.
    if (best == nullptr || one == host || (*best != host && one.size() > best->size())) best = &one;
  }
  return best;
}

std::vector<ParentVerdict> attach(RouteModel& route, std::vector<Gateway>& gateways, const GatewayDocuments& documents,
                                  const std::optional<Verdict>& unusable) {
  std::vector<ParentVerdict> out;
  const object::Object& object = *route.route.object;
  for (const auto& value : array(route.spec(), {"parentRefs"})) {
    if (!value.is_object()) continue;
    const json::object& ref = value.get_object();
    const auto group = client::has(ref, {"group"}) ? text(ref, "group") : kGatewayGroup;
    const auto kind = text(ref, "kind");
    if (group != kGatewayGroup || (!kind.empty() && kind != "Gateway")) continue;
    const auto ns = text(ref, "namespace").empty() ? object.ns() : text(ref, "namespace");
    auto gateway = std::find_if(gateways.begin(), gateways.end(), [&](const Gateway& one) {
      return one.object->ns() == ns && one.object->name() == text(ref, "name");
    });
    if (gateway == gateways.end()) continue;
    Verdict verdict{"Accepted", false, "NoMatchingParent", "the gateway has no such listener"};
    auto better = [&](std::string_view reason, std::string message) {
      if (!verdict.status) verdict.reason = reason, verdict.message = std::move(message);
    };
    std::vector<Attachment> attachments;
    bool allowed = false, hosted = false;
    for (GatewayListener& listener : gateway->listeners) {
      const auto section = text(ref, "sectionName");
      const int64_t port = number(ref, {"port"}, 0);
      if ((!section.empty() && section != listener.name) || (port > 0 && port != listener.port)) continue;
      if (!allowed)
        better("NotAllowedByListeners", fmt::format("no listener that it names takes {}s of namespace \"{}\"",
                                                    nameOf(route.route.kind), object.ns()));
      if (std::find(listener.kinds.begin(), listener.kinds.end(), route.route.kind) == listener.kinds.end() ||
          !allowsNamespace(listener, *gateway, object.ns(), documents))
        continue;
      allowed = true;
      std::vector<std::string> hosts = commonHosts(route.route, listener);
      if (hosts.empty() && !hosted)
        better("NoMatchingListenerHostname", "no listener that it names is for one of its hostnames");
      if (hosts.empty()) continue;
      hosted = true;
      attachments.push_back({&*gateway, &listener, std::move(hosts)});
    }
    std::erase_if(attachments, [&](const Attachment& one) {
      for (const auto& [other, otherHosts, otherKey] : one.listener->taken) {
        if (sameKindOfRequests(other, route.route.kind)) continue;
        for (const std::string& a : otherHosts)
          for (const std::string& b : one.hosts)
            if (intersection(a, b)) {
              better("HostnameConflict",
                     fmt::format("the older {} \"{}\" is for the same hostname", nameOf(other), otherKey));
              return true;
            }
      }
      return false;
    });
    if (!attachments.empty() && unusable) {
      verdict = *unusable;
    } else if (!attachments.empty()) {
      verdict = {"Accepted", true, "Accepted", "the route is accepted"};
      for (Attachment& one : attachments) {
        one.listener->attached.insert(fmt::format("{} {}", nameOf(route.route.kind), route.key));
        one.listener->taken.push_back({route.route.kind, one.hosts, route.key});
        const bool there = std::any_of(route.attachments.begin(), route.attachments.end(),
                                       [&](const Attachment& other) { return other.listener == one.listener; });
        if (!there) route.attachments.push_back(std::move(one));
      }
    }
    out.push_back({ref, {std::move(verdict)}});
  }
  return out;
}

}  // namespace dhow::ingress
