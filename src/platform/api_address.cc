#include "platform/api_address.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <set>

#include "base/gate.h"
#include "base/log.h"
#include "base/strings.h"
#include "client/fields.h"

namespace dhow::platform {

namespace asio = boost::asio;
namespace json = boost::json;
using asio::ip::tcp;

namespace {

constexpr size_t kMaxConnections = 4096;
constexpr size_t kBuffer = 16 << 10;
constexpr Duration kConnectLimit = std::chrono::seconds(1);
// A master that confirms nothing for so long is cut off: who waits for it comes again, and reaches another.
constexpr unsigned kUnconfirmedMillis = 2000;
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

// One side of a connection.
struct End {
  explicit End(Loop& loop) : socket(loop.executor()) {}
  tcp::socket socket;
  bool ended = false;   // it sends no more
  std::string pending;  // what it is still to be sent
};

struct Connection {
  explicit Connection(Loop& loop) : client(loop), master(loop) {}
  End client, master;
  std::string name;  // of the master; empty: none yet
  void close() {
    boost::system::error_code ignored;
    client.socket.close(ignored);
    master.socket.close(ignored);
  }
  void cancel() {
    boost::system::error_code ignored;
    client.socket.cancel(ignored);
    master.socket.cancel(ignored);
  }
};

void tune(int fd) {
  auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
}

Result<> inherit(int fd) {
  if (::fcntl(fd, F_SETFD, 0) != 0) return Error::fromErrno("hand a socket over");
  return {};
}

// Gives the socket away.
Result<> tell(json::object& out, const std::string& side, End& end) {
  boost::system::error_code error;
  const int fd = end.socket.release(error);
  out[side] = json::object{{"socket", fd}, {"ended", end.ended}, {"pending", toBase64(end.pending)}};
  return inherit(fd);
}

// A TCP socket of ours, by its number.
template <class Socket>
Result<> adopt(Socket& socket, int64_t number) {
  const int fd = static_cast<int>(number);
  int type = 0;
  socklen_t size = sizeof type;
  if (number < 3 || ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM)
    return Error(Code::kInvalid, fmt::format("take over socket {}: it is none", number));
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  boost::system::error_code error;
  int family = AF_INET;
  size = sizeof family;
  ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &size);
  socket.assign(family == AF_INET6 ? tcp::v6() : tcp::v4(), fd, error);
  if (error) return Error(Code::kInvalid, fmt::format("take over socket {}: {}", number, error.message()));
  return {};
}

Result<> read(const json::object& told, std::string_view side, End& end) {
  RETURN_IF_ERROR(adopt(end.socket, client::number(told, {side, "socket"}, -1)));
  end.ended = client::flag(told, {side, "ended"});
  end.pending = fromBase64(client::text(told, {side, "pending"})).value_or("");
  return {};
}

}  // namespace

struct ApiAddress::Rep {
  Rep(Loop& l, std::vector<Master> m) : loop(l), masters(std::move(m)), gate(l) {}

  Loop& loop;
  const std::vector<Master> masters;
  std::vector<std::shared_ptr<tcp::acceptor>> acceptors;
  std::set<std::shared_ptr<Connection>> connections;
  std::set<std::string> dead;
  size_t next = 0;
  bool stopping = false, handingOver = false;
  Gate gate;

  // Living ones in turn, then the others.
  std::vector<Master> order() {
    std::vector<Master> living, rest;
    for (size_t i = 0; i < masters.size(); ++i) {
      const Master& master = masters[(next + i) % masters.size()];
      (dead.contains(master.name) ? rest : living).push_back(master);
    }
    ++next;
    living.insert(living.end(), rest.begin(), rest.end());
    return living;
  }

  static Task<> accept(Rep* self, std::shared_ptr<tcp::acceptor> acceptor);
  static Task<> serve(Rep* self, std::shared_ptr<Connection> connection);
  static Task<> copyOneWay(Rep* self, std::shared_ptr<Connection> connection, End* from, End* to);
  Task<> dial(std::shared_ptr<Connection> connection);
};

Task<> ApiAddress::Rep::accept(Rep* self, std::shared_ptr<tcp::acceptor> acceptor) {
  while (!self->stopping) {
    auto [error, socket] = co_await acceptor->async_accept(kAwait);
    if (self->stopping && (error || !self->handingOver)) break;
    if (error) {
      // Out of descriptors, or the peer has gone meanwhile.
      log::warn("region", "accept: {}", error.message());
      co_await self->loop.sleep(std::chrono::milliseconds(50));
      continue;
    }
    if (self->connections.size() >= kMaxConnections) continue;
    tune(socket.native_handle());
    auto connection = std::make_shared<Connection>(self->loop);
    connection->client.socket = std::move(socket);
    self->connections.insert(connection);
    if (!self->stopping) self->gate.spawn(serve(self, connection));
  }
}

// What is read is written before anything else is read; what cannot be written before a handover is pending.
Task<> ApiAddress::Rep::copyOneWay(Rep* self, std::shared_ptr<Connection> connection, End* from, End* to) {
  std::vector<char> buffer(kBuffer);
  while (true) {
    // Looked at before each wait: what begins after the handover's cancel() would not be ended by it.
    if (self->handingOver) co_return;
    if (!to->pending.empty()) {
      auto [failed, written] = co_await to->socket.async_write_some(asio::buffer(to->pending), kAwait);
      to->pending.erase(0, written);
      if (failed && self->handingOver) co_return;
      if (failed) log::debug("region", "write for {}: {}", connection->name, failed.message());
      if (failed) break;
      continue;
    }
    boost::system::error_code ignored;
    // Half closed: the other direction goes on.
    if (from->ended) {
      to->socket.shutdown(tcp::socket::shutdown_send, ignored);
      co_return;
    }
    auto [error, count] = co_await from->socket.async_read_some(asio::buffer(buffer), kAwait);
    to->pending.assign(buffer.data(), count);
    from->ended = error == asio::error::eof;
    if (error && !from->ended && self->handingOver) co_return;
    if (error && !from->ended) log::debug("region", "read for {}: {}", connection->name, error.message());
    if (error && !from->ended) break;
  }
  connection->close();
}

Task<> ApiAddress::Rep::dial(std::shared_ptr<Connection> connection) {
  for (const Master& master : order()) {
    boost::system::error_code error;
    const tcp::endpoint endpoint(asio::ip::make_address(master.address, error), master.port);
    if (error) continue;
    tcp::socket socket(loop.executor());
    Timer limit = loop.after(kConnectLimit, [&socket] {
      boost::system::error_code ignored;
      socket.close(ignored);
    });
    auto [failed] = co_await socket.async_connect(endpoint, kAwait);
    limit.cancel();
    if (stopping) co_return;
    if (failed || !socket.is_open()) {
      log::debug("region", "{}: {}", master.name, failed.message());
      continue;
    }
    tune(socket.native_handle());
    ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &kUnconfirmedMillis, sizeof kUnconfirmedMillis);
    connection->master.socket = std::move(socket);
    connection->name = master.name;
    co_return;
  }
}

Task<> ApiAddress::Rep::serve(Rep* self, std::shared_ptr<Connection> connection) {
  if (connection->name.empty()) co_await self->dial(connection);
  if (!connection->name.empty()) {
    Gate both(self->loop);
    both.spawn(copyOneWay(self, connection, &connection->client, &connection->master));
    co_await copyOneWay(self, connection, &connection->master, &connection->client);
    co_await both.close();
  }
  // What is handed over stays open and in the list.
  if (self->handingOver && connection->client.socket.is_open()) co_return;
  connection->close();
  self->connections.erase(connection);
}

ApiAddress::ApiAddress(Loop& loop, std::vector<Master> masters)
    : rep_(std::make_unique<Rep>(loop, std::move(masters))) {}
ApiAddress::~ApiAddress() = default;

Result<uint16_t> ApiAddress::listen(const std::string& address, uint16_t port) {
  boost::system::error_code error;
  auto failed = [&] {
    return Error(Code::kUnavailable, fmt::format("listen on {}:{}: {}", address, port, error.message()), error.value());
  };
  tcp::endpoint endpoint(asio::ip::make_address(address, error), port);
  for (const auto& acceptor : rep_->acceptors) {
    if (!error && port != 0 && acceptor->local_endpoint(error) == endpoint) return port;
  }
  auto acceptor = std::make_shared<tcp::acceptor>(rep_->loop.executor());
  if (!error) acceptor->open(endpoint.protocol(), error);
  if (!error) acceptor->set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor->bind(endpoint, error);
  if (!error) acceptor->listen(1024, error);
  if (error) return failed();
  const uint16_t chosen = acceptor->local_endpoint(error).port();
  rep_->acceptors.push_back(acceptor);
  rep_->gate.spawn(Rep::accept(rep_.get(), acceptor));
  return chosen;
}

void ApiAddress::setAlive(const std::string& master, bool alive) {
  if (alive) {
    rep_->dead.erase(master);
    return;
  }
  rep_->dead.insert(master);
  auto open = rep_->connections;
  for (const auto& connection : open) {
    if (connection->name == master) connection->close();
  }
}

bool ApiAddress::alive(const std::string& master) const {
  return !rep_->dead.contains(master);
}

size_t ApiAddress::connections() const {
  return rep_->connections.size();
}

Task<> ApiAddress::stop() {
  rep_->stopping = true;
  rep_->handingOver = false;
  boost::system::error_code ignored;
  for (const auto& acceptor : rep_->acceptors) acceptor->close(ignored);
  auto open = rep_->connections;
  for (const auto& connection : open) connection->close();
  co_await rep_->gate.close();
}

Task<Result<UniqueFd>> ApiAddress::handOver() {
  rep_->stopping = rep_->handingOver = true;
  boost::system::error_code ignored;
  for (const auto& acceptor : rep_->acceptors) acceptor->cancel(ignored);
  auto open = rep_->connections;
  for (const auto& connection : open) connection->cancel();
  co_await rep_->gate.close();
  json::array listeners, connections;
  for (const auto& acceptor : std::exchange(rep_->acceptors, {})) {
    const int fd = acceptor->release(ignored);
    CO_RETURN_IF_ERROR(inherit(fd));
    listeners.push_back(fd);
  }
  for (const auto& connection : std::exchange(rep_->connections, {})) {
    json::object told{{"to", connection->name}};
    CO_RETURN_IF_ERROR(tell(told, "client", connection->client));
    if (!connection->name.empty()) CO_RETURN_IF_ERROR(tell(told, "master", connection->master));
    connections.push_back(std::move(told));
  }
  const std::string text =
      json::serialize(json::object{{"listeners", std::move(listeners)}, {"connections", std::move(connections)}});
  UniqueFd file(::memfd_create("dhow-sockets", 0));
  if (!file) co_return Error::fromErrno("make a memory file");
  for (size_t at = 0; at < text.size();) {
    ssize_t n = ::pwrite(file.get(), text.data() + at, text.size() - at, static_cast<off_t>(at));
    if (n <= 0) co_return Error::fromErrno("write the memory file");
    at += static_cast<size_t>(n);
  }
  co_return file;
}

Result<> ApiAddress::takeOver(UniqueFd file) {
  constexpr size_t kMost = 1 << 30;
  const off_t size = ::lseek(file.get(), 0, SEEK_END);
  if (size < 0 || static_cast<size_t>(size) > kMost)
    return Error(Code::kInvalid, "take over sockets: no file tells them");
  std::string text(static_cast<size_t>(size), '\0');
  if (::pread(file.get(), text.data(), text.size(), 0) != size) return Error::fromErrno("read which sockets there are");
  boost::system::error_code failed;
  auto value = json::parse(text, failed);
  if (failed || !value.is_object()) return Error(Code::kInvalid, "take over sockets: not a JSON object");
  const auto& told = value.get_object();
  for (const auto& number : client::array(told, {"listeners"})) {
    auto acceptor = std::make_shared<tcp::acceptor>(rep_->loop.executor());
    RETURN_IF_ERROR(adopt(*acceptor, number.is_int64() ? number.get_int64() : -1));
    rep_->acceptors.push_back(acceptor);
    rep_->gate.spawn(Rep::accept(rep_.get(), acceptor));
  }
  for (const auto& item : client::array(told, {"connections"})) {
    if (!item.is_object()) continue;
    const auto& one = item.get_object();
    auto connection = std::make_shared<Connection>(rep_->loop);
    connection->name = client::text(one, "to");
    auto taken = read(one, "client", connection->client);
    if (taken.ok() && !connection->name.empty()) taken = read(one, "master", connection->master);
    if (!taken.ok()) {
      log::warn("region", "a connection was lost: {}", taken.error().message());
      continue;
    }
    rep_->connections.insert(connection);
    rep_->gate.spawn(Rep::serve(rep_.get(), connection));
  }
  return {};
}

}  // namespace dhow::platform
