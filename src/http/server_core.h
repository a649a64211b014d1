// What the server's connections share. Private to this folder.
#pragma once

#include <set>

#include "base/gate.h"
#include "http/server.h"
#include "input.h"

namespace dhow::http::internal {

// A connection that the server can end.
class Live {
 public:
  virtual ~Live() = default;
  // Begins to end; handlers learn it by onClose.
  virtual void end() = 0;
};

struct ServerCore {
  ServerCore(Loop& loop, Server::Options options, Handler handler)
      : loop(loop),
        options(std::move(options)),
        handler(std::move(handler)),
        gate(loop),
        slotFree(loop),
        liveChanged(loop) {}
  Loop& loop;
  const Server::Options options;
  const Handler handler;
  Gate gate;
  Signal slotFree;
  Signal liveChanged;
  std::set<Live*> live;
  size_t connections = 0;
  bool stopping = false;

  // "Sun, 06 Nov 1994 08:49:37 GMT", made once a second.
  const std::string& date();

 private:
  int64_t dateSecond_ = -1;
  std::string date_;
};

// Keeps a connection in the server's list while it lives.
class Listed {
 public:
  Listed(std::shared_ptr<ServerCore> core, Live* live) : core_(std::move(core)), live_(live) {
    core_->live.insert(live_);
  }
  ~Listed() {
    core_->live.erase(live_);
    core_->liveChanged.notify();
  }
  Listed(const Listed&) = delete;
  Listed& operator=(const Listed&) = delete;

 private:
  std::shared_ptr<ServerCore> core_;
  Live* live_;
};

constexpr Duration kIdleLimit = std::chrono::minutes(3);

// `idleLimit`: whether the connection is dropped when nothing has happened for kIdleLimit.
Task<> serveHttp1(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input, Peer peer, bool idleLimit);
// `upgrade`: the request that asked for "Upgrade: h2c" becomes the first stream, with these decoded settings.
struct H2cUpgrade {
  Request request;
  std::string settings;
};
Task<> serveHttp2(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input, Peer peer, bool idleLimit,
                  std::unique_ptr<H2cUpgrade> upgrade);

// Splits "path?query" into the request.
void setTarget(Request& request, std::string_view target);

}  // namespace dhow::http::internal
