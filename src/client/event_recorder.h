// Writes core/v1 Events. Never blocks and never fails its caller: what cannot be written is dropped. The same event
// about the same object again within ten minutes raises the count of the first one; one object may cause a burst of 25
// and then one every five minutes.
#pragma once

#include <deque>
#include <list>
#include <string>
#include <unordered_map>

#include "base/gate.h"
#include "client/client.h"

namespace dhow::client {

class EventRecorder {
 public:
  struct Options {
    std::string component;  // "deployment-controller", "default-scheduler", "kubelet"
    std::string host;       // the node, for agents
    size_t queueLimit = 10000;
    size_t remembered = 4096;
    int burst = 25;
    Duration refill = std::chrono::minutes(5);
    // How long the first event after a quiet time waits, so that what it tells of comes first.
    Duration hold = Duration::zero();
  };
  EventRecorder(Loop& loop, Client& client, Options options);

  void normal(const Object& about, std::string_view reason, std::string message) {
    event(about, "Normal", reason, std::move(message));
  }
  void warning(const Object& about, std::string_view reason, std::string message) {
    event(about, "Warning", reason, std::move(message));
  }
  // `fieldPath`: the part that is meant, such as spec.containers{web}.
  void event(const Object& about, std::string_view type, std::string_view reason, std::string message,
             std::string_view fieldPath = "");
  // Lets what is queued go and takes nothing more.
  Task<> stop();
  size_t dropped() const { return dropped_; }

 private:
  struct Item {
    std::string key;
    std::string sourceKey;
    boost::json::object body;
  };
  struct Known {
    std::string name;  // of the Event
    int64_t count = 0;
    TimePoint last{};
    std::list<const std::string*>::iterator age;
  };
  struct Bucket {
    double tokens = 0;
    TimePoint filled;
  };
  static Task<> drain(EventRecorder* self);
  Task<> write(Item item);
  bool allowed(const std::string& source);
  // Notes a write now, and forgets what will not be asked for any more.
  void remember(const std::string& key, std::string name, int64_t count);

  Loop& loop_;
  Client& client_;
  Options options_;
  std::deque<Item> queue_;
  std::unordered_map<std::string, Known> known_;
  std::list<const std::string*> ages_;  // the keys of known_, oldest first
  std::unordered_map<std::string, Bucket> buckets_;
  size_t dropped_ = 0;
  uint64_t sequence_ = 0;
  bool draining_ = false;
  Signal ending_;
  Gate gate_;
};

}  // namespace dhow::client
