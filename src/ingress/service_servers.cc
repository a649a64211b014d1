#include "service_servers.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

bool condition(const boost::json::object& endpoint, std::string_view name, bool otherwise) {
  const auto* value = client::field(endpoint, {"conditions", name});
  return value && value->is_bool() ? value->get_bool() : otherwise;
}

}  // namespace

std::optional<ServicePort> findPort(const object::Object& service, std::string_view name, int64_t wanted) {
  const bool external = text(service.root(), {"spec", "type"}) == "ExternalName";
  for (const auto& value : array(service.root(), {"spec", "ports"})) {
    if (!value.is_object()) continue;
    const auto& port = value.get_object();
    const auto protocol = text(port, "protocol");
    if (!protocol.empty() && protocol != "TCP") continue;
    const int64_t own = number(port, {"port"}, 0);
    if (name.empty() ? own != wanted : text(port, "name") != name) continue;
    ServicePort out{std::string(text(port, "name")), own, std::string(text(port, "appProtocol")), ""};
    if (external) out.externalName = text(service.root(), {"spec", "externalName"});
    return out;
  }
  // A name elsewhere needs no list of ports.
  if (external && name.empty() && wanted > 0)
    return ServicePort{"", wanted, "", std::string(text(service.root(), {"spec", "externalName"}))};
  return std::nullopt;
}

int64_t firstPort(const object::Object& service) {
  for (const auto& value : array(service.root(), {"spec", "ports"}))
    if (value.is_object())
      if (const int64_t port = number(value.get_object(), {"port"}, 0); findPort(service, "", port)) return port;
  return 0;
}

std::string addressOf(const object::Object& service, int64_t port) {
  const std::string_view address = text(service.root(), {"spec", "clusterIP"});
  auto found = findPort(service, "", port);
  if (address.empty() || address == "None" || !found || !found->externalName.empty()) return "";
  return endpointText(address, static_cast<uint64_t>(port));
}

namespace {

std::vector<Server> serversOf(const std::vector<ObjectPtr>& slices, std::string_view portName,
                              std::string_view family) {
  std::vector<Server> ready, serving, leaving;
  for (const ObjectPtr& slice : slices) {
    if (text(slice->root(), {"addressType"}) != family) continue;
    int64_t port = 0;
    for (const auto& value : array(slice->root(), {"ports"})) {
      if (!value.is_object() || text(value.get_object(), "name") != portName) continue;
      const auto protocol = text(value.get_object(), "protocol");
      if (protocol.empty() || protocol == "TCP") port = number(value.get_object(), {"port"}, 0);
    }
    if (port <= 0 || port > UINT16_MAX) continue;
    for (const auto& value : array(slice->root(), {"endpoints"})) {
      if (!value.is_object()) continue;
      const auto& endpoint = value.get_object();
      const bool isReady = condition(endpoint, "ready", true);
      const bool serves = condition(endpoint, "serving", false);
      if (!isReady && !serves && !condition(endpoint, "terminating", false)) continue;
      for (const std::string& address : client::strings(array(endpoint, {"addresses"}))) {
        Server server{address, static_cast<uint16_t>(port), Server::State::kReady,
                      std::string(text(endpoint, {"targetRef", "uid"}))};
        if (isReady) {
          ready.push_back(std::move(server));
        } else if (serves) {
          server.state = Server::State::kDraining;
          serving.push_back(std::move(server));
        } else {
          server.state = Server::State::kLeaving;
          leaving.push_back(std::move(server));
        }
      }
    }
  }
  if (ready.empty())
    for (Server& server : serving) server.state = Server::State::kLast;
  std::vector<Server> out = std::move(ready);
  out.insert(out.end(), serving.begin(), serving.end());
  out.insert(out.end(), leaving.begin(), leaving.end());
  std::sort(out.begin(), out.end());
  // One address may be in two slices for a moment; the better word counts.
  out.erase(std::unique(out.begin(), out.end(),
                        [](const Server& a, const Server& b) { return a.address == b.address && a.port == b.port; }),
            out.end());
  return out;
}

}  // namespace

std::vector<Server> serversOf(const std::vector<ObjectPtr>& slices, std::string_view portName) {
  // A pod is one server, however many families it has.
  std::vector<Server> out = serversOf(slices, portName, "IPv4");
  return out.empty() ? serversOf(slices, portName, "IPv6") : out;
}

Annotations::Protocol protocolOf(std::string_view app) {
  using Protocol = Annotations::Protocol;
  if (app == "kubernetes.io/h2c" || app == "h2c" || app == "grpc" || app == "http2") return Protocol::kGrpc;
  if (app == "https" || app == "kubernetes.io/wss") return Protocol::kHttps;
  if (app == "grpcs") return Protocol::kGrpcs;
  return Protocol::kHttp;
}

}  // namespace dhow::ingress
