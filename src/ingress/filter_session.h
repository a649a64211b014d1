// One connection of HAProxy's to the filter: the handshake, then questions one after the other (HAProxy opens as many
// connections as it has questions at the same time). Private to this folder.
#pragma once

#include <memory>

#include "base/loop.h"
#include "http/stream.h"
#include "spop.h"

namespace dhow::ingress {

class FilterHandler {
 public:
  virtual ~FilterHandler() = default;
  // What is said of a message; `ack` and what the message points to live until it returns.
  virtual Task<> answer(const spop::Message& message, spop::Ack& ack) = 0;
};

// Until HAProxy ends it, or says what cannot be understood.
Task<> serveFilter(std::unique_ptr<http::Stream> stream, FilterHandler* handler);

}  // namespace dhow::ingress
