#include "service_health.h"

#include <set>

#include "base/log.h"
#include "json.h"

namespace dhow::node {

namespace {

constexpr size_t kConnectionsMost = 64;  // balancers, each with a few

Task<> end(std::unique_ptr<http::Server> server) {
  co_await server->stop();
}

}  // namespace

ServiceHealth serviceHealth(const Object& service, const std::vector<ObjectPtr>& slices, const ServiceView& view) {
  const json::object& spec = object(service.root(), {"spec"});
  ServiceHealth out;
  if (text(spec, "type") != "LoadBalancer" || text(spec, "externalTrafficPolicy") != "Local") return out;
  out.port = static_cast<uint16_t>(number(spec, {"healthCheckNodePort"}, 0));
  if (out.port == 0) return out;
  std::set<std::string> here;
  for (const ObjectPtr& slice : slices) {
    for (const json::value& entry : array(slice->root(), {"endpoints"})) {
      if (!entry.is_object()) continue;
      const json::object& endpoint = entry.get_object();
      if (text(endpoint, "nodeName") != view.node) continue;
      if (!flag(endpoint, {"conditions", "ready"}, true) && !flag(spec, {"publishNotReadyAddresses"})) continue;
      for (std::string& address : strings(array(endpoint, {"addresses"}))) here.insert(std::move(address));
    }
  }
  out.localEndpoints = here.size();
  return out;
}

void ServiceHealthServers::set(const std::string& ns, const std::string& name, ServiceHealth health) {
  const std::string key = ns + "/" + name;
  auto known = entries_.find(key);
  if (known != entries_.end() && (known->second->health.port != health.port || !known->second->server)) {
    close(std::move(known->second->server));
    entries_.erase(known);
    known = entries_.end();
  }
  if (health.port == 0) return;
  if (known != entries_.end()) {
    known->second->health = health;
    return;
  }
  auto entry = std::make_shared<Entry>();
  entry->ns = ns;
  entry->name = name;
  entry->health = health;
  // Weak: the entry owns the server that has the handler.
  std::weak_ptr<Entry> weak = entry;
  auto server = std::make_unique<http::Server>(
      loop_, http::Server::Options{.name = "service health", .tls = nullptr, .maxConnections = kConnectionsMost},
      [weak](http::Request&, http::ResponseWriter& writer) { return answer(weak.lock(), &writer); });
  auto listening = server->listenTcp("", health.port);
  if (listening.ok()) {
    entry->server = std::move(server);
  } else {
    log::warn("node", "health of service {}: {}", key, listening.error().message());
    close(std::move(server));
  }
  entries_[key] = std::move(entry);
}

Task<> ServiceHealthServers::answer(std::shared_ptr<Entry> entry, http::ResponseWriter* writer) {
  if (!entry) co_return;
  const size_t count = entry->health.localEndpoints;
  http::Response response;
  response.status = count > 0 ? 200 : 503;
  response.headers.set("Content-Type", "application/json");
  response.headers.set("X-Content-Type-Options", "nosniff");
  response.headers.set("X-Load-Balancing-Endpoint-Weight", std::to_string(count));
  response.body = fmt::format(
      "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\"localEndpoints\": {},\n"
      "\t\"serviceProxyHealthy\": true\n}}",
      entry->ns, entry->name, count);
  (void)co_await writer->send(std::move(response));
}

void ServiceHealthServers::close(std::unique_ptr<http::Server> server) {
  if (server) gate_.spawn(end(std::move(server)));
}

Task<> ServiceHealthServers::stop() {
  for (auto& [key, entry] : std::exchange(entries_, {})) close(std::move(entry->server));
  co_await gate_.close();
}

}  // namespace dhow::node
