// Services: cluster addresses and node ports. What is taken is what the watch cache shows and what writes in flight
// have reserved; both live on the loop, so that this server gives nothing twice. Other servers are kept from it by the
// claims that are written with each service.
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <map>
#include <set>

#include "apiserver/strategy.h"
#include "base/strings.h"
#include "client/fields.h"
#include "errors.h"
#include "object/address_range.h"
#include "object/names.h"
#include "service_families.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

constexpr const char* kByAddress = "service/address";
constexpr const char* kByPort = "service/nodePort";

// The addresses that services of one family may have: all of the range but that of the network itself, and of IPv4 the
// last one; of a wide IPv6 range the first million.
struct ServiceRange {
  std::string text;
  std::string_view family;
  object::AddressRange all;
  uint64_t count = 0;

  static std::optional<ServiceRange> parse(const std::string& text) {
    constexpr uint64_t kMost = uint64_t{1} << 20;
    auto all = object::AddressRange::parse(text);
    if (!all) return std::nullopt;
    ServiceRange out{text, familyOf(text), *all, 0};
    if (out.family == kIpv6) out.all.first = object::next(out.all.first);
    out.count = std::min(out.all.size(), kMost);
    return out;
  }
  std::string address(uint64_t offset) const {
    object::AddressNumber out = all.first;
    for (size_t i = out.size(); i-- > 0 && offset > 0; offset >>= 8) {
      offset += out[i];
      out[i] = static_cast<uint8_t>(offset);
    }
    return object::addressText(out);
  }
};

// One spelling for each address; what is none stays as it is.
std::string canonical(std::string_view address) {
  auto number = object::parseAddress(address);
  return number ? object::addressText(*number) : std::string(address);
}

std::vector<std::string> addressesOf(const json::object& spec) {
  std::vector<std::string> out = client::strings(array(spec, {"clusterIPs"}));
  if (out.empty()) out.emplace_back(text(spec, "clusterIP"));  // of before there were several
  std::erase_if(out, [](const std::string& address) { return address.empty() || address == "None"; });
  for (auto& address : out) address = canonical(address);
  return out;
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
    for (const std::string& range : options.serviceRanges) {
      auto parsed = ServiceRange::parse(range);
      CHECK(parsed, "{} is no range of service addresses", range);
      families_.push_back(parsed->family);
      ranges_.push_back(*std::move(parsed));
    }
    services_.addIndex(kByAddress, [](const ObjectPtr& service, std::vector<std::string>& keys) {
      for (auto& address : addressesOf(client::object(service->root(), {"spec"}))) keys.push_back(std::move(address));
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
    alignClusterIps(client::objectAt(service, "spec"), nullptr);
    return {};
  }

  Result<> beforeUpdate(const Context&, std::string_view subresource, json::object& service,
                        const object::Object& old) override {
    if (!subresource.empty()) return {};
    auto& spec = client::objectAt(service, "spec");
    const auto& before = client::object(old.root(), {"spec"});
    if (text(spec, "type").empty()) spec["type"] = "ClusterIP";
    dropOfOtherType(spec, before);
    alignClusterIps(spec, &before);
    if (text(spec, "type") == "ExternalName") return {};
    // A client that replaces the object without these keeps what it was given.
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
    for (const auto& address : addressesOf(spec)) reserved_.erase(address);
    for (const auto& port : array(spec, {"ports"})) {
      if (port.is_object()) reserved_.erase(std::to_string(client::number(port.get_object(), {"nodePort"}, 0)));
    }
    reserved_.erase(std::to_string(healthPort(spec)));
  }

  std::vector<std::string> claims(const json::object& service) const override {
    std::set<std::string> held;
    for (const auto& address : addressesOf(client::object(service, {"spec"})))
      held.insert(fmt::format("service-address/{}", address));
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
    const auto* before = old ? &client::object(old->root(), {"spec"}) : nullptr;
    if (auto causes = settleFamilies(spec, before, families_); !causes.empty())
      return invalid("Service", "", name, std::move(causes));
    if (before) {
      if (auto causes = checkFamilyChange(spec, *before); !causes.empty())
        return invalid("Service", "", name, std::move(causes));
    }
    RETURN_IF_ERROR(allocateAddresses(spec, name, old, fresh));
    if (usesNodePorts(type)) RETURN_IF_ERROR(allocatePorts(spec, name, old, fresh));
    if (usesHealthPort(spec)) return allocateHealthPort(spec, name, old, fresh);
    return {};
  }

  bool taken(const char* index, const std::string& key, std::string_view byOther) const {
    if (reserved_.contains(key)) return true;
    for (const auto& service : services_.byIndex(index, key)) {
      if (service->uid() != byOther) return true;
    }
    return false;
  }

  // One of each of the service's families; those that it has or asks for are its own.
  Result<> allocateAddresses(json::object& spec, const std::string& name, const object::Object* old, Reserved& fresh) {
    if (text(spec, "clusterIP") == "None") return {};
    std::vector<std::string> wanted = client::strings(array(spec, {"clusterIPs"})), had;
    if (old) had = addressesOf(client::object(old->root(), {"spec"}));
    const auto families = client::strings(array(spec, {"ipFamilies"}));
    for (size_t i = 0; i < families.size(); ++i) {
      auto range = std::find_if(ranges_.begin(), ranges_.end(), [&](const auto& r) { return r.family == families[i]; });
      if (i < wanted.size()) {
        const std::string address = canonical(wanted[i]);
        if (std::find(had.begin(), had.end(), address) != had.end()) continue;
        if (auto why = addressRefusal(range == ranges_.end() ? nullptr : &*range, address, old); !why.empty()) {
          return invalid("Service", "", name,
                         {{"FieldValueInvalid",
                           fmt::format("Invalid value: {}: failed to allocate IP {}: {}",
                                       json::serialize(array(spec, {"clusterIPs"})), wanted[i], why),
                           "spec.clusterIPs"}});
        }
        reserve(address, fresh);
        continue;
      }
      // A service that prefers two stacks may name a family that the cluster has no more.
      if (range == ranges_.end()) break;
      std::string chosen = freeAddress(*range);
      if (chosen.empty()) return Error(Code::kInternal, "failed to allocate a serviceIP: range is full");
      reserve(chosen, fresh);
      wanted.push_back(std::move(chosen));
    }
    if (wanted.empty()) return {};
    json::array all;
    for (const auto& address : wanted) all.push_back(json::value(address));
    spec["clusterIP"] = wanted.front();
    spec["clusterIPs"] = std::move(all);
    return {};
  }

  // Why this service cannot have the address; empty when it can.
  std::string addressRefusal(const ServiceRange* range, const std::string& address, const object::Object* old) const {
    auto number = object::parseAddress(address);
    if (!range || !number || !range->all.contains(*number)) {
      return fmt::format("the provided IP is not in the valid range. The range of valid IPs is {}",
                         range ? range->text : "");
    }
    return taken(kByAddress, address, old ? old->uid() : "") ? "provided IP is already allocated" : "";
  }

  // The lower part of the range is for addresses that people choose; the rest first, from a random place on. Empty when
  // all are taken.
  std::string freeAddress(const ServiceRange& range) {
    const uint64_t size = range.count + 2;
    const uint64_t low = size <= 32 ? 0 : std::clamp<uint64_t>(size / 16, 16, 256) - 1;
    const uint64_t start = loop_.random() % (range.count - low);
    for (uint64_t i = 0; i < range.count; ++i) {
      const uint64_t upper = range.count - low;
      auto candidate = range.address(i < upper ? low + (start + i) % upper : i - upper);
      if (!taken(kByAddress, candidate, "")) return candidate;
    }
    return "";
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
  std::vector<ServiceRange> ranges_;
  std::vector<std::string_view> families_;  // of the ranges, the default first
  std::set<std::string> reserved_;
};

}  // namespace

std::unique_ptr<Strategy> makeServiceStrategy(Loop& loop, WatchCache& caches, const StrategyOptions& options) {
  return std::make_unique<ServiceStrategy>(loop, caches, options);
}

}  // namespace dhow::apiserver
