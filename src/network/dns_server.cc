#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/udp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <deque>

#include "base/log.h"
#include "dns_answer.h"
#include "network/dns.h"
#include "network/links.h"

namespace dhow {

namespace asio = boost::asio;
using asio::ip::tcp;
using asio::ip::udp;
using dns::Outcome;

namespace {

constexpr int kBacklog = 64, kDatagramsPerTurn = 64;
constexpr int kQuestionBytes = 4 << 20;  // that may wait, by the kernel's count: some 5,000 questions
constexpr uint32_t kLongestTtl = 300, kStaleTtl = 30;
constexpr auto kFailureLife = std::chrono::seconds(1);  // RFC 9520
constexpr auto kTcpIdle = std::chrono::seconds(10);

auto noThrow(boost::system::error_code& ec) {
  return asio::redirect_error(asio::use_awaitable, ec);
}

asio::ip::address toAsio(const IpAddress& a) {
  boost::system::error_code ec;
  return asio::ip::make_address(a.str(), ec);
}
IpAddress fromAsio(const asio::ip::address& a) {
  if (a.is_v4()) return IpAddress::v4(a.to_v4().to_uint());
  return IpAddress::v6(a.to_v6().to_bytes());
}

struct Listener {
  DnsServer::Options::Listen where;
  udp::socket datagrams;
  tcp::acceptor acceptor;
  explicit Listener(asio::any_io_executor ex) : datagrams(ex), acceptor(ex) {}
  void close() {
    boost::system::error_code ec;
    datagrams.close(ec);
    acceptor.close(ec);
  }
};

struct Cached {
  std::string message;
  std::vector<size_t> ttlOffsets;
  TimePoint stored, expires;
};

// A question that is on its way; who asks the same waits for its answer.
struct Flight {
  explicit Flight(Loop& loop) : done(loop) {}
  Signal done;
  bool over = false;
  std::string answer;  // empty: none came
};

}  // namespace

struct DnsServer::Rep : std::enable_shared_from_this<DnsServer::Rep> {
  Rep(Loop& l, const DnsSource& s, Options o) : loop(l), source(s), options(std::move(o)), gate(l) {}

  Loop& loop;
  const DnsSource& source;
  Options options;
  Gate gate;
  Stats stats;
  bool stopping = false;
  std::vector<std::shared_ptr<Listener>> listeners;
  // Sockets of questions on their way and of TCP clients, to be closed when we stop.
  std::set<std::shared_ptr<udp::socket>> asking;
  std::set<std::shared_ptr<tcp::socket>> connections;
  size_t tcpClients = 0;
  std::unordered_map<std::string, std::shared_ptr<Flight>> flights;
  std::unordered_map<std::string, Cached> cache;
  std::deque<std::string> cacheOrder;
  std::unordered_map<std::string, TimePoint> failedUntil;  // questions that nobody answers are not asked again so soon
  uint64_t generation = 0;                                 // of `options.forwarding`

  Result<> open(const Options::Listen& where);
  Result<std::shared_ptr<Listener>> bind(const Options::Listen& where);
  Result<std::shared_ptr<Listener>> bindOnce(const Options::Listen& where);
  std::optional<std::string> cached(const std::string& key);
  // An answer that has ended but may still be given.
  std::optional<std::string> stale(const std::string& key);
  std::vector<DnsUpstream>& serversFor(std::string_view name);
  void failed(const std::string& key);
  void remember(const std::string& key, const std::string& message);
};

namespace {

std::string cacheKey(const Outcome& outcome) {
  const auto& q = outcome.query;
  return fmt::format("{} {} {}{}{}", outcome.name, q.type, q.edns, q.dnssecOk, q.checkingDisabled);
}

}  // namespace

std::optional<std::string> DnsServer::Rep::cached(const std::string& key) {
  auto it = cache.find(key);
  if (it == cache.end() || it->second.expires <= loop.now()) return std::nullopt;
  std::string aged = it->second.message;
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(loop.now() - it->second.stored).count();
  dns::age(aged, it->second.ttlOffsets, static_cast<uint32_t>(seconds));
  stats.cacheHits++;
  return aged;
}

std::optional<std::string> DnsServer::Rep::stale(const std::string& key) {
  auto it = cache.find(key);
  if (it == cache.end() || it->second.expires + options.staleFor <= loop.now()) return std::nullopt;
  std::string old = it->second.message;
  dns::age(old, it->second.ttlOffsets, kLongestTtl, kStaleTtl);
  stats.stale++;
  return old;
}

std::vector<DnsUpstream>& DnsServer::Rep::serversFor(std::string_view name) {
  auto& stubs = options.forwarding.stubDomains;
  for (std::string_view rest = name; !stubs.empty() && !rest.empty();) {
    if (auto it = stubs.find(std::string(rest)); it != stubs.end()) return it->second;
    rest.remove_prefix(std::min(rest.find('.'), rest.size() - 1) + 1);
  }
  return options.forwarding.upstreams;
}

void DnsServer::Rep::failed(const std::string& key) {
  stats.failed++;
  if (failedUntil.size() >= options.cacheEntries) failedUntil.clear();
  failedUntil[key] = loop.now() + kFailureLife;
}

void DnsServer::Rep::remember(const std::string& key, const std::string& message) {
  auto said = dns::readUpstream(message);
  if (!said || said->leastTtl == 0 || said->truncated) return;
  if (said->code != dns::kNoError && said->code != dns::kNoSuchName) return;
  auto life = std::chrono::seconds(std::min(said->leastTtl, kLongestTtl));
  Cached entry{message, std::move(said->ttlOffsets), loop.now(), loop.now() + life};
  auto [it, added] = cache.insert_or_assign(key, std::move(entry));
  if (!added) return;
  cacheOrder.push_back(key);
  while (cacheOrder.size() > options.cacheEntries) {
    cache.erase(cacheOrder.front());
    cacheOrder.pop_front();
  }
}

namespace {

// Closes a socket when the time is over, which ends what is waited for on it.
template <class Socket>
Timer deadline(Loop& loop, Duration limit, std::shared_ptr<Socket> socket) {
  return loop.after(limit, [socket] {
    boost::system::error_code ec;
    socket->close(ec);
  });
}

struct Asked {
  std::string message;
  uint16_t id = 0;
  std::string name;
  uint16_t type = 0;
};

bool answers(const Asked& asked, std::string_view message) {
  auto said = dns::readUpstream(message);
  return said && said->id == asked.id && said->name == asked.name && said->type == asked.type;
}

// Each question has a socket, and so a port, of its own; the answer is empty when none came.
Task<std::string> askUdp(std::shared_ptr<udp::socket> socket, udp::endpoint to, Asked asked) {
  boost::system::error_code ec;
  socket->open(to.protocol(), ec);
  if (!ec) socket->connect(to, ec);
  if (!ec) co_await socket->async_send(asio::buffer(asked.message), noThrow(ec));
  std::string buffer(4096, '\0');
  while (!ec) {
    size_t size = co_await socket->async_receive(asio::buffer(buffer), noThrow(ec));
    if (ec) break;
    if (answers(asked, std::string_view(buffer).substr(0, size))) {
      buffer.resize(size);
      co_return buffer;
    }
  }
  co_return std::string();
}

Task<std::string> askTcp(std::shared_ptr<tcp::socket> socket, tcp::endpoint to, Asked asked) {
  boost::system::error_code ec;
  co_await socket->async_connect(to, noThrow(ec));
  std::string framed;
  framed += static_cast<char>(asked.message.size() >> 8);
  framed += static_cast<char>(asked.message.size() & 0xff);
  framed += asked.message;
  if (!ec) co_await asio::async_write(*socket, asio::buffer(framed), noThrow(ec));
  uint8_t length[2] = {0, 0};
  if (!ec) co_await asio::async_read(*socket, asio::buffer(length), noThrow(ec));
  std::string answer(static_cast<size_t>(length[0] << 8 | length[1]), '\0');
  if (!ec) co_await asio::async_read(*socket, asio::buffer(answer), noThrow(ec));
  if (ec || !answers(asked, answer)) co_return std::string();
  co_return answer;
}

bool usable(const std::string& message) {
  auto said = dns::readUpstream(message);
  return said && said->code != dns::kServerFailure && said->code != dns::kRefused;
}

template <class Rep>
Task<std::string> askOne(std::shared_ptr<Rep> rep, DnsUpstream upstream, Asked asked) {
  auto socket = std::make_shared<udp::socket>(rep->loop.executor());
  rep->asking.insert(socket);
  auto timer = deadline(rep->loop, rep->options.upstreamTimeout, socket);
  udp::endpoint to(toAsio(upstream.address), upstream.port);
  std::string answer = co_await askUdp(socket, to, asked);
  timer.cancel();
  rep->asking.erase(socket);
  auto said = dns::readUpstream(answer);
  if (!said || !said->truncated || rep->stopping) co_return answer;
  auto connection = std::make_shared<tcp::socket>(rep->loop.executor());
  rep->connections.insert(connection);
  auto limit = deadline(rep->loop, rep->options.upstreamTimeout, connection);
  tcp::endpoint at(toAsio(upstream.address), upstream.port);
  std::string whole = co_await askTcp(connection, at, asked);
  limit.cancel();
  rep->connections.erase(connection);
  if (whole.empty()) co_return answer;
  co_return whole;
}

// What upstream resolvers say; empty: nothing that is of use.
template <class Rep>
Task<std::string> askAll(std::shared_ptr<Rep> rep, std::string name, dns::Query query) {
  const auto question = dns::makeQuestion(name, query.type);
  const uint64_t generation = rep->generation;
  const auto servers = rep->serversFor(name);
  std::string best;
  for (size_t i = 0; i < servers.size(); i++) {
    auto id = static_cast<uint16_t>(rep->loop.random());
    Asked asked{dns::writeQuery(id, question, query), id, name, query.type};
    std::string answer = co_await askOne(rep, servers[i], asked);
    if (rep->stopping) break;
    if (!answer.empty()) best = std::move(answer);
    if (!usable(best)) continue;
    // Those that do not answer come last from now on.
    auto& now = rep->serversFor(name);
    if (generation == rep->generation && now == servers)
      std::rotate(now.begin(), now.begin() + static_cast<std::ptrdiff_t>(i), now.end());
    break;
  }
  co_return best;
}

// The reply to a question that we cannot answer ourselves.
template <class Rep>
Task<std::string> forward(std::shared_ptr<Rep> rep, Outcome outcome, bool tcp) {
  const auto key = cacheKey(outcome);
  if (auto known = rep->cached(key)) co_return dns::replyFrom(outcome, &*known, tcp);
  if (auto it = rep->flights.find(key); it != rep->flights.end()) {
    auto flight = it->second;
    while (!flight->over) co_await flight->done.wait();
    co_return dns::replyFrom(outcome, flight->answer.empty() ? nullptr : &flight->answer, tcp);
  }
  auto failure = rep->failedUntil.find(key);
  const bool failedJustNow = failure != rep->failedUntil.end() && failure->second > rep->loop.now();
  const bool askable = !failedJustNow && rep->flights.size() < rep->options.maxInFlight &&
                       !rep->serversFor(outcome.name).empty() &&
                       !dns::makeQuestion(outcome.name, outcome.query.type).empty();
  if (!askable) {
    auto old = rep->stale(key);
    if (!old) rep->stats.failed++;
    co_return dns::replyFrom(outcome, old ? &*old : nullptr, tcp);
  }
  rep->stats.forwarded++;
  auto flight = std::make_shared<Flight>(rep->loop);
  rep->flights[key] = flight;
  std::string said = co_await askAll(rep, outcome.name, outcome.query);
  if (usable(said)) {
    rep->failedUntil.erase(key);
    rep->remember(key, said);
  } else {
    rep->failed(key);
    if (auto old = rep->stale(key)) said = std::move(*old);
  }
  flight->answer = said;
  flight->over = true;
  rep->flights.erase(key);
  flight->done.notify();
  co_return dns::replyFrom(outcome, said.empty() ? nullptr : &said, tcp);
}

template <class Rep>
void count(Rep& rep, const Outcome& outcome) {
  rep.stats.questions++;
  if (outcome.kind == Outcome::Kind::kDrop) rep.stats.malformed++;
  if (outcome.kind == Outcome::Kind::kReply) rep.stats.answered++;
}

template <class Rep>
Task<> forwardDatagram(std::shared_ptr<Rep> rep, std::shared_ptr<Listener> listener, udp::endpoint from,
                       Outcome outcome) {
  std::string reply = co_await forward(rep, std::move(outcome), false);
  boost::system::error_code ec;
  if (listener->datagrams.is_open()) listener->datagrams.send_to(asio::buffer(reply), from, 0, ec);
}

template <class Rep>
Task<> serveDatagrams(std::shared_ptr<Rep> rep, std::shared_ptr<Listener> listener) {
  std::string buffer(4096, '\0');
  auto& socket = listener->datagrams;
  while (!rep->stopping && socket.is_open()) {
    boost::system::error_code ec;
    co_await socket.async_wait(udp::socket::wait_read, noThrow(ec));
    if (ec == asio::error::operation_aborted || ec == asio::error::bad_descriptor) break;
    for (int i = 0; i < kDatagramsPerTurn && socket.is_open(); i++) {
      udp::endpoint from;
      size_t size = socket.receive_from(asio::buffer(buffer), from, 0, ec);
      if (ec == asio::error::would_block) break;
      if (ec) continue;  // an ICMP error of an earlier answer
      auto outcome =
          dns::answerFrom(rep->source, std::string_view(buffer).substr(0, size), fromAsio(from.address()), false);
      count(*rep, outcome);
      if (outcome.kind == Outcome::Kind::kReply) socket.send_to(asio::buffer(outcome.reply), from, 0, ec);
      if (outcome.kind == Outcome::Kind::kForward)
        rep->gate.spawn(forwardDatagram(rep, listener, from, std::move(outcome)));
    }
  }
}

// One message with its length in front; empty at the end.
Task<std::string> readFramed(tcp::socket& socket) {
  boost::system::error_code ec;
  uint8_t length[2] = {0, 0};
  co_await asio::async_read(socket, asio::buffer(length), noThrow(ec));
  std::string message(static_cast<size_t>(length[0] << 8 | length[1]), '\0');
  if (!ec) co_await asio::async_read(socket, asio::buffer(message), noThrow(ec));
  if (ec) message.clear();
  co_return message;
}

template <class Rep>
Task<> serveConnection(std::shared_ptr<Rep> rep, std::shared_ptr<tcp::socket> socket, IpAddress client) {
  rep->connections.insert(socket);
  while (!rep->stopping) {
    auto idle = deadline(rep->loop, kTcpIdle, socket);
    std::string message = co_await readFramed(*socket);
    if (message.empty()) break;
    auto outcome = dns::answerFrom(rep->source, message, client, true);
    count(*rep, outcome);
    if (outcome.kind == Outcome::Kind::kDrop) break;
    std::string reply = std::move(outcome.reply);
    if (outcome.kind == Outcome::Kind::kForward) reply = co_await forward(rep, std::move(outcome), true);
    std::string framed;
    framed += static_cast<char>(reply.size() >> 8);
    framed += static_cast<char>(reply.size() & 0xff);
    framed += reply;
    boost::system::error_code ec;
    co_await asio::async_write(*socket, asio::buffer(framed), noThrow(ec));
    if (ec) break;
  }
  rep->connections.erase(socket);
  rep->tcpClients--;
}

template <class Rep>
Task<> acceptConnections(std::shared_ptr<Rep> rep, std::shared_ptr<Listener> listener) {
  while (!rep->stopping && listener->acceptor.is_open()) {
    auto socket = std::make_shared<tcp::socket>(rep->loop.executor());
    boost::system::error_code ec;
    co_await listener->acceptor.async_accept(*socket, noThrow(ec));
    if (ec == asio::error::operation_aborted || ec == asio::error::bad_descriptor) break;
    if (ec) {
      // Out of descriptors, most often: the pending connection would wake us at once again.
      co_await rep->loop.sleep(std::chrono::milliseconds(100));
      continue;
    }
    auto peer = socket->remote_endpoint(ec);
    if (ec || rep->tcpClients >= rep->options.maxTcpClients) continue;
    rep->tcpClients++;
    rep->gate.spawn(serveConnection(rep, socket, fromAsio(peer.address())));
  }
}

Error bindError(const boost::system::error_code& ec, const std::string& where) {
  auto error = Error::fromErrno(ec.value(), "listen for DNS on " + where);
  if (ec.value() == EADDRINUSE) return Error(Code::kAlreadyExists, error.message(), EADDRINUSE);
  return error;
}

}  // namespace

// Of a port that the kernel chose for UDP, TCP may be somebody else's: then another one is tried.
Result<std::shared_ptr<Listener>> DnsServer::Rep::bind(const Options::Listen& where) {
  constexpr int kAttempts = 16;
  for (int attempt = 1;; ++attempt) {
    auto bound = bindOnce(where);
    if (bound.ok() || where.port != 0 || !bound.error().is(Code::kAlreadyExists) || attempt == kAttempts) return bound;
  }
}

Result<std::shared_ptr<Listener>> DnsServer::Rep::bindOnce(const Options::Listen& where) {
  auto listener = std::make_shared<Listener>(loop.executor());
  listener->where = where;
  int family = where.address.isV6() ? AF_INET6 : AF_INET;
  ASSIGN_OR_RETURN(auto datagrams, socketInNetns(where.netnsFd, family, SOCK_DGRAM, 0));
  ASSIGN_OR_RETURN(auto stream, socketInNetns(where.netnsFd, family, SOCK_STREAM, 0));
  // The kernel's default holds 256 questions, 5 ms of 50,000 a second; who is not heard asks again after 5 s.
  if (::setsockopt(datagrams.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kQuestionBytes, sizeof kQuestionBytes) != 0)
    ::setsockopt(datagrams.get(), SOL_SOCKET, SO_RCVBUF, &kQuestionBytes, sizeof kQuestionBytes);
  boost::system::error_code ec;
  auto text = fmt::format("{}:{}", where.address.str(), where.port);
  udp::endpoint at(toAsio(where.address), where.port);
  listener->datagrams.assign(at.protocol(), datagrams.release(), ec);
  if (!ec) listener->datagrams.non_blocking(true, ec);
  if (!ec) listener->datagrams.bind(at, ec);
  if (ec) return bindError(ec, text);
  tcp::endpoint atTcp(at.address(), listener->datagrams.local_endpoint(ec).port());
  listener->acceptor.assign(atTcp.protocol(), stream.release(), ec);
  if (!ec) listener->acceptor.set_option(tcp::acceptor::reuse_address(true), ec);
  if (!ec) listener->acceptor.bind(atTcp, ec);
  if (!ec) listener->acceptor.listen(kBacklog, ec);
  if (ec) return bindError(ec, text + " (TCP)");
  listener->where.port = atTcp.port();
  return listener;
}

Result<> DnsServer::Rep::open(const Options::Listen& where) {
  ASSIGN_OR_RETURN(auto listener, bind(where));
  listeners.push_back(listener);
  gate.spawn(serveDatagrams(shared_from_this(), listener));
  gate.spawn(acceptConnections(shared_from_this(), listener));
  return {};
}

DnsServer::DnsServer(Loop& loop, const DnsSource& source, Options options)
    : rep_(std::make_shared<Rep>(loop, source, std::move(options))) {}
DnsServer::~DnsServer() = default;

Result<> DnsServer::start() {
  for (auto& where : rep_->options.listen) {
    auto opened = rep_->open(where);
    if (opened.ok()) continue;
    for (auto& listener : rep_->listeners) listener->close();
    rep_->listeners.clear();
    return opened;
  }
  return {};
}

Result<> DnsServer::listen(const Options::Listen& where) {
  return rep_->open(where);
}

void DnsServer::unlisten(const IpAddress& address, int netnsFd) {
  std::erase_if(rep_->listeners, [&](auto& listener) {
    if (listener->where.address != address || listener->where.netnsFd != netnsFd) return false;
    listener->close();
    return true;
  });
}

Task<> DnsServer::stop() {
  auto rep = rep_;
  rep->stopping = true;
  boost::system::error_code ec;
  for (auto& listener : rep->listeners) listener->close();
  for (auto& socket : rep->asking) socket->close(ec);
  for (auto& socket : rep->connections) socket->close(ec);
  rep->listeners.clear();
  co_await rep->gate.close();
}

uint16_t DnsServer::port() const {
  return rep_->listeners.empty() ? 0 : rep_->listeners.front()->where.port;
}

void DnsServer::setForwarding(DnsForwarding forwarding) {
  if (forwarding == rep_->options.forwarding) return;
  rep_->options.forwarding = std::move(forwarding);
  rep_->generation++;
  rep_->cache.clear();
  rep_->cacheOrder.clear();
  rep_->failedUntil.clear();
}

DnsServer::Stats DnsServer::stats() const {
  return rep_->stats;
}

}  // namespace dhow
