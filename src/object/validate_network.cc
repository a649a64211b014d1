// Rules of network policies, with Kubernetes' texts.
#include "object/names.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

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

constexpr Entry kRules[] = {{"networkPolicy", networkPolicy}};

}  // namespace

std::span<const Entry> networkRules() {
  return kRules;
}

}  // namespace dhow::object::rules
