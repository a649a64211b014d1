// One watch over HTTP: lines of {"type", "object"} as they arrive, parsed one by one; the reading stops while the
// consumer is behind.
#pragma once

#include <memory>
#include <string>

#include "base/gate.h"
#include "client/client.h"
#include "http/client.h"

namespace dhow::client {

class HttpWatch : public std::enable_shared_from_this<HttpWatch> {
 public:
  HttpWatch(Loop& loop, size_t lineLimit) : lineLimit_(lineLimit), events_(loop), room_(loop) {}

  // Reads until the end, an error or close().
  static Task<> pump(std::shared_ptr<HttpWatch> self, std::shared_ptr<http::StreamingResponse> response);
  static std::unique_ptr<Watcher> watcher(std::shared_ptr<HttpWatch> self);
  Task<Result<WatchEvent>> next();
  void close();

 private:
  // Takes the whole lines out of `buffer`; an error ends the watch.
  Result<> takeLines(std::string& buffer);
  Result<> takeLine(std::string_view line);

  size_t lineLimit_;
  Queue<WatchEvent> events_;
  Signal room_;
  std::optional<Error> end_;
  bool closed_ = false;
};

}  // namespace dhow::client
