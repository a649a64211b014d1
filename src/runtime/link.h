// The daemon's end of the socket to one shim: requests with descriptors, their replies, and events.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "wire.h"

namespace dhow::runtime {

class ShimLink : public std::enable_shared_from_this<ShimLink> {
 public:
  struct Reply {
    wire::Message message{};
    std::vector<UniqueFd> fds;
    std::vector<wire::Message> warnings;
  };
  using Listener = std::function<void(const wire::Message&)>;

  ShimLink(Loop& loop, UniqueFd socket);
  ~ShimLink();

  // Events go to `event`; `gone` is called once when the other end is closed (never after close()).
  void start(Listener event, std::function<void()> gone);
  // Sends and waits for the answer. A plan's failure is no error here: see message.error.
  Task<Result<Reply>> call(wire::Message request, std::vector<UniqueFd> fds);
  // The shim's first message after it was started.
  Task<Result<wire::Message>> up();
  void close();
  bool open() const;

 private:
  struct Rep;
  struct Pending;
  void wait();
  void readable();
  void receive(const wire::Message& message, std::vector<UniqueFd> fds);
  void end();

  Loop& loop_;
  std::unique_ptr<Rep> rep_;
  Listener event_;
  std::function<void()> gone_;
  std::map<uint32_t, std::shared_ptr<Pending>> pending_;
  uint32_t sequence_ = 0;
};

// Calls `done` on the loop when the process has ended, and reaps it if it is a child of ours.
class ProcessWatch {
 public:
  ProcessWatch(Loop& loop, UniqueFd pidfd, std::function<void()> done);
  ~ProcessWatch();  // the process is still reaped, `done` is not called
  void cancel();    // not even that
  void kill() const;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

// Calls `happened` on the loop each time that a descriptor of Cgroups::watchOom() tells.
class OomWatch {
 public:
  OomWatch(Loop& loop, UniqueFd fd, std::function<void()> happened);
  ~OomWatch();

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

// Sends or receives one message on a SEQPACKET socket. receiveMessage gives false when nothing is there,
// kUnavailable at the end of the connection.
Result<> sendMessage(int socket, const wire::Message& message, const std::vector<UniqueFd>& fds);
Result<bool> receiveMessage(int socket, wire::Message& message, std::vector<UniqueFd>& fds);

}  // namespace dhow::runtime
