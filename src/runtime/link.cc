#include "link.h"

#include "cgroup.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <boost/asio/posix/stream_descriptor.hpp>

#include <cerrno>
#include <cstring>

namespace dhow::runtime {

namespace asio = boost::asio;

namespace {
constexpr uint32_t kUpSequence = 0;
constexpr size_t kMaxFds = 32;
}  // namespace

Result<> sendMessage(int socket, const wire::Message& message, const std::vector<UniqueFd>& fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  iovec vector{const_cast<wire::Message*>(&message), sizeof message};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  if (fds.size() > kMaxFds) return Error(Code::kTooLarge, "too many descriptors for one message");
  if (!fds.empty()) {
    header.msg_control = control;
    header.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    int* numbers = reinterpret_cast<int*>(CMSG_DATA(part));
    for (size_t i = 0; i < fds.size(); ++i) numbers[i] = fds[i].get();
  }
  ssize_t n = ::sendmsg(socket, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (n < 0)
    return Error(Code::kUnavailable, std::string("the shim does not take messages: ") + std::strerror(errno), errno);
  return {};
}

Result<bool> receiveMessage(int socket, wire::Message& message, std::vector<UniqueFd>& fds) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  message = {};
  iovec vector{&message, sizeof message};
  msghdr header{};
  header.msg_iov = &vector;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t n;
  do n = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  while (n < 0 && errno == EINTR);
  if (n < 0 && errno == EAGAIN) return false;
  if (n <= 0) return Error(Code::kUnavailable, "the shim is gone");
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const int* numbers = reinterpret_cast<const int*>(CMSG_DATA(part));
    for (size_t i = 0; i < count; ++i) fds.emplace_back(numbers[i]);
  }
  if (n < static_cast<ssize_t>(wire::kLeastMessage))
    return Error(Code::kUnavailable, "the shim sent a part of a message");
  message.id[wire::kMaxId] = 0;
  return true;
}

struct ShimLink::Rep {
  explicit Rep(Loop& loop) : socket(loop.executor()) {}
  asio::posix::stream_descriptor socket;
};

struct ShimLink::Pending {
  explicit Pending(Loop& loop) : done(loop) {}
  Signal done;
  std::optional<Result<Reply>> result;
  std::vector<wire::Message> warnings;
};

ShimLink::ShimLink(Loop& loop, UniqueFd socket) : loop_(loop), rep_(std::make_unique<Rep>(loop)) {
  boost::system::error_code error;
  rep_->socket.assign(socket.get(), error);
  if (!error) socket.release();
  pending_[kUpSequence] = std::make_shared<Pending>(loop_);
}

ShimLink::~ShimLink() {
  close();
}

bool ShimLink::open() const {
  return rep_->socket.is_open();
}

void ShimLink::start(Listener event, std::function<void()> gone) {
  event_ = std::move(event);
  gone_ = std::move(gone);
  wait();
}

void ShimLink::wait() {
  if (!rep_->socket.is_open()) return;
  rep_->socket.async_wait(asio::posix::descriptor_base::wait_read,
                          [weak = weak_from_this()](const boost::system::error_code& error) {
                            auto self = weak.lock();
                            if (self && !error) self->readable();
                          });
}

void ShimLink::readable() {
  auto self = shared_from_this();
  while (rep_->socket.is_open()) {
    wire::Message message{};
    std::vector<UniqueFd> fds;
    auto received = receiveMessage(rep_->socket.native_handle(), message, fds);
    if (!received.ok()) {
      end();
      return;
    }
    if (!*received) break;
    receive(message, std::move(fds));
  }
  wait();
}

void ShimLink::receive(const wire::Message& message, std::vector<UniqueFd> fds) {
  bool up = message.type == wire::Type::kUp;
  if (!up && message.type != wire::Type::kReply && message.type != wire::Type::kWarning) {
    if (event_) event_(message);
    return;
  }
  auto found = pending_.find(up ? kUpSequence : message.sequence);
  if (found == pending_.end()) return;
  auto pending = found->second;
  if (message.type == wire::Type::kWarning) {
    pending->warnings.push_back(message);
    return;
  }
  pending_.erase(found);
  pending->result = Reply{message, std::move(fds), std::move(pending->warnings)};
  pending->done.notify();
}

void ShimLink::close() {
  boost::system::error_code ignored;
  rep_->socket.close(ignored);
  auto pending = std::exchange(pending_, {});
  for (auto& [sequence, each] : pending) {
    each->result = Error(Code::kUnavailable, "the shim is gone");
    each->done.notify();
  }
}

void ShimLink::end() {
  close();
  if (auto gone = std::exchange(gone_, nullptr)) gone();
}

Task<Result<ShimLink::Reply>> ShimLink::call(wire::Message request, std::vector<UniqueFd> fds) {
  if (!rep_->socket.is_open()) co_return Error(Code::kUnavailable, "the shim is gone");
  auto self = shared_from_this();
  request.sequence = ++sequence_;
  auto pending = std::make_shared<Pending>(loop_);
  pending_[request.sequence] = pending;
  auto sent = sendMessage(rep_->socket.native_handle(), request, fds);
  fds.clear();
  if (!sent.ok()) {
    pending_.erase(request.sequence);
    co_return std::move(sent).error();
  }
  while (!pending->result) co_await pending->done.wait();
  co_return std::move(*pending->result);
}

Task<Result<wire::Message>> ShimLink::up() {
  auto self = shared_from_this();
  auto found = pending_.find(kUpSequence);
  if (found == pending_.end()) co_return Error(Code::kUnavailable, "the shim is gone");
  auto pending = found->second;
  while (!pending->result) co_await pending->done.wait();
  if (!pending->result->ok()) co_return pending->result->error();
  co_return pending->result->value().message;
}

struct ProcessWatch::Rep {
  Rep(Loop& loop, std::function<void()> run) : descriptor(loop.executor()), done(std::move(run)) {}
  asio::posix::stream_descriptor descriptor;
  std::function<void()> done;
};

// The wait owns the descriptor, so that a child is reaped even when nobody asks any more.
ProcessWatch::ProcessWatch(Loop& loop, UniqueFd pidfd, std::function<void()> done)
    : rep_(std::make_shared<Rep>(loop, std::move(done))) {
  boost::system::error_code error;
  rep_->descriptor.assign(pidfd.get(), error);
  if (error) return;
  pidfd.release();
  rep_->descriptor.async_wait(
      asio::posix::descriptor_base::wait_read, [rep = rep_](const boost::system::error_code& failed) {
        if (failed) return;
        siginfo_t info{};
        (void)::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(rep->descriptor.native_handle()), &info,
                       WEXITED | WNOHANG);
        if (auto run = std::exchange(rep->done, nullptr)) run();
      });
}

ProcessWatch::~ProcessWatch() {
  rep_->done = nullptr;
}

void ProcessWatch::cancel() {
  boost::system::error_code ignored;
  rep_->done = nullptr;
  rep_->descriptor.close(ignored);
}

void ProcessWatch::kill() const {
  if (rep_->descriptor.is_open())
    (void)::syscall(SYS_pidfd_send_signal, rep_->descriptor.native_handle(), SIGKILL, nullptr, 0);
}

struct OomWatch::Rep {
  Rep(Loop& loop, std::function<void()> run) : descriptor(loop.executor()), happened(std::move(run)) {}
  static void wait(std::shared_ptr<Rep> rep) {
    rep->descriptor.async_wait(asio::posix::descriptor_base::wait_read, [rep](const boost::system::error_code& failed) {
      if (failed || !rep->happened) return;
      Cgroups::drainOom(rep->descriptor.native_handle());
      auto run = rep->happened;
      run();
      if (rep->happened) wait(rep);
    });
  }
  asio::posix::stream_descriptor descriptor;
  std::function<void()> happened;
};

OomWatch::OomWatch(Loop& loop, UniqueFd fd, std::function<void()> happened)
    : rep_(std::make_shared<Rep>(loop, std::move(happened))) {
  boost::system::error_code error;
  rep_->descriptor.assign(fd.get(), error);
  if (error) return;
  fd.release();
  Rep::wait(rep_);
}

OomWatch::~OomWatch() {
  boost::system::error_code ignored;
  rep_->happened = nullptr;
  rep_->descriptor.close(ignored);
}

}  // namespace dhow::runtime
