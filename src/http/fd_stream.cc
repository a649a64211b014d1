#include "fd_stream.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "base/gate.h"
#include "body.h"

namespace dhow::http {

namespace asio = boost::asio;

namespace internal {
namespace {

class AsyncFdImpl final : public AsyncFd {
 public:
  AsyncFdImpl(Loop& loop, UniqueFd fd) : descriptor_(loop.executor(), fd.release()) {}
  int fd() const override { return const_cast<asio::posix::stream_descriptor&>(descriptor_).native_handle(); }
  bool closed() const override { return !descriptor_.is_open(); }
  Task<> readable() override { return wait(asio::posix::descriptor_base::wait_read); }
  Task<> writable() override { return wait(asio::posix::descriptor_base::wait_write); }
  void close() override {
    boost::system::error_code ignored;
    descriptor_.close(ignored);
  }

 private:
  Task<> wait(asio::posix::descriptor_base::wait_type what) {
    co_await descriptor_.async_wait(what, asio::as_tuple(asio::use_awaitable));
  }
  asio::posix::stream_descriptor descriptor_;
};

// How many operations in a row may succeed at once before others on the loop get their turn.
constexpr int kBurst = 32;

struct FdState {
  std::shared_ptr<AsyncFd> fd;
  asio::any_io_executor executor;
  bool socket = false;
  bool writeOnly = false;
  bool ended = false;  // closed by us
  int readBurst = 0;
  int writeBurst = 0;
};

Task<> takeTurns(std::shared_ptr<FdState> state, int FdState::* burst) {
  (*state).*burst = 0;
  co_await asio::post(state->executor, asio::use_awaitable);
}

Task<Result<size_t>> readFd(std::shared_ptr<FdState> state, std::span<char> into) {
  while (true) {
    if (state->ended || state->fd->closed()) co_return cancelled();
    ssize_t n = state->socket ? ::recv(state->fd->fd(), into.data(), into.size(), 0)
                              : ::read(state->fd->fd(), into.data(), into.size());
    if (n >= 0) {
      if (++state->readBurst >= kBurst) co_await takeTurns(state, &FdState::readBurst);
      co_return static_cast<size_t>(n);
    }
    if (errno == EINTR) continue;
    // A terminal whose other side has closed.
    if (errno == EIO && !state->socket) co_return size_t{0};
    if (errno != EAGAIN && errno != EWOULDBLOCK) co_return Error::fromErrno("read");
    state->readBurst = 0;
    co_await state->fd->readable();
  }
}

Task<Result<>> writeFd(std::shared_ptr<FdState> state, std::string_view bytes) {
  while (!bytes.empty()) {
    if (state->ended || state->fd->closed()) co_return cancelled();
    ssize_t n = state->socket ? ::send(state->fd->fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL)
                              : ::write(state->fd->fd(), bytes.data(), bytes.size());
    if (n >= 0) {
      bytes.remove_prefix(static_cast<size_t>(n));
      if (++state->writeBurst >= kBurst) co_await takeTurns(state, &FdState::writeBurst);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN && errno != EWOULDBLOCK) co_return Error::fromErrno("write");
    state->writeBurst = 0;
    co_await state->fd->writable();
  }
  co_return Result<>();
}

Task<> shutdownFd(std::shared_ptr<FdState> state) {
  if (state->ended || state->fd->closed()) co_return;
  if (state->socket) {
    ::shutdown(state->fd->fd(), SHUT_WR);
  } else if (state->writeOnly) {
    state->fd->close();
  }
}

class FdStream final : public Stream {
 public:
  explicit FdStream(std::shared_ptr<FdState> state) : state_(std::move(state)) {}
  ~FdStream() override { close(); }
  Task<Result<size_t>> read(std::span<char> into) override { return readFd(state_, into); }
  Task<Result<>> write(std::string_view bytes) override { return writeFd(state_, bytes); }
  Task<> shutdownWrite() override { return shutdownFd(state_); }
  void close() override {
    state_->ended = true;
    state_->fd->close();
  }

 private:
  std::shared_ptr<FdState> state_;
};

Task<> pipeOneWay(std::shared_ptr<Stream> from, std::shared_ptr<Stream> to) {
  std::vector<char> buffer(16 << 10);
  while (true) {
    auto n = co_await from->read(buffer);
    if (!n.ok() || *n == 0) {
      if (n.ok()) {
        co_await to->shutdownWrite();
      } else {
        to->close();
      }
      co_return;
    }
    auto written = co_await to->write({buffer.data(), *n});
    if (!written.ok()) {
      from->close();
      co_return;
    }
  }
}

}  // namespace

std::shared_ptr<AsyncFd> AsyncFd::open(Loop& loop, UniqueFd fd) {
  int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags >= 0 && !(flags & O_NONBLOCK)) ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK);
  return std::make_shared<AsyncFdImpl>(loop, std::move(fd));
}

void tuneTcp(int fd) {
  // No TCP_USER_TIMEOUT: it would also end connections whose peer lives but does not read for a while.
  auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

}  // namespace internal

std::unique_ptr<Stream> adoptFd(Loop& loop, int fd) {
  auto state = std::make_shared<internal::FdState>();
  struct stat status{};
  state->socket = ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
  state->writeOnly = (::fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY;
  state->executor = loop.executor();
  state->fd = internal::AsyncFd::open(loop, UniqueFd(fd));
  return std::make_unique<internal::FdStream>(std::move(state));
}

Task<> pipeBoth(Loop& loop, std::unique_ptr<Stream> a, std::unique_ptr<Stream> b) {
  std::shared_ptr<Stream> left(std::move(a)), right(std::move(b));
  auto gate = std::make_shared<Gate>(loop);
  gate->spawn(internal::pipeOneWay(left, right));
  co_await internal::pipeOneWay(right, left);
  co_await gate->close();
  left->close();
  right->close();
}

}  // namespace dhow::http
