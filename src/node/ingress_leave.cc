#include "ingress_leave.h"

#include "base/log.h"
#include "client/fields.h"
#include "client/node_lease.h"
#include "object/labels.h"
#include "object/resource_names.h"

namespace dhow::node {

namespace resources = object::resources;

namespace {

constexpr char kNamespace[] = "kube-system";
constexpr Duration kUnheard =
    std::chrono::seconds(10);  // when no master answers, or nobody takes the node off the list

bool listsNodes(const object::Object& slice) {
  const std::string_view by = slice.label(object::kSliceManagedByLabel);
  return slice.ns() == kNamespace && (by == object::kIngressSliceController || by == object::kGatewaySliceController);
}

}  // namespace

IngressLeave::IngressLeave(Loop& loop, client::Caches& caches, Barrier& barrier, std::string node)
    : loop_(loop),
      nodes_(caches.of(resources::kNodes)),
      slices_(caches.of(resources::kEndpointSlices)),
      barrier_(barrier),
      node_(std::move(node)),
      changed_(loop),
      gate_(loop) {}

void IngressLeave::start() {
  subscriptions_.push_back(nodes_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if ((after ? after : before)->name() == node_) changed_.notify();
  }));
  subscriptions_.push_back(slices_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if (listsNodes(after ? *after : *before)) changed_.notify();
  }));
  gate_.spawn(run(this));
}

Task<> IngressLeave::stop() {
  stopping_ = true;
  subscriptions_.clear();
  changed_.notify();
  co_await gate_.close();
}

bool IngressLeave::asked() const {
  const ObjectPtr node = nodes_.get("", node_);
  return node && !node->annotation(client::kIngressLeavesSince).empty();
}

// Whether any slice still sends clients here.
bool IngressLeave::listed() const {
  for (const ObjectPtr& slice : slices_.list(kNamespace)) {
    if (!listsNodes(*slice)) continue;
    for (const auto& endpoint : client::array(slice->root(), {"endpoints"}))
      if (endpoint.is_object() && client::text(endpoint.get_object(), "nodeName") == node_) return true;
  }
  return false;
}

// Of the last change of those slices.
uint64_t IngressLeave::revision() const {
  uint64_t out = 0;
  for (const ObjectPtr& slice : slices_.list(kNamespace))
    if (listsNodes(*slice)) out = std::max(out, slice->resourceVersion());
  return out;
}

Task<> IngressLeave::run(IngressLeave* self) {
  while (!self->stopping_) {
    while (!self->stopping_ && !self->asked()) co_await self->changed_.wait();
    const TimePoint end = self->loop_.now() + kUnheard;
    while (!self->stopping_ && self->asked() && self->listed() && self->loop_.now() < end)
      co_await self->changed_.waitFor(end - self->loop_.now());
    if (self->stopping_) break;
    if (!self->asked()) continue;
    client::DrainQuestion question;
    question.revision = self->revision();
    auto passed = co_await self->barrier_.pass(std::move(question));
    if (self->stopping_) break;
    const std::string complaint = passed.ok() ? passed->complaint() : passed.error().message();
    if (!complaint.empty()) log::warn("node", "clients of Ingresses may still be sent here: {}", complaint);
    log::info("node", "the clients of this node's Ingresses are let go");
    self->onLeave(true);
    while (!self->stopping_ && self->asked()) co_await self->changed_.wait();
    if (!self->stopping_) self->onLeave(false);
  }
}

}  // namespace dhow::node
