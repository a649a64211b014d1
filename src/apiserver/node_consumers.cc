#include "node_consumers.h"

#include "client/fields.h"
#include "client/node_lease.h"

namespace dhow::apiserver {

using client::text;
using object::ObjectPtr;
using object::resources::kLeases;
using object::resources::kNodes;

namespace {
constexpr char kLeaseNamespace[] = "kube-node-lease";
constexpr size_t kAnswerLimit = 4096;
}  // namespace

NodeConsumers::NodeConsumers(Loop& loop, client::Caches& caches, const Tunnels& tunnels)
    : loop_(loop), nodes_(caches.of(kNodes)), leases_(caches.of(kLeases)), tunnels_(tunnels) {}

void NodeConsumers::start() {
  started_ = loop_.now();
  subscriptions_.push_back(leases_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if ((after ? after : before)->ns() != kLeaseNamespace) return;
    if (!after) {
      heard_.erase(std::string(before->name()));
    } else if (!before || text(before->root(), {"spec", "renewTime"}) != text(after->root(), {"spec", "renewTime"})) {
      heard_.insert_or_assign(std::string(after->name()), loop_.now());
    }
  }));
}

void NodeConsumers::stop() {
  subscriptions_.clear();
}

std::vector<std::string> NodeConsumers::living() const {
  std::vector<std::string> out;
  for (const ObjectPtr& node : nodes_.list()) {
    auto heard = heard_.find(node->name());
    if (heard == heard_.end() || loop_.now() - heard->second >= client::kSilentAfter) continue;
    if (client::conditionTrue(node->root(), "Ready")) out.emplace_back(node->name());
  }
  return out;
}

std::vector<std::string> NodeConsumers::edges() const {
  std::vector<std::string> out;
  for (const ObjectPtr& node : nodes_.list()) {
    if (!client::conditionTrue(node->root(), client::kServesIngress)) continue;
    auto heard = heard_.find(node->name());
    if (loop_.now() - (heard == heard_.end() ? started_ : heard->second) < client::kSilentAfter)
      out.emplace_back(node->name());
  }
  return out;
}

Task<Result<uint64_t>> NodeConsumers::applied(std::string node, uint64_t revision, Duration limit) {
  auto agent = tunnels_.find(node);
  if (!agent) co_return Error(Code::kUnavailable, "it has no connection to this server");
  http::Request request;
  auto response = co_await agent->fetch(fmt::format("http://{}{}", node, client::appliedTarget({revision, limit})),
                                        std::move(request), kAnswerLimit);
  CO_RETURN_IF_ERROR(response);
  if (response->status == 404) co_return Error(Code::kUnimplemented, "its agent cannot tell");
  if (response->status != 200) co_return Error(Code::kUnavailable, response->body.substr(0, 200));
  co_return client::decodeApplied(response->body);
}

}  // namespace dhow::apiserver
