// The connections that agents have dialed in: each is an HTTP/2 connection on which the agent is the server.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "http/client.h"

namespace dhow::apiserver {

class Tunnels {
 public:
  explicit Tunnels(Loop& loop) : loop_(loop) {}
  ~Tunnels();

  // Takes the place of an earlier one of that node.
  void add(const std::string& node, std::unique_ptr<http::Stream> connection);
  // Null when the node has none.
  std::shared_ptr<http::Client> find(const std::string& node) const;
  // A node has dialed in.
  std::function<void(const std::string& node)> onAdded;
  size_t size() const { return nodes_.size(); }
  void close();

 private:
  class Watched;
  struct Entry {
    uint64_t id = 0;
    std::shared_ptr<http::Client> client;
  };
  void ended(const std::string& node, uint64_t id);

  Loop& loop_;
  std::map<std::string, Entry> nodes_;
  uint64_t sequence_ = 0;
  std::shared_ptr<Tunnels*> self_ = std::make_shared<Tunnels*>(this);
};

}  // namespace dhow::apiserver
