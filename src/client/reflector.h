// Fills a Cache from the API: lists, then watches from there. While the server is away the cache keeps what it has and
// the watch is tried again with growing, jittered delays; it resumes from the last resourceVersion, and lists anew only
// after 410 Gone. Nothing is kept on disk.
#pragma once

#include <map>
#include <memory>

#include "base/gate.h"
#include "client/client.h"
#include "client/memory_cache.h"

namespace dhow::client {

class Reflector {
 public:
  struct Options {
    ListOptions select;  // e.g. fieldSelector "spec.nodeName=n1"
    Duration firstDelay = std::chrono::milliseconds(200);
    Duration maxDelay = std::chrono::seconds(10);
    // Called when contact with the server is lost (false) or made (true).
    std::function<void(bool connected)> onContact;
  };
  Reflector(Loop& loop, Client& client, Resource resource, Options options);
  ~Reflector();

  MemoryCache& cache() { return cache_; }
  void start();
  // The server is back: try now, whatever the delay that was due.
  void retry();
  Task<> stop();
  bool connected() const { return connected_; }
  // For tests: how many times it listed.
  size_t lists() const { return lists_; }

 private:
  static Task<> run(Reflector* self);
  Task<Result<>> listOnce();
  Task<Result<>> watchOnce();
  void setConnected(bool connected);

  Loop& loop_;
  Client& client_;
  const Resource resource_;
  Options options_;
  MemoryCache cache_;
  std::string resourceVersion_;  // empty: list
  std::shared_ptr<Watcher> watcher_;
  Signal wake_;
  bool stopping_ = false;
  bool connected_ = false;
  bool progressed_ = false;  // the last watch lived or said something
  int failures_ = 0;
  size_t lists_ = 0;
  Gate gate_;
};

// The caches of a process that talks to the API over HTTP. select() narrows a kind before it is first used.
class HttpCaches final : public Caches {
 public:
  HttpCaches(Loop& loop, Client& client) : loop_(loop), client_(client) {}

  void select(const Resource& resource, ListOptions select) { selects_[resource] = std::move(select); }
  Cache& of(const Resource& resource) override;
  // Null when `of` was not called for it.
  Reflector* reflector(const Resource& resource);
  // Starts those that exist; one that is made later starts at once.
  void start();
  void retry();  // see Reflector
  Task<> stop();

 private:
  Loop& loop_;
  Client& client_;
  std::map<Resource, ListOptions> selects_;
  std::map<Resource, std::unique_ptr<Reflector>> reflectors_;
  bool started_ = false;
};

}  // namespace dhow::client
