// Commands to HAProxy's runtime API (management guide, section 9.3). Blocks. Private to this folder.
#pragma once

#include <string>

#include "base/result.h"

namespace dhow::ingress {

// Sends to a unix socket and reads until its end, at most `limit` bytes.
Result<std::string> exchange(const std::string& socket, std::string_view request, size_t limit);

class Control {
 public:
  explicit Control(std::string socket) : socket_(std::move(socket)) {}
  // The answer to one command, without white space around it. `payload` follows it, and has no blank lines.
  Result<std::string> ask(const std::string& command, const std::string& payload = "",
                          size_t longest = size_t{1} << 20) const;
  // The same for what says nothing when it is done.
  Result<> tell(const std::string& command) const;
  // What says one of these words when it is done.
  Result<> tell(const std::string& command, const std::string& payload, std::string_view done) const;

 private:
  std::string socket_;
};

// A word of a command.
std::string word(std::string_view text);

}  // namespace dhow::ingress
