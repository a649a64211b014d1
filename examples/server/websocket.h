// WebSockets (RFC 6455) as the examples' programs speak them: text and binary messages of one frame of up to 64 KiB.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server.h"

namespace examples {

// What to answer with Sec-WebSocket-Accept.
std::string webSocketAccept(std::string_view key);
// Each message is answered with what `answer` gives.
std::unique_ptr<Conversation> answerMessages(std::function<std::string(std::string_view)> answer);

}  // namespace examples
