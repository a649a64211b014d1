// Services: cluster addresses and node ports. What is taken is what the watch cache shows and what writes in flight
// have reserved; both live on the loop, so that this server gives nothing twice. Other servers are kept from it by the
// claims that are written with each service.
#include <arpa/inet.h>

#include <cstring>
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
    // A client that replaces the object without these keeps what it was given.
    if (text(spec, "type") == "ExternalName") return {};
    auto had = text(old.root(), {"spec", "clusterIP"});
    if (!had.empty() && text(spec, "clusterIP").empty()) {
      spec["clusterIP"] = had;
      if (const auto* all = client::field(old.root(), {"spec", "clusterIPs"})) spec["clusterIPs"] = *all;
    }
    if (!usesNodePorts(text(spec, "type").empty() ? "ClusterIP" : text(spec, "type"))) {
      // A port of its own is only kept while the type has them.
      if (usesNodePorts(text(old.root(), {"spec", "type"}))) {
        for (auto& port : client::arrayAt(spec, "ports")) {
          if (port.is_object()) port.get_object().erase("nodePort");
        }
      }
      return {};
    }
    for (auto& port : client::arrayAt(spec, "ports")) {
      if (!port.is_object() || port.get_object().contains("nodePort")) continue;
      for (const auto& before : array(old.root(), {"spec", "ports"})) {
        if (!before.is_object() || !before.get_object().contains("nodePort")) continue;
        const auto& b = before.get_object();
        if (client::number(b, {"port"}) == client::number(port.get_object(), {"port"}) &&
            text(b, "protocol") == text(port.get_object(), "protocol")) {
          port.get_object()["nodePort"] = b.at("nodePort");
        }
      }
    }
    return {};
  }

  Result<> allocate(const Context&, json::object& service, const object::Object* old) override {
    auto& spec = client::objectAt(service, "spec");
    std::string type(text(spec, "type"));
    std::string name(text(service, {"metadata", "name"}));
    if (type == "ExternalName") {
      spec.erase("clusterIP");
      spec.erase("clusterIPs");
      return {};
    }
    RETURN_IF_ERROR(allocateAddress(spec, name, old));
    if (!spec.contains("ipFamilies")) spec["ipFamilies"] = json::array{"IPv4"};
    if (!spec.contains("ipFamilyPolicy")) spec["ipFamilyPolicy"] = "SingleStack";
    if (!usesNodePorts(type)) return {};
    if (!client::flag(spec, {"allocateLoadBalancerNodePorts"}, true) && type == "LoadBalancer") return {};
    return allocatePorts(spec, name, old);
  }

  void release(const json::object& service) override {
    const auto& spec = client::object(service, {"spec"});
    reserved_.erase(std::string(text(spec, "clusterIP")));
    for (const auto& port : array(spec, {"ports"})) {
      if (port.is_object()) reserved_.erase(std::to_string(client::number(port.get_object(), {"nodePort"}, 0)));
    }
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
    auto before = text(old->root(), {"spec", "clusterIP"});
    auto after = text(service, {"spec", "clusterIP"});
    if (!before.empty() && before != after) {
      causes.push_back({"FieldValueInvalid", fmt::format("Invalid value: [\"{}\"]: may not change once set", after),
                        "spec.clusterIPs[0]"});
    }
  }

 private:
  bool taken(const char* index, const std::string& key, std::string_view byOther) const {
    if (reserved_.contains(key)) return true;
    for (const auto& service : services_.byIndex(index, key)) {
      if (service->uid() != byOther) return true;
    }
    return false;
  }

  Result<> allocateAddress(json::object& spec, const std::string& name, const object::Object* old) {
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
    reserved_.insert(wanted);
    spec["clusterIP"] = wanted;
    spec["clusterIPs"] = json::array{json::string(wanted)};
    return {};
  }

  Result<> allocatePorts(json::object& spec, const std::string& name, const object::Object* old) {
    auto& ports = client::arrayAt(spec, "ports");
    std::set<int64_t> own;
    if (old) {
      for (const auto& port : array(old->root(), {"spec", "ports"})) {
        if (port.is_object()) own.insert(client::number(port.get_object(), {"nodePort"}, 0));
      }
    }
    std::string_view uid = old ? old->uid() : "";
    for (size_t i = 0; i < ports.size(); ++i) {
      if (!ports[i].is_object()) continue;
      auto& port = ports[i].get_object();
      int64_t wanted = client::number(port, {"nodePort"}, 0);
      if (wanted != 0) {
        if (own.contains(wanted)) continue;
        std::string why;
        if (wanted < options_.nodePortFirst || wanted > options_.nodePortLast) {
          why = fmt::format("provided port is not in the valid range. The range of valid ports is {}-{}",
                            options_.nodePortFirst, options_.nodePortLast);
        } else if (taken(kByPort, std::to_string(wanted), uid)) {
          why = "provided port is already allocated";
        }
        if (!why.empty()) {
          return invalid("Service", "", name,
                         {{"FieldValueInvalid", fmt::format("Invalid value: {}: {}", wanted, why),
                           fmt::format("spec.ports[{}].nodePort", i)}});
        }
      } else {
        uint32_t count = uint32_t{options_.nodePortLast} - options_.nodePortFirst + 1;
        uint32_t start = static_cast<uint32_t>(loop_.random() % count);
        for (uint32_t k = 0; k < count && wanted == 0; ++k) {
          int64_t candidate = options_.nodePortFirst + (start + k) % count;
          if (!taken(kByPort, std::to_string(candidate), "")) wanted = candidate;
        }
        if (wanted == 0) return Error(Code::kInternal, "failed to allocate a nodePort: range is full");
      }
      reserved_.insert(std::to_string(wanted));
      port["nodePort"] = wanted;
    }
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
