// Asks the service that answers instead of one that failed, as ingress-nginx's custom-http-errors has it, on behalf of
// HAProxy, which can ask nobody after an answer. On the loop's thread. Private to this folder.
#pragma once

#include <string>
#include <string_view>

#include "base/loop.h"
#include "base/result.h"

namespace dhow::ingress {

// With its head it must fit into a buffer of HAProxy's, and into a frame of the filter's.
constexpr size_t kLongestErrorAnswer = 12 << 10;

struct ErrorQuestion {
  std::string_view place;                  // "address:port namespace ingress service port": who is asked, and for whom
  uint64_t code = 0;                       // of the answer that is replaced
  std::string_view format, uri, host, id;  // of the request: what it accepts, and its id
};
struct ErrorAnswer {
  int status = 0;
  std::string type, cacheControl, body;
};

class ErrorBackends {
 public:
  explicit ErrorBackends(Loop& loop) : loop_(loop) {}
  // kUnavailable when too many are under way, or it does not answer in three seconds; kTooLarge when its page does not
  // fit.
  Task<Result<ErrorAnswer>> ask(ErrorQuestion question);

 private:
  Loop& loop_;
  size_t underWay_ = 0;
};

}  // namespace dhow::ingress
