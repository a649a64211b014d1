// The region's API as HTTP with JSON: the provider's operations (platform/provider.h) and the state of the masters.
// Served on a socket file for this machine's root and, with client certificates of masters, on the uplink.
//
//   GET    /v1/machines           {"machines": [...], "zones": [{"name", "up"}]}
//   GET    /v1/changes            lines of {"name"}: a machine that changed; empty: any
//   PUT    /v1/machines/<name>    {"zone", "pool", "version", "labels", "taints", "resources"}: makes a node, starts it
//   DELETE /v1/machines/<name>
//   POST   /v1/machines/<name>/start | stop | kill | restart | cut | restore
//   POST   /v1/machines/<name>/replace   {"program"}: its role goes on with that one
//   POST   /v1/zones/<zone>/cut | restore
//   GET    /v1/masters            {"masters": [{"name", "alive"}]}
//   GET    /v1/endpointslices/applied     how far the load balancer has come (client/draining.h)
// An error is {"code", "message"} with a status of its own. Fields that the other side does not know are passed over.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "http/server.h"
#include "http/tls.h"
#include "platform/api_address.h"
#include "platform/provider.h"

namespace dhow::platform {

// All outlive the handler.
struct RegionParts {
  Provider& provider;
  const ApiAddress* masters = nullptr;
  // Called after a zone's segment was put back.
  std::function<Result<>()> restored = {};
  // LoadBalancer::untilApplied.
  std::function<Task<uint64_t>(uint64_t revision, Duration limit)> applied = {};
};
http::Handler regionHandler(Loop& loop, RegionParts parts);

class RegionClient {
 public:
  struct Options {
    std::string unixSocket;  // or:
    std::string url;         // "https://10.89.0.1:7443"
    std::shared_ptr<http::TlsClient> tls;
    Duration timeout = std::chrono::seconds(60);
  };
  RegionClient(Loop& loop, Options options);
  ~RegionClient();

  struct MasterState {
    std::string name;
    bool alive = false;
  };
  // As Provider's. kUnavailable when the region does not answer.
  struct Machines {
    std::vector<MachineInfo> machines;
    std::vector<ZoneInfo> zones;
  };
  Task<Result<Machines>> list();
  Task<Result<>> create(std::string name, std::string zone, NodeTraits traits);
  Task<Result<>> remove(std::string name);
  Task<Result<>> start(std::string name);
  Task<Result<>> stop(std::string name);
  Task<Result<>> kill(std::string name);
  Task<Result<>> restart(std::string name);
  Task<Result<>> replace(std::string name, std::string program);
  Task<Result<>> setLink(std::string name, bool up);
  Task<Result<>> setZone(std::string zone, bool up);
  Task<Result<std::vector<MasterState>>> masters();
  // Waits until the load balancer has applied all EndpointSlices up to `revision`, at most `limit`; gives how far it
  // has come. kUnimplemented when the region does not know the question.
  Task<Result<uint64_t>> applied(uint64_t revision, Duration limit);
  // Calls `changed` for each change until the connection ends, which is the result; first with an empty name.
  Task<Result<>> follow(std::function<void(const std::string& name)> changed);
  // Ends what is under way.
  void close();

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::platform
