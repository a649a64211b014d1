// Logs, exec, attach and port-forward: from what kubectl speaks (WebSocket, SPDY) to what agents speak
// (client/streaming.h).
#pragma once

#include "apiserver/watch_cache.h"
#include "base/gate.h"
#include "http/server.h"
#include "request_info.h"
#include "tunnels.h"

namespace dhow::apiserver {

class Streaming {
 public:
  Streaming(Loop& loop, WatchCache& caches, Tunnels& tunnels) : loop_(loop), caches_(caches), tunnels_(tunnels) {}
  // A request for pods/{log,exec,attach,portforward} or nodes/proxy. Errors before the upgrade are answered as a
  // Status.
  Task<Result<>> serve(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info);

 private:
  struct Target {
    std::string ns;
    std::string pod;
    std::string container;
    std::string node;
    std::shared_ptr<http::Client> agent;
  };
  Result<Target> targetOf(const RequestInfo& info, const http::Query& query, bool needsContainer) const;
  Task<Result<std::unique_ptr<http::Stream>>> openAgent(Target target, std::string path);
  Task<Result<>> serveLog(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info);
  Task<Result<>> serveExec(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info);
  Task<Result<>> servePortForward(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info);
  Task<Result<>> serveNodeProxy(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info);
  Task<Result<>> relay(http::ResponseWriter& writer, http::StreamingResponse response, bool asLog);

  Loop& loop_;
  WatchCache& caches_;
  Tunnels& tunnels_;
};

}  // namespace dhow::apiserver
