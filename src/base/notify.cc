#include "base/notify.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <boost/asio/local/datagram_protocol.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cstdlib>
#include <cstring>

namespace dhow {

namespace asio = boost::asio;

namespace {
bool fillAddress(const std::string& path, sockaddr_un& address) {
  address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  return true;
}
}  // namespace

void notifyReady() {
  const char* path = ::getenv("NOTIFY_SOCKET");
  sockaddr_un address;
  if (!path || !fillAddress(path, address)) return;
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  constexpr std::string_view kReady = "READY=1";
  ::sendto(fd.get(), kReady.data(), kReady.size(), MSG_NOSIGNAL, reinterpret_cast<sockaddr*>(&address),
           static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path)));
}

Result<ReadySocket> ReadySocket::create(const std::string& path) {
  sockaddr_un address;
  if (!fillAddress(path, address)) return Error(Code::kBadRequest, "socket path is too long: " + path);
  ::unlink(path.c_str());
  ReadySocket socket;
  socket.fd_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.fd_ || ::bind(socket.fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return Error::fromErrno("bind " + path);
  socket.path_ = path;
  return socket;
}

ReadySocket::~ReadySocket() {
  if (fd_ && !path_.empty()) ::unlink(path_.c_str());
}

Task<Result<>> ReadySocket::wait(Loop& loop, Duration limit) {
  asio::local::datagram_protocol::socket socket(loop.executor());
  socket.assign(asio::local::datagram_protocol(), ::dup(fd_.get()));
  auto timer = loop.after(limit, [&socket] {
    boost::system::error_code ignored;
    socket.cancel(ignored);
  });
  while (true) {
    char buffer[1024];
    boost::system::error_code error;
    size_t n = co_await socket.async_receive(asio::buffer(buffer), asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return Error(Code::kDeadlineExceeded, "the process did not report that it is ready");
    if (std::string_view(buffer, n).find("READY=1") != std::string_view::npos) co_return Result<>();
  }
}

}  // namespace dhow
