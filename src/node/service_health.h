// Health-check ports of services whose externalTrafficPolicy is Local (spec.healthCheckNodePort): a balancer in front
// asks each node there whether it has an endpoint. 200 when it has, 503 when not, with the JSON that kube-proxy gives.
// On the loop.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "client/client.h"
#include "http/server.h"
#include "node/service_ports.h"

namespace dhow::node {

// The port that the service has its health told on, and how many ready endpoints it has here. Port 0: none.
struct ServiceHealth {
  uint16_t port = 0;
  size_t localEndpoints = 0;
};
ServiceHealth serviceHealth(const object::Object& service, const std::vector<object::ObjectPtr>& slices,
                            const ServiceView& view);

class ServiceHealthServers {
 public:
  explicit ServiceHealthServers(Loop& loop) : loop_(loop), gate_(loop) {}
  // A port that cannot be listened on is told in the log, and tried again by the next call.
  void set(const std::string& ns, const std::string& name, ServiceHealth health);
  void remove(const std::string& ns, const std::string& name) { set(ns, name, {}); }
  Task<> stop();

 private:
  struct Entry {
    std::string ns, name;
    ServiceHealth health;
    std::unique_ptr<http::Server> server;
  };
  void close(std::unique_ptr<http::Server> server);
  static Task<> answer(std::shared_ptr<Entry> entry, http::ResponseWriter* writer);

  Loop& loop_;
  std::map<std::string, std::shared_ptr<Entry>> entries_;  // by "namespace/name"
  Gate gate_;
};

}  // namespace dhow::node
