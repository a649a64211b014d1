// Requests judged by rules of ModSecurity's language, those of OWASP's core rule set above all. libmodsecurity is
// loaded when it is first needed, so that processes without it neither load nor need it. Any thread; blocks for as long
// as rules need (milliseconds; the first time for rules that are new, a second). Private to this folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace dhow::ingress {

struct WafRequest {
  std::string client;
  uint16_t port = 0;
  std::string_view method, uri, version;  // "1.1"
  std::vector<std::pair<std::string_view, std::string_view>> headers;
  std::string_view body;
};

struct WafVerdict {
  struct Match {
    std::string rule, message, data;
  };
  bool blocked = false;  // the rules would refuse it
  std::vector<Match> matches;
};

class Waf {
 public:
  // kUnavailable when the library is not installed.
  static Result<std::unique_ptr<Waf>> load();
  ~Waf();
  // The same text is the same rules: they are kept. kInvalid when they cannot be read.
  Result<WafVerdict> inspect(const std::string& rules, const WafRequest& request);

 private:
  Waf();
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

// The number, message and data of a line that ModSecurity logs; empty where there are none.
WafVerdict::Match readMatch(std::string_view line);

}  // namespace dhow::ingress
