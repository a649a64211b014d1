// The process that HAProxy asks about requests of routes with a web application firewall or with users, and gives
// copies of requests to: a SPOE agent (spop.h) on a unix socket. It needs no rights: it drops root's once it has its
// socket and folder, for it reads what anybody sends. Findings are lines of JSON on the standard output, a pipe for
// which it never waits.
#pragma once

#include <memory>
#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"

namespace dhow::ingress {

class EdgeFilter {
 public:
  struct Options {
    std::string socket;
    std::string rules;             // folder of files that questions name: rules and users
    std::string user = "haproxy";  // whose rights it has then, and who may connect; empty: stays who it is
    int findings = 1;
  };
  EdgeFilter(Loop& loop, BlockingPool& pool, Options options);
  ~EdgeFilter();

  // Takes the socket's name from whoever has it, and drops rights. Blocks.
  Result<> open();
  // Answers from now on.
  void start();
  // No new connections; returns when those that there are have ended.
  Task<> stop();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::ingress
