// Copies of requests, sent to a service whose answers nobody looks at. On the loop's thread. Private to this folder.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"

namespace dhow::ingress {

struct MirrorRequest {
  std::string_view target;  // "address:port/path", with a star at its end where the request's own path follows
  std::string_view host;    // empty: the request's own
  std::string_view method, uri;
  std::vector<std::pair<std::string_view, std::string_view>> headers;
  std::string_view body;
};

// As HTTP/1.1 has it, and where it goes. kInvalid when it cannot be copied as a whole.
struct MirrorCopy {
  std::string address, bytes;
  uint16_t port = 0;
};
Result<MirrorCopy> copyOf(const MirrorRequest& request);

class Mirrors {
 public:
  explicit Mirrors(Loop& loop) : loop_(loop), gate_(loop) {}
  // Returns at once. While too many are under way there is no copy.
  void send(MirrorCopy copy);
  uint64_t sent() const { return sent_; }
  Task<> stop();

 private:
  static Task<> run(Mirrors* self, MirrorCopy copy);

  Loop& loop_;
  size_t underWay_ = 0;
  uint64_t sent_ = 0;
  Gate gate_;
};

}  // namespace dhow::ingress
