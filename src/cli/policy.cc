// policy: what network policies say of a connection. Reads the API and asks the functions that the nodes' rules are
// made with (node/policies.h).
#include <unistd.h>

#include <cstdio>

#include "base/strings.h"
#include "client/fields.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "client/pod_ports.h"
#include "cluster_option.h"
#include "commands.h"
#include "node/policies.h"

namespace dhow::cli {

namespace {

namespace resources = object::resources;
using client::ObjectPtr;
using client::text;
using node::PolicyEnd;

constexpr int kDenied = 1;
constexpr const char* kExternal = "external";
constexpr const char* kSomewhere[] = {"192.0.2.1", "2001:db8::1"};  // nobody's addresses (RFC 5737, RFC 3849)

struct Query {
  std::string from, to, protocol = "TCP";
  int port = 0;
};

struct World {
  std::vector<ObjectPtr> policies, namespaces, pods, services;
};

struct Target {
  PolicyEnd end;
  uint16_t port = 0;
  std::string name;
};

std::pair<std::string, std::string> split(const std::string& name) {
  auto parts = splitOnce(name, '/');
  if (!parts) return {"default", name};
  return {std::string(parts->first), std::string(parts->second)};
}

ObjectPtr named(const std::vector<ObjectPtr>& all, const std::string& name) {
  auto [ns, own] = split(name);
  for (const ObjectPtr& object : all) {
    if (object->ns() == ns && object->name() == own) return object;
  }
  return nullptr;
}

// A pod by each of its addresses.
Result<std::vector<PolicyEnd>> podEnds(const ObjectPtr& pod) {
  std::vector<PolicyEnd> out;
  for (const IpAddress& address : node::podAddresses(*pod)) out.push_back({pod, address});
  if (out.empty()) {
    // Of its node, if it has none of its own.
    auto address = IpAddress::parse(text(pod->root(), {"status", "podIP"}));
    if (!address.ok()) return Error(Code::kFailedPrecondition, fmt::format("pod {} has no address yet", pod->key()));
    out.push_back({pod, *address});
  }
  return out;
}

// Empty: it is no address.
std::vector<PolicyEnd> addressEnds(const World& world, const std::string& name) {
  if (name == kExternal) {
    std::vector<PolicyEnd> out;
    for (const char* somewhere : kSomewhere) out.push_back({nullptr, IpAddress::parse(somewhere).value()});
    return out;
  }
  auto address = IpAddress::parse(name);
  if (!address.ok()) return {};
  for (const ObjectPtr& pod : world.pods) {
    auto all = node::podAddresses(*pod);
    if (std::find(all.begin(), all.end(), *address) != all.end()) return {PolicyEnd{pod, *address}};
  }
  return {PolicyEnd{nullptr, *address}};
}

std::string describe(const std::string& given, const PolicyEnd& end) {
  if (!end.pod) return given == kExternal ? "outside of the cluster" : "address " + end.address.str();
  return fmt::format("pod {} ({}, node {})", end.pod->key(), end.address.str(),
                     text(end.pod->root(), {"spec", "nodeName"}));
}

// The pods behind a service, each with the port that the service's port leads to there.
Result<std::vector<Target>> behind(const World& world, const ObjectPtr& service, Protocol protocol, int port) {
  std::vector<Target> out;
  auto selector = object::LabelSelector::fromMap(client::object(service->root(), {"spec", "selector"}));
  if (selector.everything())
    return Error(Code::kInvalid, fmt::format("service {} selects no pods: name an address", service->key()));
  bool known = false;
  for (const auto& value : client::array(service->root(), {"spec", "ports"})) {
    if (!value.is_object()) continue;
    const auto& entry = value.get_object();
    auto its = parseProtocol(text(entry, "protocol"));
    const int64_t number = client::number(entry, {"port"}, 0);
    if (!its.ok() || *its != protocol || (port != 0 && number != port)) continue;
    known = true;
    for (const ObjectPtr& pod : world.pods) {
      if (pod->ns() != service->ns() || !selector.matches(*pod)) continue;
      auto ends = podEnds(pod);
      if (!ends.ok()) continue;
      const std::vector<std::string> families = client::strings(client::array(service->root(), {"spec", "ipFamilies"}));
      auto add = [&](int64_t target) {
        for (const PolicyEnd& end : *ends) {
          const char* family = end.address.isV6() ? "IPv6" : "IPv4";
          if (!families.empty() && std::find(families.begin(), families.end(), family) == families.end()) continue;
          out.push_back(
              {end, static_cast<uint16_t>(target), fmt::format("service {} port {}", service->key(), number)});
        }
      };
      const std::string_view name = text(entry, "targetPort");
      if (name.empty()) add(client::number(entry, {"targetPort"}, number));
      for (const NamedPort& candidate : node::namedPorts(*pod)) {
        if (candidate.name == name && candidate.protocol == protocol) add(candidate.port);
      }
    }
  }
  if (!known) return Error(Code::kNotFound, fmt::format("service {} has no such port", service->key()));
  if (out.empty()) return Error(Code::kNotFound, fmt::format("service {} has no pods", service->key()));
  return out;
}

Result<std::vector<Target>> targets(const World& world, const Query& query, Protocol protocol) {
  std::vector<PolicyEnd> ends;
  const ObjectPtr pod = named(world.pods, query.to);
  if (pod) {
    ASSIGN_OR_RETURN(ends, podEnds(pod));
  } else if (ObjectPtr service = named(world.services, query.to)) {
    return behind(world, service, protocol, query.port);
  } else if (ends = addressEnds(world, query.to); ends.empty()) {
    return Error(Code::kNotFound, fmt::format("there is no pod and no service {}", query.to));
  }
  std::vector<uint16_t> ports;
  if (query.port != 0) ports.push_back(static_cast<uint16_t>(query.port));
  if (query.port == 0 && ends.front().pod) {
    for (const client::PodPort& port : client::podPorts(*ends.front().pod)) {
      if (toLower(port.protocol) == protocolName(protocol)) ports.push_back(port.number);
    }
  }
  if (ports.empty()) return Error(Code::kInvalid, fmt::format("{} names no ports; say which with --port", query.to));
  std::vector<Target> out;
  for (const uint16_t port : ports) {
    for (const PolicyEnd& end : ends) out.push_back({end, port, ""});
  }
  return out;
}

void print(const char* direction, const node::Verdict::Side& side, const char* key) {
  if (!side.exemption.empty()) {
    std::printf("  %-8s allowed: %s\n", direction, side.exemption.c_str());
    return;
  }
  if (side.rule) {
    const auto& source = side.isolation.sources[*side.rule];
    std::printf("  %-8s allowed by %s, rule %s[%zu]\n", direction, source.policy->object->key().c_str(), key,
                source.index);
  } else {
    std::printf("  %-8s denied: no rule allows it\n", direction);
  }
  if (side.isolation.byDefault) std::printf("    isolated by default: the cluster is restricted\n");
  for (const auto* policy : side.isolation.policies) {
    const auto rules = std::count_if(side.isolation.sources.begin(), side.isolation.sources.end(),
                                     [&](const auto& source) { return source.policy == policy; });
    std::printf("    selected by %s (%zu %s rule%s)\n", policy->object->key().c_str(), static_cast<size_t>(rules), key,
                rules == 1 ? "" : "s");
  }
}

Result<int> explain(const World& world, const Query& query, bool restricted, const std::string& dns) {
  ASSIGN_OR_RETURN(const Protocol protocol, parseProtocol(query.protocol));
  node::PolicyModel model(restricted);
  for (const ObjectPtr& policy : world.policies) model.set(policy);
  for (const ObjectPtr& ns : world.namespaces) model.setNamespace(ns);
  std::vector<PolicyEnd> sources;
  if (ObjectPtr pod = named(world.pods, query.from)) {
    ASSIGN_OR_RETURN(sources, podEnds(pod));
  } else if (sources = addressEnds(world, query.from); sources.empty()) {
    return Error(Code::kNotFound, fmt::format("there is no pod {}", query.from));
  }
  if (query.to == dns && query.port == 53 && protocol != Protocol::kSctp) {
    std::printf("allowed: the cluster's DNS always answers\n");
    return 0;
  }
  ASSIGN_OR_RETURN(const auto all, targets(world, query, protocol));
  // Each pair of addresses between which there may be a connection: blocks of addresses are of one family.
  std::optional<int> code;
  for (const Target& target : all) {
    for (const PolicyEnd& from : sources) {
      if (from.address.isV6() != target.end.address.isV6()) continue;
      const node::Verdict verdict = node::judge(model, from, target.end, protocol, target.port);
      code = verdict.allowed() ? code.value_or(0) : kDenied;
      std::printf("%s: %s -> %s, port %d/%s%s\n", verdict.allowed() ? "allowed" : "denied",
                  describe(query.from, from).c_str(), describe(query.to, target.end).c_str(), target.port,
                  toLower(protocolName(protocol)).c_str(),
                  target.name.empty() ? "" : (" (" + target.name + ")").c_str());
      print("egress", verdict.egress, "egress");
      print("ingress", verdict.ingress, "ingress");
    }
  }
  if (!code)
    return Error(Code::kInvalid, fmt::format("{} and {} have no addresses of one family", query.from, query.to));
  return *code;
}

Task<Result<World>> read(client::HttpClient* api) {
  World out;
  const std::pair<object::Resource, std::vector<ObjectPtr>*> wanted[] = {{resources::kNetworkPolicies, &out.policies},
                                                                         {resources::kNamespaces, &out.namespaces},
                                                                         {resources::kPods, &out.pods},
                                                                         {resources::kServices, &out.services}};
  for (const auto& [resource, into] : wanted) {
    client::ListOptions options;
    auto listed = co_await api->list(resource, std::move(options));
    if (!listed.ok()) co_return std::move(listed).error();
    *into = std::move(listed->items);
  }
  co_return out;
}

Task<Result<World>> readFrom(Loop* loop, platform::ClusterPaths paths) {
  CO_ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(paths.kubeconfig()));
  CO_ASSIGN_OR_RETURN(auto connection, client::httpOptions(kubeconfig));
  client::HttpClient api(*loop, std::move(connection));
  auto world = co_await read(&api);
  co_await api.stop();
  co_return world;
}

int run(const ClusterOption& option, const Query& query) {
  if (::geteuid() != 0)
    return fail(Error(Code::kPermissionDenied, "this needs root: the cluster's kubeconfig is root's"));
  auto config = option.load();
  if (!config.ok()) return fail(config.error());
  RealLoop loop;
  auto world = runOn(loop, readFrom(&loop, config->paths()));
  if (!world.ok()) return fail(world.error());
  auto code = explain(*world, query, config->request.restricted(), config->dnsAddress());
  return code.ok() ? *code : fail(code.error());
}

}  // namespace

void addPolicy(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("policy", "tell why network policies allow or deny a connection");
  command->require_subcommand(1);
  auto* explain = command->add_subcommand("explain", "which rule allows a connection, or that none does (exit code 1)");
  auto option = addClusterOption(explain);
  auto query = std::make_shared<Query>();
  explain->add_option("from", query->from, "namespace/pod, an address, or \"external\"")->required();
  explain->add_option("to", query->to, "namespace/pod, namespace/service, an address, or \"external\"")->required();
  explain->add_option("--port", query->port, "the destination's; without it all that it names")
      ->check(CLI::Range(1, 65535));
  explain->add_option("--protocol", query->protocol, "tcp, udp or sctp (default tcp)");
  explain->callback([=] { *chosen = [=] { return run(*option, *query); }; });
}

}  // namespace dhow::cli
