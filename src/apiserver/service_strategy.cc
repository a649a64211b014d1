// Services: cluster addresses and node ports. What is taken is what the watch cache shows and what writes in flight
// have reserved; both live on the loop, so that this server gives nothing twice. Other servers are kept from it by the
// claims that are written with each service.
#include <arpa/inet.h>

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <map>
#include <set>

#include "apiserver/strategy.h"
#include "base/strings.h"
#include "client/fields.h"
#include "errors.h"
#include "object/names.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

constexpr const char* kByAddress = "service/address";
constexpr const char* kByPort = "service/nodePort";

std::optional<uint32_t> parseAddress(std::string_view text) {
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) return std::nullopt;
  return ntohl(address.s_addr);
}
std::string formatAddress(uint32_t value) {
  return fmt::format("{}.{}.{}.{}", value >> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255);
}

bool usesNodePorts(std::string_view type) {
  return type == "NodePort" || type == "LoadBalancer";
}
// A balancer may do without: then a port is only what somebody asked for.
bool choosesNodePorts(const json::object& spec) {
  return text(spec, "type") == "NodePort" ||
         (text(spec, "type") == "LoadBalancer" && client::flag(spec, {"allocateLoadBalancerNodePorts"}, true));
}
// Where the balancer asks each node whether it has an endpoint.
bool usesHealthPort(const json::object& spec) {
  return text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
}
std::string_view protocolOf(const json::object& port) {
  auto protocol = text(port, "protocol");
  return protocol.empty() ? "TCP" : protocol;
}
int64_t healthPort(const json::object& spec) {
  return client::number(spec, {"healthCheckNodePort"}, 0);
}

// What the type of before gave and the present one has not, unless the client asks for something else (which
// validation then refuses).
void dropOfOtherType(json::object& spec, const json::object& before) {
  auto drop = [&](std::string_view field) {
    const auto* now = spec.if_contains(field);
    const auto* then = before.if_contains(field);
    if (now && then && *now == *then) spec.erase(field);
  };
  const std::string_view type = text(spec, "type"), old = text(before, "type");
  if (old != "ExternalName" && type == "ExternalName") {
    for (auto field : {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"}) drop(field);
  }
  if (usesNodePorts(old) && !usesNodePorts(type)) {
    drop("externalTrafficPolicy");
    for (auto& port : client::arrayAt(spec, "ports")) {
      if (port.is_object()) port.get_object().erase("nodePort");
    }
  }
  if (old == "LoadBalancer" && type != "LoadBalancer") {
    for (auto field : {"allocateLoadBalancerNodePorts", "loadBalancerClass"}) drop(field);
  }
  if (usesHealthPort(before) && !usesHealthPort(spec)) drop("healthCheckNodePort");
}

class ServiceStrategy final : public Strategy {
 public:
  ServiceStrategy(Loop& loop, WatchCache& caches, const StrategyOptions& options)
      : loop_(loop), services_(caches.of(object::resources::kServices)), options_(options) {
    auto slash = options.serviceRange.find('/');
    first_ = parseAddress(options.serviceRange.substr(0, slash)).value_or(0x0a600000);
    int bits = slash == std::string::npos
                   ? 16
                   : static_cast<int>(parseInt(options.serviceRange.substr(slash + 1)).value_or(16));
    size_ = bits >= 1 && bits <= 31 ? uint32_t{1} << (32 - bits) : 65536;
    services_.addIndex(kByAddress, [](const ObjectPtr& service, std::vector<std::string>& keys) {
      if (auto ip = text(service->root(), {"spec", "clusterIP"}); !ip.empty() && ip != "None") keys.emplace_back(ip);
    });
    services_.addIndex(kByPort, [](const ObjectPtr& service, std::vector<std::string>& keys) {
      for (const auto& port : array(service->root(), {"spec", "ports"})) {
        if (!port.is_object()) continue;
        if (auto number = client::number(port.get_object(), {"nodePort"}, 0)) keys.push_back(std::to_string(number));
      }
      if (auto number = client::number(service->root(), {"spec", "healthCheckNodePort"}, 0))
        keys.push_back(std::to_string(number));
    });
  }

  Result<> beforeCreate(const Context&, json::object& service) override {
    service["status"] = json::object{{"loadBalancer", json::object()}};
    return {};
  }

  Result<> beforeUpdate(const Context&, std::string_view subresource, json::object& service,
                        const object::Object& old) override {
    if (!subresource.empty()) return {};
    auto& spec = client::objectAt(service, "spec");
    const auto& before = client::object(old.root(), {"spec"});
    if (text(spec, "type").empty()) spec["type"] = "ClusterIP";
    dropOfOtherType(spec, before);
    // A client that replaces the object without these keeps what it was given.
    if (text(spec, "type") == "ExternalName") return {};
    auto had = text(before, "clusterIP");
    if (!had.empty() && text(spec, "clusterIP").empty()) {
      spec["clusterIP"] = had;
      if (const auto* all = client::field(before, {"clusterIPs"})) spec["clusterIPs"] = *all;
    }
    if (usesHealthPort(spec) && usesHealthPort(before) && healthPort(spec) == 0)
      spec["healthCheckNodePort"] = healthPort(before);
    if (!choosesNodePorts(spec)) return {};
    for (auto& port : client::arrayAt(spec, "ports")) {
      if (!port.is_object() || port.get_object().contains("nodePort")) continue;
      for (const auto& was : array(before, {"ports"})) {
        if (!was.is_object() || !was.get_object().contains("nodePort")) continue;
        const auto& b = was.get_object();
        if (client::number(b, {"port"}) == client::number(port.get_object(), {"port"}) &&
            protocolOf(b) == protocolOf(port.get_object())) {
          port.get_object()["nodePort"] = b.at("nodePort");
        }
      }
    }
    return {};
  }

  Result<> allocate(const Context&, json::object& service, const object::Object* old) override {
    Reserved fresh;
    auto done = allocateAll(service, old, fresh);
    if (!done.ok()) {
      for (const auto& key : fresh) reserved_.erase(key);
    }
    return done;
  }

  void release(const json::object& service) override {
    const auto& spec = client::object(service, {"spec"});
    reserved_.erase(std::string(text(spec, "clusterIP")));
    for (const auto& port : array(spec, {"ports"})) {
      if (port.is_object()) reserved_.erase(std::to_string(client::number(port.get_object(), {"nodePort"}, 0)));
    }
    reserved_.erase(std::to_string(healthPort(spec)));
  }

  std::vector<std::string> claims(const json::object& service) const override {
    std::set<std::string> held;
    if (auto ip = text(service, {"spec", "clusterIP"}); !ip.empty() && ip != "None") {
      held.insert(fmt::format("service-address/{}", ip));
    }
    for (const auto& port : array(service, {"spec", "ports"})) {
      if (!port.is_object()) continue;
      if (auto number = client::number(port.get_object(), {"nodePort"}, 0)) {
        held.insert(fmt::format("service-port/{}", number));
      }
    }
    if (auto number = client::number(service, {"spec", "healthCheckNodePort"}, 0)) {
      held.insert(fmt::format("service-port/{}", number));
    }
    return {held.begin(), held.end()};
  }

  void check(std::string_view, const json::object& service, const object::Object* old,
             std::vector<ErrorCause>& causes) override {
    if (!old || text(service, {"spec", "type"}) == "ExternalName") return;
    const auto& spec = client::object(service, {"spec"});
    const auto& was = client::object(old->root(), {"spec"});
    if (usesHealthPort(spec) && usesHealthPort(was) && healthPort(was) != 0 && healthPort(spec) != healthPort(was)) {
      causes.push_back({"FieldValueInvalid", fmt::format("Invalid value: {}: field is immutable", healthPort(spec)),
                        "spec.healthCheckNodePort"});
    }
    auto before = text(old->root(), {"spec", "clusterIP"});
    auto after = text(service, {"spec", "clusterIP"});
    if (!before.empty() && before != after) {
      causes.push_back({"FieldValueInvalid", fmt::format("Invalid value: [\"{}\"]: may not change once set", after),
                        "spec.clusterIPs[0]"});
    }
  }

 private:
  using Reserved = std::vector<std::string>;  // by one call

  void reserve(const std::string& key, Reserved& fresh) {
    if (reserved_.insert(key).second) fresh.push_back(key);
  }

  Result<> allocateAll(json::object& service, const object::Object* old, Reserved& fresh) {
    auto& spec = client::objectAt(service, "spec");
    std::string type(text(spec, "type"));
    std::string name(text(service, {"metadata", "name"}));
    if (type == "ExternalName") {
      spec.erase("clusterIP");
      spec.erase("clusterIPs");
      return {};
    }
    RETURN_IF_ERROR(checkFamilies(spec, name));
    RETURN_IF_ERROR(allocateAddress(spec, name, old, fresh));
    if (!spec.contains("ipFamilies")) spec["ipFamilies"] = json::array{"IPv4"};
    if (!spec.contains("ipFamilyPolicy")) spec["ipFamilyPolicy"] = "SingleStack";
    if (usesNodePorts(type)) RETURN_IF_ERROR(allocatePorts(spec, name, old, fresh));
    if (usesHealthPort(spec)) return allocateHealthPort(spec, name, old, fresh);
    return {};
  }

  // Clusters have one family.
  static Result<> checkFamilies(const json::object& spec, const std::string& name) {
    std::vector<ErrorCause> causes;
    if (text(spec, "ipFamilyPolicy") == "RequireDualStack") {
      causes.push_back({"FieldValueInvalid",
                        "Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
                        "spec.ipFamilyPolicy"});
    }
    const auto& families = array(spec, {"ipFamilies"});
    for (size_t i = 0; i < families.size(); ++i) {
      if (families[i] == "IPv4") continue;
      causes.push_back({"FieldValueInvalid",
                        fmt::format("Invalid value: {}: not configured on this cluster", json::serialize(families[i])),
                        fmt::format("spec.ipFamilies[{}]", i)});
    }
    if (causes.empty()) return {};
    return invalid("Service", "", name, std::move(causes));
  }

  bool taken(const char* index, const std::string& key, std::string_view byOther) const {
    if (reserved_.contains(key)) return true;
    for (const auto& service : services_.byIndex(index, key)) {
      if (service->uid() != byOther) return true;
    }
    return false;
  }

  Result<> allocateAddress(json::object& spec, const std::string& name, const object::Object* old, Reserved& fresh) {
    std::string wanted(text(spec, "clusterIP"));
    if (wanted.empty() && !array(spec, {"clusterIPs"}).empty() && array(spec, {"clusterIPs"})[0].is_string()) {
      wanted = array(spec, {"clusterIPs"})[0].get_string();
    }
    if (wanted == "None") {
      spec["clusterIP"] = "None";
      spec["clusterIPs"] = json::array{"None"};
      return {};
    }
    if (old && wanted == text(old->root(), {"spec", "clusterIP"}) && !wanted.empty()) return {};
    if (!wanted.empty()) {
      auto value = parseAddress(wanted);
      std::string why;
      if (!value || *value - first_ >= size_) {
        why = fmt::format(
            "failed to allocate IP {}: the provided IP is not in the valid range. The range of valid IPs is {}", wanted,
            options_.serviceRange);
      } else if (taken(kByAddress, wanted, old ? old->uid() : "")) {
        why = fmt::format("failed to allocate IP {}: provided IP is already allocated", wanted);
      }
      if (!why.empty()) {
        return invalid(
            "Service", "", name,
            {{"FieldValueInvalid", fmt::format("Invalid value: [\"{}\"]: {}", wanted, why), "spec.clusterIPs"}});
      }
    } else {
      // The lower part of the range is for addresses that people choose; the rest first, from a random place on.
      uint32_t low = std::min<uint32_t>(std::max<uint32_t>(16, size_ / 16), 256);
      if (size_ <= 32) low = 1;
      uint32_t usable = size_ - 1 - low;
      uint32_t start = static_cast<uint32_t>(loop_.random() % usable);
      for (uint32_t i = 0; i < usable && wanted.empty(); ++i) {
        auto candidate = formatAddress(first_ + low + (start + i) % usable);
        if (!taken(kByAddress, candidate, "")) wanted = std::move(candidate);
      }
      for (uint32_t i = 1; i < low && wanted.empty(); ++i) {
        auto candidate = formatAddress(first_ + i);
        if (!taken(kByAddress, candidate, "")) wanted = std::move(candidate);
      }
      if (wanted.empty()) return Error(Code::kInternal, "failed to allocate a serviceIP: range is full");
    }
    reserve(wanted, fresh);
    spec["clusterIP"] = wanted;
    spec["clusterIPs"] = json::array{json::string(wanted)};
    return {};
  }

  // Why nobody can have this port; empty when it is free.
  std::string refusal(int64_t port, std::string_view uid) const {
    if (port < options_.nodePortFirst || port > options_.nodePortLast) {
      return fmt::format("provided port is not in the valid range. The range of valid ports is {}-{}",
                         options_.nodePortFirst, options_.nodePortLast);
    }
    return taken(kByPort, std::to_string(port), uid) ? "provided port is already allocated" : "";
  }

  // From a random place on; 0 when all are taken.
  int64_t freePort() {
    uint32_t count = uint32_t{options_.nodePortLast} - options_.nodePortFirst + 1;
    uint32_t start = static_cast<uint32_t>(loop_.random() % count);
    for (uint32_t k = 0; k < count; ++k) {
      int64_t candidate = options_.nodePortFirst + (start + k) % count;
      if (!taken(kByPort, std::to_string(candidate), "")) return candidate;
    }
    return 0;
  }

  // Ports with the same number and different protocols share a node port.
  Result<> allocatePorts(json::object& spec, const std::string& name, const object::Object* old, Reserved& fresh) {
    auto& ports = client::arrayAt(spec, "ports");
    const bool choose = choosesNodePorts(spec);
    std::set<int64_t> own;
    if (old) {
      for (const auto& port : array(old->root(), {"spec", "ports"})) {
        if (port.is_object()) own.insert(client::number(port.get_object(), {"nodePort"}, 0));
      }
    }
    std::set<std::pair<std::string, int64_t>> used;  // protocol, node port
    std::map<int64_t, int64_t> given;                // port -> node port
    auto note = [&](const json::object& port, int64_t nodePort) {
      used.emplace(protocolOf(port), nodePort);
      given.emplace(client::number(port, {"port"}, 0), nodePort);
    };
    for (size_t i = 0; i < ports.size(); ++i) {
      const auto* port = ports[i].if_object();
      const int64_t wanted = port ? client::number(*port, {"nodePort"}, 0) : 0;
      if (wanted == 0) continue;
      const bool shared = std::any_of(used.begin(), used.end(), [&](const auto& u) { return u.second == wanted; });
      std::string why;
      if (!shared && !own.contains(wanted)) why = refusal(wanted, old ? old->uid() : "");
      if (!why.empty()) {
        return invalid("Service", "", name,
                       {{"FieldValueInvalid", fmt::format("Invalid value: {}: {}", wanted, why),
                         fmt::format("spec.ports[{}].nodePort", i)}});
      }
      if (!own.contains(wanted)) reserve(std::to_string(wanted), fresh);
      note(*port, wanted);
    }
    for (auto& value : ports) {
      auto* port = value.if_object();
      if (!choose || !port || client::number(*port, {"nodePort"}, 0) != 0) continue;
      auto same = given.find(client::number(*port, {"port"}, 0));
      int64_t number = same != given.end() && !used.contains({std::string(protocolOf(*port)), same->second})
                           ? same->second
                           : freePort();
      if (number == 0) return Error(Code::kInternal, "failed to allocate a nodePort: range is full");
      reserve(std::to_string(number), fresh);
      (*port)["nodePort"] = number;
      note(*port, number);
    }
    return {};
  }

  Result<> allocateHealthPort(json::object& spec, const std::string& name, const object::Object* old, Reserved& fresh) {
    int64_t wanted = healthPort(spec);
    if (old && wanted != 0 && wanted == client::number(old->root(), {"spec", "healthCheckNodePort"}, 0)) return {};
    if (wanted == 0) {
      wanted = freePort();
      if (wanted == 0) return Error(Code::kInternal, "failed to allocate a HealthCheck NodePort: range is full");
    } else if (auto why = refusal(wanted, old ? old->uid() : ""); !why.empty()) {
      return invalid(
          "Service", "", name,
          {{"FieldValueInvalid",
            fmt::format("Invalid value: {}: failed to allocate requested HealthCheck NodePort: {}", wanted, why),
            "spec.healthCheckNodePort"}});
    }
    reserve(std::to_string(wanted), fresh);
    spec["healthCheckNodePort"] = wanted;
    return {};
  }

  Loop& loop_;
  KindCache& services_;
  const StrategyOptions options_;
  uint32_t first_ = 0;
  uint32_t size_ = 0;
  std::set<std::string> reserved_;
};

}  // namespace

std::unique_ptr<Strategy> makeServiceStrategy(Loop& loop, WatchCache& caches, const StrategyOptions& options) {
  return std::make_unique<ServiceStrategy>(loop, caches, options);
}

}  // namespace dhow::apiserver
