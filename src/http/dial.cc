#include <sys/socket.h>
#include <sys/un.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cctype>

#include "body.h"
#include "fd_stream.h"
#include "http/stream.h"

namespace dhow::http {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

struct Dial {
  explicit Dial(Loop& loop) : resolver(loop.executor()), socket(loop.executor()) {}
  tcp::resolver resolver;
  tcp::socket socket;
  bool late = false, aborted = false;
  void end() {
    boost::system::error_code ignored;
    resolver.cancel();
    socket.close(ignored);
  }
};

// In the words of Go's programs, which people who run containers know.
Error dialError(const boost::system::error_code& error, const Dial& dial, const std::string& what) {
  if (dial.aborted) return internal::cancelled();
  if (dial.late) return Error(Code::kDeadlineExceeded, fmt::format("dial tcp {}: i/o timeout", what));
  if (error.category() != boost::system::system_category())
    return Error(Code::kUnavailable, fmt::format("dial tcp {}: {}", what, error.message()));
  std::string reason = error.message();
  if (!reason.empty()) reason[0] = static_cast<char>(std::tolower(reason[0]));
  return Error(Code::kUnavailable, fmt::format("dial tcp {}: connect: {}", what, reason), error.value());
}

Error lookupError(const boost::system::error_code& error, const Dial& dial, const std::string& host) {
  if (dial.aborted) return internal::cancelled();
  if (dial.late) return Error(Code::kDeadlineExceeded, fmt::format("dial tcp: lookup {}: i/o timeout", host));
  const char* reason =
      error == asio::error::host_not_found_try_again ? "temporary failure in name resolution" : "no such host";
  return Error(Code::kUnavailable, fmt::format("dial tcp: lookup {}: {}", host, reason));
}

std::string shown(const tcp::endpoint& endpoint) {
  auto address = endpoint.address().to_string();
  return endpoint.address().is_v6() ? fmt::format("[{}]:{}", address, endpoint.port())
                                    : fmt::format("{}:{}", address, endpoint.port());
}

}  // namespace

Task<Result<std::unique_ptr<Stream>>> connectTcp(Loop& loop, std::string host, uint16_t port, Duration timeout,
                                                 std::function<void()>* abort) {
  auto dial = std::make_shared<Dial>(loop);
  auto ended = [weak = std::weak_ptr(dial)](bool Dial::* why) {
    auto dial = weak.lock();
    if (!dial) return;
    (*dial).*why = true;
    dial->end();
  };
  Timer timer = loop.after(timeout, [ended] { ended(&Dial::late); });
  if (abort) *abort = [ended] { ended(&Dial::aborted); };

  std::vector<tcp::endpoint> endpoints;
  boost::system::error_code failed;
  auto address = asio::ip::make_address(host, failed);
  if (!failed) {
    endpoints.emplace_back(address, port);
  } else {
    auto [error, found] = co_await dial->resolver.async_resolve(
        host, std::to_string(port), tcp::resolver::numeric_service, asio::as_tuple(asio::use_awaitable));
    if (error) co_return lookupError(error, *dial, host);
    for (const auto& entry : found) endpoints.push_back(entry.endpoint());
  }

  if (endpoints.empty()) co_return lookupError(asio::error::host_not_found, *dial, host);
  // Of several failures the first is told: that of the address which the system prefers.
  std::optional<Error> problem;
  for (const auto& endpoint : endpoints) {
    boost::system::error_code ignored;
    dial->socket.close(ignored);
    auto [error] = co_await dial->socket.async_connect(endpoint, asio::as_tuple(asio::use_awaitable));
    failed = error;
    const bool given = dial->late || dial->aborted;
    if (!error && !given) break;
    if (!problem || given) problem = dialError(error, *dial, shown(endpoint));
    if (given) co_return std::move(*problem);
  }
  if (failed) co_return std::move(*problem);
  timer.cancel();
  UniqueFd fd(dial->socket.release(failed));
  if (failed) co_return dialError(failed, *dial, shown(endpoints.front()));
  internal::tuneTcp(fd.get());
  co_return adoptFd(loop, fd.release());
}

Task<Result<std::unique_ptr<Stream>>> connectUnix(Loop& loop, std::string path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    co_return Error(Code::kBadRequest, fmt::format("socket path {} is too long", path));
  }
  path.copy(address.sun_path, path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) co_return Error::fromErrno("socket");
  for (int attempt = 0; ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0; ++attempt) {
    int number = errno;
    // The listener's queue is full. The kernel has no event for its end, so this tries again for a second.
    if (number == EAGAIN && attempt < 100) {
      co_await loop.sleep(std::chrono::milliseconds(10));
      continue;
    }
    Error failed = Error::fromErrno(number, fmt::format("connect to {}", path));
    co_return Error(Code::kUnavailable, failed.message(), number);
  }
  co_return adoptFd(loop, fd.release());
}

}  // namespace dhow::http
