// What the masters ask of a node, over the connection that the agent dialed (client/streaming.h): logs, exec, attach,
// port-forward, health, statistics, and how far the proxy and DNS have come (client/draining.h), and how many users and
// connections pods have at this node's edge (client/sessions.h).
#pragma once

#include <memory>
#include <string>

#include "base/blocking.h"
#include "http/server.h"
#include "ingress/edge.h"
#include "pod_manager.h"
#include "services.h"

namespace dhow::node {

class AgentServer {
 public:
  AgentServer(Loop& loop, BlockingPool& pool, PodManager& pods, ServiceFeed& services, ingress::Edge& edge);
  Task<> handle(http::Request& request, http::ResponseWriter& writer);

 private:
  struct Target {
    PodWorker* worker = nullptr;
    const ContainerRecord* record = nullptr;
  };
  Result<Target> targetOf(const std::vector<std::string>& path, bool running) const;
  Task<Result<>> serve(http::Request& request, http::ResponseWriter& writer);
  Task<Result<>> logs(http::Request& request, http::ResponseWriter& writer, std::vector<std::string> path);
  Task<Result<>> exec(http::Request& request, http::ResponseWriter& writer, std::vector<std::string> path);
  Task<Result<>> attach(http::Request& request, http::ResponseWriter& writer, std::vector<std::string> path);
  Task<Result<>> portForward(http::Request& request, http::ResponseWriter& writer, std::vector<std::string> path);
  Task<Result<>> applied(http::Request& request, http::ResponseWriter& writer);
  Task<Result<>> sessions(http::Request& request, http::ResponseWriter& writer);
  Task<Result<>> summary(http::ResponseWriter& writer);
  Task<Result<>> metrics(http::ResponseWriter& writer);
  Task<Result<>> edgeLog(http::Request& request, http::ResponseWriter& writer, std::string path);

  Loop& loop_;
  BlockingPool& pool_;
  PodManager& pods_;
  ServiceFeed& services_;
  ingress::Edge& edge_;
};

}  // namespace dhow::node
