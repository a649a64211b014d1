#include "http/server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/log.h"
#include "body.h"
#include "fd_stream.h"
#include "server_core.h"

namespace dhow::http {

using internal::AsyncFd;
using internal::Input;
using internal::ServerCore;

namespace {

constexpr std::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr Duration kHandshakeLimit = std::chrono::seconds(15);

std::string addressText(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
    return fmt::format("{}:{}", text, ntohs(in.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(address);
    if (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr)) {
      ::inet_ntop(AF_INET, &in.sin6_addr.s6_addr[12], text, sizeof text);
      return fmt::format("{}:{}", text, ntohs(in.sin6_port));
    }
    ::inet_ntop(AF_INET6, &in.sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(in.sin6_port));
  }
  return "";
}

Peer peerOf(int fd, const sockaddr_storage& address) {
  Peer peer;
  peer.address = addressText(address);
  if (address.ss_family == AF_UNIX) {
    ucred credentials{};
    socklen_t size = sizeof credentials;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) == 0) {
      peer.unixCredentials.emplace(credentials.uid, credentials.gid);
    }
  }
  return peer;
}

// A connection before its protocol is known, so that stop() can end it.
class Beginning final : public internal::Live {
 public:
  Beginning(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input)
      : input_(std::move(input)), listed_(std::move(core), this) {}
  void end() override { input_->close(); }

 private:
  std::shared_ptr<Input> input_;
  internal::Listed listed_;
};

// Whether the peer's first bytes are HTTP/2's. The bytes stay in the input.
Task<bool> beginsHttp2(std::shared_ptr<ServerCore> core, std::shared_ptr<Input> input, bool idleLimit) {
  Beginning beginning(core, input);
  Timer limit;
  if (idleLimit) limit = core->loop.after(internal::kIdleLimit, [input] { input->close(); });
  while (true) {
    std::string_view data = input->data();
    size_t n = std::min(data.size(), kHttp2Preface.size());
    if (data.substr(0, n) != kHttp2Preface.substr(0, n)) co_return false;
    if (n == kHttp2Preface.size()) co_return true;
    auto more = co_await input->fill();
    if (!more.ok() || !*more) co_return false;
  }
}

Task<> serveStream(std::shared_ptr<ServerCore> core, std::unique_ptr<Stream> stream, Peer peer, bool idleLimit) {
  auto input = std::make_shared<Input>(core->loop, std::move(stream));
  bool http2 = co_await beginsHttp2(core, input, idleLimit);
  if (http2) {
    co_await internal::serveHttp2(core, input, std::move(peer), idleLimit, nullptr);
  } else {
    co_await internal::serveHttp1(core, input, std::move(peer), idleLimit);
  }
}

struct Done {
  explicit Done(Loop& loop) : changed(loop) {}
  bool done = false;
  Signal changed;
};

Task<> serveAndTell(std::shared_ptr<ServerCore> core, std::unique_ptr<Stream> stream, Peer peer,
                    std::shared_ptr<Done> done) {
  co_await serveStream(std::move(core), std::move(stream), std::move(peer), false);
  done->done = true;
  done->changed.notify();
}

Task<> serveAccepted(std::shared_ptr<ServerCore> core, int raw, sockaddr_storage address) {
  Peer peer = peerOf(raw, address);
  if (address.ss_family != AF_UNIX) internal::tuneTcp(raw);
  std::unique_ptr<Stream> stream = adoptFd(core->loop, raw);
  if (core->options.tls && address.ss_family != AF_UNIX) {
    auto accepted = co_await acceptTls(core->loop, core->options.tls, std::move(stream), kHandshakeLimit);
    if (accepted.ok()) {
      peer.tls = true;
      peer.certificateCommonName = std::move(accepted->certificateCommonName);
      peer.certificateOrganizations = std::move(accepted->certificateOrganizations);
      stream = std::move(accepted->stream);
    } else {
      log::debug("http", "{}: handshake with {}: {}", core->options.name, peer.address, accepted.error().message());
      stream.reset();
    }
  }
  if (stream && !core->stopping) co_await serveStream(core, std::move(stream), std::move(peer), true);
  --core->connections;
  core->slotFree.notify();
}

Task<> acceptLoop(std::shared_ptr<ServerCore> core, std::shared_ptr<AsyncFd> listener) {
  while (!core->stopping) {
    if (core->connections >= core->options.maxConnections) {
      co_await core->slotFree.wait();
      continue;
    }
    sockaddr_storage address{};
    socklen_t size = sizeof address;
    int fd = ::accept4(listener->fd(), reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      ++core->connections;
      core->gate.spawn(serveAccepted(core, fd, address));
      continue;
    }
    int number = errno;
    if (number == EAGAIN || number == EWOULDBLOCK) {
      co_await listener->readable();
    } else if (number == EMFILE || number == ENFILE || number == ENOBUFS || number == ENOMEM) {
      log::warn("http", "{}: accept: {}", core->options.name, Error::fromErrno(number, "no room").message());
      // Until a connection of ours ends, or whoever else holds the descriptors lets go of some.
      co_await core->slotFree.waitFor(std::chrono::milliseconds(200));
    } else if (number == EBADF || number == EINVAL) {
      break;
    }
  }
}

}  // namespace

struct Server::Rep {
  Rep(Loop& loop, Options options, Handler handler)
      : core(std::make_shared<ServerCore>(loop, std::move(options), std::move(handler))) {}
  std::shared_ptr<ServerCore> core;
  std::vector<std::shared_ptr<AsyncFd>> listeners;
  std::vector<std::string> paths;  // socket files to remove

  Result<> listen(UniqueFd fd, const sockaddr* address, socklen_t size, const std::string& what);
};

Server::Server(Loop& loop, Options options, Handler handler)
    : rep_(std::make_shared<Rep>(loop, std::move(options), std::move(handler))) {}
Server::~Server() = default;

Result<> Server::Rep::listen(UniqueFd fd, const sockaddr* address, socklen_t size, const std::string& what) {
  if (!fd) return Error::fromErrno("socket");
  if (::bind(fd.get(), address, size) != 0) return Error::fromErrno(fmt::format("listen on {}", what));
  if (::listen(fd.get(), 1024) != 0) return Error::fromErrno(fmt::format("listen on {}", what));
  auto listener = AsyncFd::open(core->loop, std::move(fd));
  listeners.push_back(listener);
  core->gate.spawn(acceptLoop(core, listener));
  return {};
}

Result<uint16_t> Server::listenTcp(const std::string& address, uint16_t port) {
  sockaddr_storage storage{};
  auto& in = reinterpret_cast<sockaddr_in&>(storage);
  auto& in6 = reinterpret_cast<sockaddr_in6&>(storage);
  socklen_t size = 0;
  if (::inet_pton(AF_INET, address.empty() ? "0.0.0.0" : address.c_str(), &in.sin_addr) == 1) {
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    size = sizeof in;
  } else if (::inet_pton(AF_INET6, address.c_str(), &in6.sin6_addr) == 1) {
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    size = sizeof in6;
  } else {
    return Error(Code::kBadRequest, fmt::format("{} is not an address", address));
  }
  UniqueFd fd(::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  int raw = fd.get();
  RETURN_IF_ERROR(
      rep_->listen(std::move(fd), reinterpret_cast<sockaddr*>(&storage), size, fmt::format("{}:{}", address, port)));
  size = sizeof storage;
  if (::getsockname(raw, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return Error::fromErrno("getsockname");
  return ntohs(storage.ss_family == AF_INET ? in.sin_port : in6.sin6_port);
}

Result<> Server::listenUnix(const std::string& path, int mode) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error(Code::kBadRequest, fmt::format("socket path {} is empty or too long", path));
  }
  path.copy(address.sun_path, path.size());
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0) {
    if (!S_ISSOCK(status.st_mode)) return Error(Code::kAlreadyExists, fmt::format("{} is not a socket", path));
    // A file that nobody listens on is left from an earlier run.
    UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (::connect(probe.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN) {
      return Error(Code::kAlreadyExists, fmt::format("{}: another process listens there", path), EADDRINUSE);
    }
    ::unlink(path.c_str());
  }
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // The file is made with the mode of the socket, without a moment in which others could connect.
  if (fd) ::fchmod(fd.get(), static_cast<mode_t>(mode));
  RETURN_IF_ERROR(rep_->listen(std::move(fd), reinterpret_cast<sockaddr*>(&address), sizeof address, path));
  rep_->paths.push_back(path);
  if (::chmod(path.c_str(), static_cast<mode_t>(mode)) != 0) return Error::fromErrno(fmt::format("chmod {}", path));
  return {};
}

Task<> Server::serve(std::unique_ptr<Stream> connection, Peer peer) {
  auto core = rep_->core;
  if (core->gate.closed() || core->stopping) co_return;
  auto done = std::make_shared<Done>(core->loop);
  core->gate.spawn(serveAndTell(core, std::move(connection), std::move(peer), done));
  while (!done->done) co_await done->changed.wait();
}

Task<> Server::stop() {
  auto rep = rep_;
  auto core = rep->core;
  core->stopping = true;
  for (const auto& listener : rep->listeners) listener->close();
  for (const auto& path : std::exchange(rep->paths, {})) ::unlink(path.c_str());
  core->slotFree.notify();
  // Ending one connection may end others of the list with it.
  std::vector<internal::Live*> all(core->live.begin(), core->live.end());
  for (auto* live : all) {
    if (core->live.contains(live)) live->end();
  }
  co_await core->gate.close();
}

}  // namespace dhow::http
