// The load under which a drill breaks things: requests against a service from outside, each on a connection of its own,
// and acknowledged writes to the API, one after the other. Both note what became of each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "client/client.h"

namespace dhow::platform {

class Load {
 public:
  void start() { gate_.spawn(run()); }
  // Waits for the answers that are due.
  Task<> stop();

 protected:
  explicit Load(Loop& loop) : loop_(loop), stopped_(loop), gate_(loop) {}
  ~Load() = default;
  virtual Task<> run() = 0;

  Loop& loop_;
  bool stopping_ = false;
  Signal stopped_;
  Gate gate_;
};

class RequestLoad final : public Load {
 public:
  struct Lost {
    TimePoint sent;
    std::string why;
  };
  RequestLoad(Loop& loop, std::string url) : Load(loop), url_(std::move(url)) {}
  // Sends until `count` in a row were answered; kDeadlineExceeded when that takes longer than `limit`.
  Task<Result<>> warmUp(size_t count, Duration limit);
  size_t sent() const { return sent_; }
  const std::vector<Lost>& lost() const { return lost_; }

 private:
  static Task<Result<>> ask(Loop& loop, std::string url);
  Task<> run() override;
  static Task<> one(RequestLoad* self, TimePoint sent);

  const std::string url_;
  size_t sent_ = 0;
  std::vector<Lost> lost_;
};

class WriteLoad final : public Load {
 public:
  struct Failed {
    TimePoint sent;
    std::string why;
  };
  WriteLoad(Loop& loop, client::Client& api, std::string ns) : Load(loop), api_(api), ns_(std::move(ns)) {}
  // Called for each write that was acknowledged, with when it was sent.
  std::function<void(TimePoint sent)> onAcknowledged;
  size_t acknowledged() const { return acknowledged_.size(); }
  const std::vector<Failed>& failed() const { return failed_; }
  Duration longestPause() const { return longestPause_; }
  // Names of acknowledged writes that are not there, or not as they were written. After stop().
  Task<Result<std::vector<std::string>>> missing();

 private:
  Task<> run() override;

  client::Client& api_;
  const std::string ns_;
  std::vector<int> acknowledged_;
  std::vector<Failed> failed_;
  TimePoint last_;
  Duration longestPause_{0};
};

}  // namespace dhow::platform
