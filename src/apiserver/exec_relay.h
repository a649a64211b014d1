// Copies the streams of one exec, attach or port-forward between a client and an agent, until either ends.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/gate.h"
#include "http/spdy.h"
#include "http/websocket.h"

namespace dhow::apiserver {

struct StreamSet {
  bool in = false;
  bool out = false;
  bool err = false;
  bool tty = false;
};

Task<> relayWebSocket(Loop& loop, std::shared_ptr<http::Stream> agent, std::unique_ptr<http::WebSocket> socket);
Task<> relaySpdy(Loop& loop, std::shared_ptr<http::Stream> agent, std::unique_ptr<http::SpdySession> session,
                 StreamSet wanted, std::string protocol);

using OpenPort = std::function<Task<Result<std::unique_ptr<http::Stream>>>(std::string port)>;
Task<> relayPorts(Loop& loop, std::unique_ptr<http::SpdySession> session, OpenPort open);

}  // namespace dhow::apiserver
