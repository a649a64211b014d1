// network ls and inspect: the three networks that every engine has.
#include "api.h"
#include "base/digest.h"
#include "base/time.h"

namespace dhow::engine::docker {

namespace {

std::string networkId(const Engine& engine, std::string_view name) {
  return sha256Hex(engine.id() + "/" + std::string(name));
}

json::object networkJson(Engine& engine, std::string_view name, std::string_view driver) {
  json::object ipam{{"Driver", "default"}, {"Options", nullptr}, {"Config", nullptr}};
  json::object containers;
  if (name == "bridge") {
    const auto& options = engine.bridge().options();
    ipam["Config"] = json::array{json::object{
        {"Subnet", options.subnet.str()},
        {"Gateway", options.gateway.empty() ? options.subnet.network().plus(1).str() : options.gateway.str()}}};
  }
  for (const auto& container : engine.containers()) {
    if (text(container->hostConfig, "NetworkMode") != name || !container->state.running()) continue;
    containers[container->id] =
        json::object{{"Name", container->name},
                     {"EndpointID", container->id},
                     {"MacAddress", container->network ? container->network->mac : ""},
                     {"IPv4Address", container->network ? container->network->address.str() : ""},
                     {"IPv6Address", ""}};
  }
  return {{"Name", name},
          {"Id", networkId(engine, name)},
          {"Created", "1970-01-01T00:00:00Z"},
          {"Scope", "local"},
          {"Driver", driver},
          {"EnableIPv4", true},
          {"EnableIPv6", false},
          {"IPAM", std::move(ipam)},
          {"Internal", false},
          {"Attachable", false},
          {"Ingress", false},
          {"ConfigFrom", {{"Network", ""}}},
          {"ConfigOnly", false},
          {"Containers", std::move(containers)},
          {"Options", json::object()},
          {"Labels", json::object()}};
}

constexpr std::pair<std::string_view, std::string_view> kBuiltIn[] = {
    {"bridge", "bridge"}, {"host", "host"}, {"none", "null"}};

Task<Result<>> listNetworks(Call& call) {
  static constexpr std::string_view kFilters[] = {"dangling", "driver", "id", "label", "name", "scope", "type"};
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kFilters));
  json::array out;
  for (const auto& [name, driver] : kBuiltIn) {
    const auto& names = filters.of("name");
    if (!names.empty() && std::none_of(names.begin(), names.end(),
                                       [n = name](const auto& wanted) { return n.find(wanted) != std::string::npos; }))
      continue;
    if (filters.has("label")) continue;
    out.push_back(networkJson(call.engine, name, driver));
  }
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> inspectNetwork(Call& call) {
  for (const auto& [name, driver] : kBuiltIn) {
    auto id = networkId(call.engine, name);
    if (call.args[0] != name && !(call.args[0].size() >= 4 && id.starts_with(call.args[0]))) continue;
    auto replied = co_await call.reply(200, networkJson(call.engine, name, driver));
    co_return replied;
  }
  co_return Error(Code::kNotFound, "network " + call.args[0] + " not found");
}

constexpr Route kRoutes[] = {{"GET", "/networks", listNetworks}, {"GET", "/networks/{}", inspectNetwork}};

}  // namespace

std::span<const Route> networkRoutes() {
  return kRoutes;
}

}  // namespace dhow::engine::docker
