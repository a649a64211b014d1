#include "apiserver/drain_barrier.h"

#include "base/log.h"
#include "client/fields.h"
#include "object/labels.h"
#include "object/selector.h"

namespace dhow::apiserver {

using client::array;
using client::serviceOf;
using client::text;
using object::Object;
using object::ObjectPtr;
using object::resources::kEndpointSlices;
using object::resources::kPods;
using object::resources::kServices;

namespace {

constexpr char kByService[] = "drain-service";

// The endpoint of that pod; null when the slice has none.
const boost::json::object* endpointOf(const Object& slice, std::string_view uid) {
  for (const auto& value : array(slice.root(), {"endpoints"})) {
    if (value.is_object() && text(value.get_object(), {"targetRef", "uid"}) == uid) return &value.get_object();
  }
  return nullptr;
}

bool selects(const Object& service, const Object& pod) {
  const auto& selector = client::object(service.root(), {"spec", "selector"});
  if (selector.empty() || text(service.root(), {"spec", "type"}) == "ExternalName") return false;
  return object::LabelSelector::fromMap(selector).matches(pod);
}

// Whether the controller shows it in the slices of its services.
bool isShown(const Object& pod) {
  const std::string_view phase = text(pod.root(), {"status", "phase"});
  return !text(pod.root(), {"status", "podIP"}).empty() && phase != "Succeeded" && phase != "Failed";
}

}  // namespace

// What one consumer is being asked. There is one question at a time, with the highest revision that anybody waits for;
// its answer serves all who wait by then.
struct DrainBarrier::Asked {
  EndpointConsumers* party = nullptr;
  std::string name;
  uint64_t wanted = 0;
  TimePoint until;  // nobody waits for longer
  TimePoint heard;  // when it last told anything
  std::optional<uint64_t> answer;
  bool unable = false;
};

DrainBarrier::DrainBarrier(Loop& loop, client::Caches& caches, Options options)
    : loop_(loop),
      options_(options),
      pods_(caches.of(kPods)),
      services_(caches.of(kServices)),
      slices_(caches.of(kEndpointSlices)),
      slicesChanged_(loop),
      answered_(loop),
      stopped_(loop),
      gate_(loop) {
  slices_.addIndex(kByService, [](const ObjectPtr& slice, std::vector<std::string>& keys) {
    if (slice->label(object::kSliceManagedByLabel) == object::kSliceController) keys.push_back(serviceOf(*slice));
  });
}

DrainBarrier::~DrainBarrier() = default;

void DrainBarrier::start() {
  subscriptions_.push_back(slices_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    std::erase_if(touched_, [&](const auto& one) { return loop_.now() - one.second > options_.slicesLimit; });
    touched_.insert_or_assign(std::string((after ? after : before)->ns()), loop_.now());
    slicesChanged_.notify();
  }));
  // One that is deleted is waited for no longer.
  subscriptions_.push_back(
      services_.subscribe([this](const ObjectPtr&, const ObjectPtr&) { slicesChanged_.notify(); }));
}

Task<> DrainBarrier::stop() {
  stopping_ = true;
  subscriptions_.clear();
  for (Signal* signal : {&slicesChanged_, &answered_, &stopped_}) signal->notify();
  co_await gate_.close();
}

// Services whose slices must tell: those that select the pod, and those that show it (still).
std::set<std::string> DrainBarrier::tellersOf(const client::DrainQuestion& question) const {
  std::set<std::string> out;
  const ObjectPtr pod = pods_.get(question.ns, question.name);
  for (const ObjectPtr& service : services_.list(question.ns)) {
    if (pod && selects(*service, *pod)) out.insert(service->key());
  }
  for (const ObjectPtr& slice : slices_.list(question.ns)) {
    if (slice->label(object::kSliceManagedByLabel) == object::kSliceController && endpointOf(*slice, question.uid))
      out.insert(serviceOf(*slice));
  }
  return out;
}

bool DrainBarrier::told(const client::DrainQuestion& question, const std::set<std::string>& services) const {
  ObjectPtr pod = pods_.get(question.ns, question.name);
  if (pod && pod->uid() != question.uid) pod = nullptr;
  for (const std::string& key : services) {
    const ObjectPtr service = services_.get(question.ns, std::string_view(key).substr(question.ns.size() + 1));
    if (!service || service->deleting()) continue;
    bool seen = false;
    for (const ObjectPtr& slice : slices_.byIndex(kByService, key)) {
      const boost::json::object* endpoint = endpointOf(*slice, question.uid);
      if (endpoint == nullptr) continue;
      if (!client::flag(*endpoint, {"conditions", "terminating"})) return false;
      if (question.over && client::flag(*endpoint, {"conditions", "serving"})) return false;
      seen = true;
    }
    // One that is not in the slices yet may be put there by a controller that has not heard of its deletion.
    if (!seen && pod && isShown(*pod) && selects(*service, *pod)) return false;
  }
  return true;
}

Task<Result<client::Drained>> DrainBarrier::pass(client::DrainQuestion question) {
  client::Drained out;
  if (question.name.empty()) {
    out.missing = co_await unconfirmed(question.revision);
    if (stopping_) co_return Error(Code::kUnavailable, "the server is stopping");
    co_return out;
  }
  const std::set<std::string> services = tellersOf(question);
  // Nobody sends to it; nor has anybody of late, as far as a change of the slices tells.
  auto touched = touched_.find(question.ns);
  const bool quiet = touched == touched_.end() || loop_.now() - touched->second > options_.slicesLimit;
  if (services.empty() && quiet) co_return out;
  const TimePoint end = loop_.now() + options_.slicesLimit;
  while (!stopping_ && !told(question, services)) {
    const Duration left = end - loop_.now();
    if (left <= Duration::zero()) {
      out.told = false;
      break;
    }
    co_await slicesChanged_.waitFor(left);
  }
  if (!stopping_ && out.told) out.missing = co_await unconfirmed(slices_.revision());
  if (stopping_) co_return Error(Code::kUnavailable, "the server is stopping");
  if (const std::string complaint = out.complaint(); !complaint.empty())
    log::warn("apiserver", "pod {}/{} ends undrained: {}", question.ns, question.name, complaint);
  co_return out;
}

Task<std::vector<std::string>> DrainBarrier::unconfirmed(uint64_t revision) {
  const TimePoint begin = loop_.now(), end = begin + options_.behindLimit;
  std::vector<std::shared_ptr<Asked>> waiting;
  for (EndpointConsumers* party : parties_) {
    for (const std::string& name : party->living()) waiting.push_back(ask(*party, name, revision));
  }
  std::vector<std::string> missing;
  while (!stopping_) {
    const TimePoint now = loop_.now();
    TimePoint next = end;
    std::erase_if(waiting, [&](const auto& asked) {
      if (asked->answer.value_or(0) >= revision) return true;
      const TimePoint until = std::min(end, std::max(begin, asked->heard) + options_.confirmLimit);
      const bool given = asked->unable || until <= now;
      if (given) missing.push_back(asked->name);
      next = std::min(next, until);
      return given;
    });
    if (waiting.empty()) break;
    co_await answered_.waitFor(next - now);
  }
  co_return missing;
}

std::shared_ptr<DrainBarrier::Asked> DrainBarrier::ask(EndpointConsumers& party, const std::string& name,
                                                       uint64_t revision) {
  std::shared_ptr<Asked>& asked = asked_[{&party, name}];
  const bool fresh = !asked;
  if (fresh) {
    asked = std::make_shared<Asked>();
    asked->party = &party;
    asked->name = name;
  }
  asked->wanted = std::max(asked->wanted, revision);
  asked->until = loop_.now() + options_.behindLimit;
  std::shared_ptr<Asked> out = asked;
  if (fresh) gate_.spawn(askOne(this, out));
  return out;
}

Task<> DrainBarrier::askOne(DrainBarrier* self, std::shared_ptr<Asked> asked) {
  Duration delay = self->options_.askAgain;
  while (!self->stopping_) {
    const Duration left = asked->until - self->loop_.now();
    if (left <= Duration::zero()) break;
    const uint64_t wanted = asked->wanted;
    // One that lives tells soon enough that it is behind.
    auto answer = co_await asked->party->applied(asked->name, wanted, std::min(left, self->options_.confirmLimit / 2));
    asked->unable = !answer.ok() && answer.error().is(Code::kUnimplemented);
    if (answer.ok()) {
      asked->answer = *answer;
      asked->heard = self->loop_.now();
      delay = self->options_.askAgain;
    }
    if (answer.ok() || asked->unable) self->answered_.notify();
    if (asked->unable || asked->answer.value_or(0) >= asked->wanted) break;
    // More is wanted by now.
    if (answer.ok() && *answer >= wanted) continue;
    if (!answer.ok()) log::debug("apiserver", "{} does not tell: {}", asked->name, answer.error().message());
    co_await self->stopped_.waitFor(delay);
    delay *= 2;
  }
  self->asked_.erase({asked->party, asked->name});
}

}  // namespace dhow::apiserver
