// WebSocket (RFC 6455) over a hijacked Stream: both sides, messages whole.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/client.h"
#include "http/server.h"

namespace dhow::http {

class WebSocket {
 public:
  virtual ~WebSocket() = default;
  struct Message {
    bool binary = true;
    std::string bytes;
  };
  // One read may be under way at a time; writes queue up, each whole. kCancelled after the other side has closed;
  // kTooLarge or kBadRequest when it broke the rules, and then it has been told. Pings are answered inside read().
  virtual Task<Result<Message>> read() = 0;
  virtual Task<Result<>> write(std::string_view bytes, bool binary = true) = 0;
  virtual Task<> close(uint16_t code = 1000, std::string reason = "") = 0;
  virtual const std::string& protocol() const = 0;
  // Ends the connection at once; read() and write() end with kCancelled. Destroying the socket does the same.
  virtual void abort() = 0;
};

bool isWebSocketUpgrade(const Request& request);
// Server side. Picks the first of `protocols` that the client offers; kBadRequest when it offers some and none fits.
Task<Result<std::unique_ptr<WebSocket>>> acceptWebSocket(Request& request, ResponseWriter& writer,
                                                         std::vector<std::string> protocols,
                                                         size_t maxMessage = 1 << 20);
Task<Result<std::unique_ptr<WebSocket>>> connectWebSocket(Client& client, std::string url, Headers headers,
                                                          std::vector<std::string> protocols);

}  // namespace dhow::http
