// Keeps a connection to every master, dialed from here, on which the masters are the clients (client/streaming.h). A
// node listens to nobody.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/gate.h"
#include "http/client.h"
#include "http/server.h"

namespace dhow::node {

class Tunnels {
 public:
  struct Options {
    std::string node;
    std::vector<std::string> servers;
    std::shared_ptr<http::TlsClient> tls;  // HTTP/1.1
  };
  Tunnels(Loop& loop, Options options, http::Server& server);
  void start();
  // The masters from now on. A connection to one that is no more among them stays until it ends.
  void setServers(std::vector<std::string> servers);
  // Open connections end with the server's stop().
  Task<> stop();
  size_t connected() const { return connected_; }

 private:
  void dial();
  static Task<> keep(Tunnels* self, std::string server);

  Loop& loop_;
  Options options_;
  http::Server& server_;
  http::Client client_;
  size_t connected_ = 0;
  std::set<std::string> kept_;  // servers that are dialed
  bool started_ = false, stopping_ = false;
  Signal stopped_;
  Gate gate_;
};

}  // namespace dhow::node
