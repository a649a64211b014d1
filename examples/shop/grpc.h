// gRPC over HTTP/2 without TLS, by nghttp2: one method with a stream of messages in each direction.
#pragma once

#include <memory>
#include <string>

#include "server.h"

namespace examples {

// Answers each message of calls of `method` ("/package.Service/Method") with the same message; calls of others end with
// UNIMPLEMENTED.
std::unique_ptr<Conversation> answerCalls(std::string method);

}  // namespace examples
