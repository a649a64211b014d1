#include "tunnels.h"

#include "base/log.h"

namespace dhow::apiserver {

// Tells when the connection has ended.
class Tunnels::Watched final : public http::Stream {
 public:
  Watched(std::unique_ptr<http::Stream> inner, std::function<void()> ended)
      : inner_(std::move(inner)), ended_(std::move(ended)) {}
  ~Watched() override { tell(); }

  Task<Result<size_t>> read(std::span<char> into) override {
    auto count = co_await inner_->read(into);
    if (!count.ok() || *count == 0) tell();
    co_return count;
  }
  Task<Result<>> write(std::string_view bytes) override {
    auto done = co_await inner_->write(bytes);
    if (!done.ok()) tell();
    co_return done;
  }
  Task<> shutdownWrite() override { return inner_->shutdownWrite(); }
  void close() override {
    inner_->close();
    tell();
  }

 private:
  void tell() {
    if (auto ended = std::exchange(ended_, nullptr)) ended();
  }
  std::unique_ptr<http::Stream> inner_;
  std::function<void()> ended_;
};

Tunnels::~Tunnels() {
  *self_ = nullptr;
}

namespace {
Task<Result<std::unique_ptr<http::Stream>>> giveOnce(std::shared_ptr<std::unique_ptr<http::Stream>> held) {
  if (!*held) co_return Error(Code::kUnavailable, "the node's connection has ended");
  co_return std::move(*held);
}
}  // namespace

void Tunnels::add(const std::string& node, std::unique_ptr<http::Stream> connection) {
  uint64_t id = ++sequence_;
  auto ended = [weak = std::weak_ptr(self_), node, id, &loop = loop_] {
    loop.post([weak, node, id] {
      if (auto self = weak.lock(); self && *self) (*self)->ended(node, id);
    });
  };
  auto held = std::make_shared<std::unique_ptr<http::Stream>>(
      std::make_unique<Watched>(std::move(connection), std::move(ended)));
  http::Client::Options options;
  options.priorKnowledgeHttp2 = true;
  options.idleTimeout = std::chrono::hours(24 * 365);
  options.dial = [held] { return giveOnce(held); };
  auto& entry = nodes_[node];
  if (entry.client) entry.client->close();
  entry = {id, std::make_shared<http::Client>(loop_, std::move(options))};
  log::info("apiserver", "node {} has dialed in", node);
  if (onAdded) onAdded(node);
}

void Tunnels::ended(const std::string& node, uint64_t id) {
  auto found = nodes_.find(node);
  if (found == nodes_.end() || found->second.id != id) return;
  log::info("apiserver", "the connection of node {} has ended", node);
  found->second.client->close();
  nodes_.erase(found);
}

std::shared_ptr<http::Client> Tunnels::find(const std::string& node) const {
  auto found = nodes_.find(node);
  return found == nodes_.end() ? nullptr : found->second.client;
}

void Tunnels::close() {
  for (auto& [node, entry] : nodes_) entry.client->close();
  nodes_.clear();
}

}  // namespace dhow::apiserver
