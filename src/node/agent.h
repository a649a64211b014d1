// The node agent as a whole: takes the floors below, runs the node's pods, services, DNS, status and tunnels.
#pragma once

#include <functional>
#include <memory>

#include "base/blocking.h"
#include "base/result.h"
#include "base/task.h"
#include "client/http_client.h"
#include "http/tls.h"
#include "image/store.h"
#include "node/options.h"
#include "runtime/runtime.h"

namespace dhow::node {

class Agent {
 public:
  struct Parts {
    Loop& loop;
    BlockingPool& pool;
    client::HttpClient& client;
    runtime::Runtime& runtime;
    image::ImageStore& images;
    std::shared_ptr<http::TlsClient> tunnelTls;  // with the node's certificate, HTTP/1.1
    client::Client* leases = nullptr;            // for the node's lease, with short limits; null: as all else
    // Told the servers to ask, best first, whenever the masters have changed; where the node follows them.
    std::function<void(const std::vector<std::string>&)> onServers = {};
  };
  Agent(Parts parts, NodeOptions options);
  ~Agent();
  // Takes up what runs already, then serves. Does not wait for a master. An error is of this machine: no permission, no
  // network tables.
  Task<Result<>> start();
  // Containers go on.
  Task<> stop();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::node
