#include "tunnel.h"

#include "base/log.h"
#include "base/strings.h"
#include "client/streaming.h"

namespace dhow::node {

namespace {

constexpr Duration kFirstDelay = std::chrono::milliseconds(100);
constexpr Duration kMostDelay = std::chrono::seconds(2);

http::Client::Options clientOptions(const Tunnels::Options& options) {
  http::Client::Options out;
  out.tls = options.tls;
  out.http2 = false;
  return out;
}

}  // namespace

Tunnels::Tunnels(Loop& loop, Options options, http::Server& server)
    : loop_(loop),
      options_(std::move(options)),
      server_(server),
      client_(loop, clientOptions(options_)),
      stopped_(loop),
      gate_(loop) {}

void Tunnels::start() {
  started_ = true;
  dial();
}

void Tunnels::setServers(std::vector<std::string> servers) {
  options_.servers = std::move(servers);
  if (!started_ || stopping_) return;
  // Those that wait to dial again look whether they still should.
  stopped_.notify();
  dial();
}

void Tunnels::dial() {
  for (const std::string& server : options_.servers) {
    if (kept_.insert(server).second) gate_.spawn(keep(this, server));
  }
}

Task<> Tunnels::stop() {
  stopping_ = true;
  stopped_.notify();
  client_.close();
  co_await gate_.close();
}

Task<> Tunnels::keep(Tunnels* self, std::string server) {
  namespace streaming = client::streaming;
  const std::string url = fmt::format("{}{}{}{}", server, streaming::kTunnelPrefix, percentEncode(self->options_.node),
                                      streaming::kTunnelSuffix);
  auto wanted = [self, &server] {
    const auto& servers = self->options_.servers;
    return !self->stopping_ && std::find(servers.begin(), servers.end(), server) != servers.end();
  };
  Duration delay = kFirstDelay;
  while (wanted()) {
    http::Request request;
    request.headers.set("Connection", "Upgrade");
    request.headers.set("Upgrade", streaming::kTunnelUpgrade);
    request.headers.set(streaming::kTunnelProtocolHeader, std::to_string(streaming::kTunnelProtocol));
    auto upgraded = co_await self->client_.upgrade(url, std::move(request));
    if (self->stopping_) break;
    if (upgraded.ok() && streaming::tunnelProtocol(upgraded->headers.get(streaming::kTunnelProtocolHeader)) <
                             streaming::kOldestTunnelProtocol)
      upgraded = Error(Code::kFailedPrecondition, "the master's version is too far from this one's");
    if (upgraded.ok()) {
      log::info("node", "tunnel to {} is open", server);
      const TimePoint began = self->loop_.now();
      ++self->connected_;
      http::Peer peer;
      peer.address = server;
      co_await self->server_.serve(std::move(upgraded->stream), std::move(peer));
      --self->connected_;
      log::info("node", "tunnel to {} has ended", server);
      if (self->loop_.now() - began > kMostDelay) delay = kFirstDelay;
    } else {
      log::debug("node", "tunnel to {}: {}", server, upgraded.error().message());
    }
    if (self->stopping_) break;
    // Jittered, so that a cluster's nodes do not come back all at once.
    const Duration jitter(static_cast<int64_t>(self->loop_.random() % static_cast<uint64_t>(delay.count() / 2)));
    co_await self->stopped_.waitFor(delay / 2 + jitter);
    delay = std::min(delay * 2, kMostDelay);
  }
  self->kept_.erase(server);
}

}  // namespace dhow::node
