#include "platform/api_address.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <set>

#include "base/gate.h"
#include "base/log.h"
#include "http/stream.h"

namespace dhow::platform {

namespace asio = boost::asio;
using asio::ip::tcp;
using http::Stream;

namespace {

constexpr size_t kMaxConnections = 4096;
constexpr size_t kBuffer = 16 << 10;
constexpr Duration kConnectLimit = std::chrono::seconds(1);

struct Connection {
  std::shared_ptr<Stream> client, master;
  std::string name;
  void close() {
    if (client) client->close();
    if (master) master->close();
  }
};

Task<> copyOneWay(std::shared_ptr<Stream> from, std::shared_ptr<Stream> to) {
  std::vector<char> buffer(kBuffer);
  while (true) {
    auto count = co_await from->read(buffer);
    if (!count.ok()) break;
    if (*count == 0) {
      // Half closed: the other direction goes on.
      co_await to->shutdownWrite();
      co_return;
    }
    auto written = co_await to->write({buffer.data(), *count});
    if (!written.ok()) break;
  }
  from->close();
  to->close();
}

void tune(int fd) {
  auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
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
  bool stopping = false;
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
};

Task<> ApiAddress::Rep::accept(Rep* self, std::shared_ptr<tcp::acceptor> acceptor) {
  while (!self->stopping) {
    auto [error, socket] = co_await acceptor->async_accept(asio::as_tuple(asio::use_awaitable));
    if (self->stopping) break;
    if (error) {
      // Out of descriptors, or the peer has gone meanwhile.
      log::warn("region", "accept: {}", error.message());
      co_await self->loop.sleep(std::chrono::milliseconds(50));
      continue;
    }
    if (self->connections.size() >= kMaxConnections) continue;
    tune(socket.native_handle());
    boost::system::error_code ignored;
    auto connection = std::make_shared<Connection>();
    connection->client = http::adoptFd(self->loop, socket.release(ignored));
    self->connections.insert(connection);
    self->gate.spawn(serve(self, connection));
  }
}

Task<> ApiAddress::Rep::serve(Rep* self, std::shared_ptr<Connection> connection) {
  for (const Master& master : self->order()) {
    auto made = co_await http::connectTcp(self->loop, master.address, master.port, kConnectLimit);
    if (self->stopping) break;
    if (!made.ok()) {
      log::debug("region", "{}: {}", master.name, made.error().message());
      continue;
    }
    connection->master = std::move(*made);
    connection->name = master.name;
    break;
  }
  if (connection->master) {
    Gate both(self->loop);
    both.spawn(copyOneWay(connection->client, connection->master));
    co_await copyOneWay(connection->master, connection->client);
    co_await both.close();
  }
  connection->close();
  self->connections.erase(connection);
}

ApiAddress::ApiAddress(Loop& loop, std::vector<Master> masters)
    : rep_(std::make_unique<Rep>(loop, std::move(masters))) {}
ApiAddress::~ApiAddress() = default;

Result<uint16_t> ApiAddress::listen(const std::string& address, uint16_t port) {
  boost::system::error_code error;
  auto acceptor = std::make_shared<tcp::acceptor>(rep_->loop.executor());
  auto failed = [&] {
    return Error(Code::kUnavailable, fmt::format("listen on {}:{}: {}", address, port, error.message()), error.value());
  };
  tcp::endpoint endpoint(asio::ip::make_address(address, error), port);
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
  boost::system::error_code ignored;
  for (const auto& acceptor : rep_->acceptors) acceptor->close(ignored);
  auto open = rep_->connections;
  for (const auto& connection : open) connection->close();
  co_await rep_->gate.close();
}

}  // namespace dhow::platform
