// Rules of services, endpoint slices and network policies, with Kubernetes' texts.
#include <boost/json/serialize.hpp>

#include "object/names.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

void servicePorts(const json::object& value, Context& context) {
  const json::array* ports = list(value, "ports");
  std::vector<std::string> names, numbers, nodePorts;
  bool clusterOnly = text(value, "type") == "ClusterIP";
  for (size_t i = 0; ports && i < ports->size(); ++i) {
    const json::object* port = (*ports)[i].if_object();
    if (!port) continue;
    std::string path = fmt::format("{}[{}]", context.at("ports"), i);
    std::string name(text(*port, "name"));
    if (name.empty() && ports->size() > 1) context.problems.required(path + ".name");
    if (!name.empty() && std::find(names.begin(), names.end(), name) != names.end())
      context.problems.duplicate(path + ".name", json::value(name));
    names.push_back(name);
    const json::value* number = port->if_contains("port");
    if (!number) context.problems.invalid(path + ".port", 0, "must be between 1 and 65535, inclusive");
    json::object key{{"protocol", text(*port, "protocol")}, {"port", number ? *number : json::value(0)}};
    std::string printed = json::serialize(key);
    if (std::find(numbers.begin(), numbers.end(), printed) != numbers.end()) context.problems.duplicate(path, key);
    numbers.push_back(printed);
    const json::value* nodePort = port->if_contains("nodePort");
    if (nodePort && nodePort->is_int64() && nodePort->get_int64() != 0) {
      std::string held = fmt::format("{}/{}", text(*port, "protocol"), nodePort->get_int64());
      if (std::find(nodePorts.begin(), nodePorts.end(), held) != nodePorts.end())
        context.problems.duplicate(path + ".nodePort", *nodePort);
      nodePorts.push_back(std::move(held));
    }
    if (clusterOnly && nodePort && nodePort->is_int64() && nodePort->get_int64() != 0) {
      context.problems.forbidden(path + ".nodePort", "may not be used when `type` is 'ClusterIP'");
    }
  }
}

void checkExternalIps(const json::object& value, Context& context) {
  constexpr std::pair<const char*, const char*> kSpecial[] = {
      {"127.0.0.0/8", "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
      {"::1/128", "may not be in the loopback range (127.0.0.0/8, ::1/128)"},
      {"169.254.0.0/16", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
      {"fe80::/10", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"},
      {"224.0.0.0/24", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"},
      {"ff02::/10", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"}};
  const json::array* addresses = list(value, "externalIPs");
  for (size_t i = 0; addresses && i < addresses->size(); ++i) {
    if (!(*addresses)[i].is_string()) continue;
    std::string_view address = (*addresses)[i].get_string();
    std::string problem = checkIp(address);
    if (problem.empty() && (address == "0.0.0.0" || address == "::"))
      problem = "may not be unspecified (0.0.0.0 or ::)";
    const std::string host = fmt::format("{}/{}", address, address.find(':') == std::string_view::npos ? 32 : 128);
    for (const auto& [range, why] : kSpecial) {
      if (problem.empty() && (host == range || strictlyInside(host, range))) problem = why;
    }
    if (!problem.empty())
      context.problems.invalid(fmt::format("{}[{}]", context.at("externalIPs"), i), (*addresses)[i], problem);
  }
}

// What only a balancer has.
void balancerFields(const json::object& value, const json::object* before, Context& context) {
  constexpr const char* kOnly = "may only be used when `type` is 'LoadBalancer'";
  const bool balancer = text(value, "type") == "LoadBalancer";
  if (const json::array* ranges = list(value, "loadBalancerSourceRanges"); ranges && !ranges->empty()) {
    if (!balancer) context.problems.forbidden(context.at("loadBalancerSourceRanges"), kOnly);
    for (size_t i = 0; i < ranges->size(); ++i) {
      if (!(*ranges)[i].is_string()) continue;
      if (std::string problem = checkCidr((*ranges)[i].get_string()); !problem.empty())
        context.problems.invalid(fmt::format("{}[{}]", context.at("loadBalancerSourceRanges"), i), (*ranges)[i],
                                 problem);
    }
  }
  for (const char* field : {"allocateLoadBalancerNodePorts", "loadBalancerClass"}) {
    const json::value* given = value.if_contains(field);
    if (given && !given->is_null() && !balancer) context.problems.forbidden(context.at(field), kOnly);
  }
  if (balancer && before && text(*before, "type") == "LoadBalancer" &&
      text(*before, "loadBalancerClass") != text(value, "loadBalancerClass")) {
    context.problems.invalid(context.at("loadBalancerClass"), json::value(text(value, "loadBalancerClass")),
                             "may not change once set");
  }
  const json::value* port = value.if_contains("healthCheckNodePort");
  if (port && port->is_int64() && port->get_int64() != 0 &&
      !(balancer && text(value, "externalTrafficPolicy") == "Local")) {
    context.problems.invalid(context.at("healthCheckNodePort"), *port,
                             "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
  }
}

// clusterIP, clusterIPs and ipFamilies among themselves. What the cluster has to give is not known here.
void serviceAddresses(const json::object& value, Context& context) {
  static const json::array kNone;
  const std::string_view first = text(value, "clusterIP");
  const json::array& all = list(value, "clusterIPs") ? *list(value, "clusterIPs") : kNone;
  const json::array& families = list(value, "ipFamilies") ? *list(value, "ipFamilies") : kNone;
  const std::string path = context.at("clusterIPs"), familiesPath = context.at("ipFamilies");
  auto wrong = [&](std::string_view why) { context.problems.invalid(path, json::value(all), why); };
  bool fine = true;
  if (!first.empty() && all.empty()) context.problems.required(path);
  if (!first.empty() && !all.empty() && all[0] != json::value(first))
    wrong("first value must match `clusterIP`"), fine = false;
  if (first.empty() && !all.empty()) wrong("must be empty when `clusterIP` is not specified"), fine = false;
  for (size_t i = 0; i < families.size(); ++i) {
    const std::string at = fmt::format("{}[{}]", familiesPath, i);
    if (families[i] != "IPv4" && families[i] != "IPv6")
      context.problems.notSupported(at, families[i], {"IPv4", "IPv6"}), fine = false;
    if (std::find(families.begin(), families.begin() + static_cast<long>(i), families[i]) !=
        families.begin() + static_cast<long>(i))
      context.problems.duplicate(at, families[i]), fine = false;
  }
  bool addresses = true;
  auto isV6 = [&](size_t i) { return all[i].is_string() && all[i].get_string().find(':') != json::string::npos; };
  for (size_t i = 0; i < all.size(); ++i) {
    if (i == 0 && all[i] == "None") {
      if (all.size() > 1) wrong("'None' must be the first and only value"), addresses = false;
      continue;
    }
    std::string problem = checkIp(all[i].is_string() ? std::string_view(all[i].get_string()) : "");
    if (problem.empty()) continue;
    context.problems.invalid(fmt::format("{}[{}]", path, i), all[i], problem);
    addresses = false;
  }
  if (all.size() > 2) wrong("may only hold up to 2 values"), fine = false;
  if (!addresses) return;
  if (all.size() == 2 && isV6(0) == isV6(1)) wrong("may specify no more than one IP for each IP family"), fine = false;
  for (size_t i = 0; fine && first != "None" && i < std::min(all.size(), families.size()); ++i) {
    if (isV6(i) == (families[i] == "IPv6")) continue;
    context.problems.invalid(fmt::format("{}[{}]", path, i), all[i],
                             fmt::format("expected an {} value as indicated by `ipFamilies[{}]`",
                                         std::string_view(families[i].get_string()), i));
  }
}

void serviceSpec(const json::object& value, const json::object* before, Context& context) {
  std::string_view type = text(value, "type"), clusterIp = text(value, "clusterIP");
  const json::array* ports = list(value, "ports");
  bool headless = clusterIp == "None";
  if (type == "ExternalName") {
    std::string_view name = text(value, "externalName");
    if (name.empty())
      context.problems.required(context.at("externalName"));
    else if (std::string problem = checkDns1123Subdomain(name.ends_with('.') ? name.substr(0, name.size() - 1) : name);
             !problem.empty()) {
      context.problems.invalid(context.at("externalName"), json::value(name), problem);
    }
  } else if ((!ports || ports->empty()) && !headless) {
    context.problems.required(context.at("ports"));
  }
  servicePorts(value, context);
  if (type != "ExternalName") serviceAddresses(value, context);
  if (headless && (type == "NodePort" || type == "LoadBalancer")) {
    context.problems.invalid(context.at("clusterIPs[0]"), "None",
                             "may not be set to 'None' for " + std::string(type) + " services");
  }
  bool external = type == "NodePort" || type == "LoadBalancer";
  const json::array* externalIps = list(value, "externalIPs");
  if (value.contains("externalTrafficPolicy") && !external && !(externalIps && !externalIps->empty())) {
    context.problems.invalid(context.at("externalTrafficPolicy"), value.at("externalTrafficPolicy"),
                             "may only be set for externally-accessible services");
  }
  checkExternalIps(value, context);
  balancerFields(value, before, context);
}

void endpointSlice(const json::object& value, const json::object*, Context& context) {
  const json::array* endpoints = list(value, "endpoints");
  if (!endpoints) return;
  if (endpoints->size() > 1000)
    context.problems.invalid("endpoints", static_cast<int64_t>(endpoints->size()), "must have at most 1000 items");
  std::string_view type = text(value, "addressType");
  for (size_t i = 0; i < endpoints->size(); ++i) {
    const json::object* endpoint = (*endpoints)[i].if_object();
    const json::array* addresses = endpoint ? list(*endpoint, "addresses") : nullptr;
    std::string path = fmt::format("endpoints[{}].addresses", i);
    if (!addresses || addresses->empty()) {
      context.problems.required(path, "must contain at least 1 address");
      continue;
    }
    for (size_t j = 0; j < addresses->size(); ++j) {
      if (!(*addresses)[j].is_string()) continue;
      std::string_view address = (*addresses)[j].get_string();
      bool six = address.find(':') != std::string_view::npos;
      std::string problem = type == "FQDN" ? checkDns1123Subdomain(address) : checkIp(address);
      if (problem.empty() && type == "IPv4" && six) problem = "must be an IPv4 address";
      if (problem.empty() && type == "IPv6" && !six) problem = "must be an IPv6 address";
      if (!problem.empty()) context.problems.invalid(fmt::format("{}[{}]", path, j), (*addresses)[j], problem);
    }
  }
}

constexpr size_t kDirections = 2;

void policyPort(const json::object& port, const std::string& path, Context& context) {
  const json::value* number = port.if_contains("port");
  const json::value* end = port.if_contains("endPort");
  if (number && number->is_null()) number = nullptr;
  if (end && !end->is_int64()) end = nullptr;
  if (!number) {
    if (end) context.problems.invalid(path + ".endPort", *end, "may not be specified when `port` is not specified");
    return;
  }
  if (!number->is_int64()) {
    if (end) context.problems.invalid(path + ".endPort", *end, "may not be specified when `port` is non-numeric");
    std::string_view name = number->is_string() ? std::string_view(number->get_string()) : std::string_view();
    if (std::string problem = checkPortName(name); !problem.empty())
      context.problems.invalid(path + ".port", *number, problem);
    return;
  }
  if (std::string problem = checkPort(number->get_int64()); !problem.empty())
    context.problems.invalid(path + ".port", *number, problem);
  if (!end) return;
  if (end->get_int64() < number->get_int64())
    context.problems.invalid(path + ".endPort", *number, "must be greater than or equal to `port`");
  if (std::string problem = checkPort(end->get_int64()); !problem.empty())
    context.problems.invalid(path + ".endPort", *end, problem);
}

void ipBlock(const json::object& block, const std::string& path, Context& context) {
  std::string_view cidr = text(block, "cidr");
  if (cidr.empty()) {
    context.problems.required(path + ".cidr");
    return;
  }
  if (std::string problem = checkCidr(cidr); !problem.empty()) {
    context.problems.invalid(path + ".cidr", json::value(cidr), problem);
    return;
  }
  const json::array* excepts = list(block, "except");
  for (size_t i = 0; excepts && i < excepts->size(); ++i) {
    if (!(*excepts)[i].is_string()) continue;
    std::string_view except = (*excepts)[i].get_string();
    const std::string at = fmt::format("{}.except[{}]", path, i);
    std::string problem = checkCidr(except);
    if (problem.empty() && !strictlyInside(except, cidr)) problem = "must be a strict subset of `cidr`";
    if (!problem.empty()) context.problems.invalid(at, (*excepts)[i], problem);
  }
}

void policyPeer(const json::object& peer, const std::string& path, Context& context) {
  const json::object* block = child(peer, "ipBlock");
  const bool selects = child(peer, "podSelector") || child(peer, "namespaceSelector");
  if (block) ipBlock(*block, path + ".ipBlock", context);
  if (!block && !selects) context.problems.required(path, "must specify a peer");
  if (block && selects) context.problems.forbidden(path, "may not specify both ipBlock and another peer");
}

void policyRules(const json::object& spec, std::string_view direction, std::string_view peers, Context& context) {
  const json::array* rules = list(spec, direction);
  auto each = [&](size_t i, std::string_view key, auto check) {
    const json::object* rule = (*rules)[i].if_object();
    const json::array* items = rule ? list(*rule, key) : nullptr;
    for (size_t j = 0; items && j < items->size(); ++j) {
      if (const json::object* item = (*items)[j].if_object())
        check(*item, fmt::format("{}[{}].{}[{}]", context.at(direction), i, key, j), context);
    }
  };
  for (size_t i = 0; rules && i < rules->size(); ++i) {
    each(i, "ports", policyPort);
    each(i, peers, policyPeer);
  }
}

void networkPolicy(const json::object& spec, const json::object*, Context& context) {
  policyRules(spec, "ingress", "from", context);
  policyRules(spec, "egress", "to", context);
  const json::array* types = list(spec, "policyTypes");
  if (!types) return;
  if (types->size() > kDirections) {
    context.problems.invalid(context.at("policyTypes"), json::value(*types),
                             "may not specify more than two policyTypes");
    return;
  }
  for (size_t i = 0; i < types->size(); ++i) {
    const json::value& type = (*types)[i];
    if (type != "Ingress" && type != "Egress")
      context.problems.notSupported(fmt::format("{}[{}]", context.at("policyTypes"), i), type, {"Ingress", "Egress"});
  }
}

constexpr Entry kRules[] = {
    {"serviceSpec", serviceSpec}, {"endpointSlice", endpointSlice}, {"networkPolicy", networkPolicy}};

}  // namespace

std::span<const Entry> networkRules() {
  return kRules;
}

}  // namespace dhow::object::rules
