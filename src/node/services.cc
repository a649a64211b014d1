#include "services.h"

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "json.h"

namespace dhow::node {

namespace {

constexpr const char* kIndex = "node-service";
constexpr Duration kKeepAfter = std::chrono::seconds(5);
constexpr Duration kRetry = std::chrono::seconds(1);

}  // namespace

ServiceFeed::ServiceFeed(Loop& loop, client::Cache& services, client::Cache& slices, ServiceSink& sink,
                         Offload& offload, ServiceView view, std::string file)
    : loop_(loop),
      services_(services),
      slices_(slices),
      sink_(sink),
      offload_(offload),
      view_(std::move(view)),
      file_(std::move(file)),
      flushed_(loop),
      gate_(loop) {
  slices_.addIndex(kIndex, [](const ObjectPtr& slice, std::vector<std::string>& keys) {
    keys.push_back(client::serviceOf(*slice));
  });
}

std::vector<ObjectPtr> ServiceFeed::slicesOf(const std::string& key) const {
  if (synced_) return slices_.byIndex(kIndex, key);
  std::vector<ObjectPtr> out;
  for (const ObjectPtr& object : remembered_) {
    if (object->kind() == "EndpointSlice" && client::serviceOf(*object) == key) out.push_back(object);
  }
  return out;
}

std::vector<ObjectPtr> ServiceFeed::services(std::string_view ns) const {
  std::vector<ObjectPtr> out;
  if (synced_) {
    out = services_.list(ns);
    if (ns != "default") {
      if (ObjectPtr master = services_.get("default", "kubernetes")) out.push_back(master);
    }
    return out;
  }
  for (const ObjectPtr& object : remembered_) {
    if (object->kind() == "Service" && (object->ns() == ns || object->name() == "kubernetes")) out.push_back(object);
  }
  return out;
}

void ServiceFeed::start() {
  auto loaded = load();
  if (!loaded.ok()) log::warn("node", "services from disk: {}", loaded.error().message());
  subscriptions_.push_back(services_.subscribe(
      [this](const ObjectPtr& before, const ObjectPtr& after) { changed((after ? after : before)->key()); }));
  subscriptions_.push_back(slices_.subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
    if (before) changed(client::serviceOf(*before));
    if (after) changed(client::serviceOf(*after));
  }));
  gate_.spawn(waitSynced(this));
}

Task<> ServiceFeed::stop() {
  stopping_ = true;
  subscriptions_.clear();
  keep_.cancel();
  retry_.cancel();
  flushed_.notify();
  co_await gate_.close();
}

Task<> ServiceFeed::waitSynced(ServiceFeed* self) {
  co_await self->services_.waitSynced();
  co_await self->slices_.waitSynced();
  if (self->stopping_ || !self->services_.synced() || !self->slices_.synced()) co_return;
  self->synced_ = true;
  // What went away while nobody looked must leave DNS, too.
  for (const ObjectPtr& object : std::exchange(self->remembered_, {})) {
    if (object->kind() == "Service") self->dirty_.insert(object->key());
  }
  for (const ObjectPtr& service : self->services_.list()) self->dirty_.insert(service->key());
  self->full_ = true;
  self->wake();
}

void ServiceFeed::setZone(const std::string& zone) {
  if (zone == view_.zone || stopping_) return;
  log::info("node", "the zone of this node is {}", zone.empty() ? "not known" : zone);
  view_.zone = zone;
  for (const ObjectPtr& service : services_.list()) changed(std::string(service->key()));
}

uint64_t ServiceFeed::applied() const {
  const bool settled = synced_ && !full_ && !flushing_ && dirty_.empty();
  return settled ? slices_.revision() : applied_;
}

Task<uint64_t> ServiceFeed::untilApplied(uint64_t revision, Duration limit) {
  const TimePoint end = loop_.now() + limit;
  while (applied() < revision && !stopping_) {
    const Duration left = end - loop_.now();
    if (left <= Duration::zero()) break;
    co_await flushed_.waitFor(left);
  }
  co_return applied();
}

void ServiceFeed::changed(const std::string& key) {
  if (!synced_ || stopping_) return;
  dirty_.insert(key);
  wake();
}

void ServiceFeed::wake() {
  if (flushing_ || stopping_) return;
  flushing_ = true;
  // After the events that are queued already, so that a burst becomes one batch.
  loop_.post([this] {
    if (stopping_) return;
    gate_.spawn(flush(this));
  });
}

Task<> ServiceFeed::flush(ServiceFeed* self) {
  while ((self->full_ || !self->dirty_.empty()) && !self->stopping_) {
    const bool full = std::exchange(self->full_, false);
    const std::set<std::string> keys = std::exchange(self->dirty_, {});
    const uint64_t revision = self->slices_.revision();
    auto changed = std::make_shared<std::vector<ServicePort>>();
    auto removed = std::make_shared<std::vector<std::string>>();
    for (const std::string& key : keys) {
      auto [ns, name] = splitOnce(key, '/').value_or(std::pair<std::string_view, std::string_view>());
      ObjectPtr service = self->services_.get(ns, name);
      std::set<std::string> ports;
      if (service) {
        const std::vector<ObjectPtr> slices = self->slicesOf(key);
        self->sink_.setDns(dnsService(*service, slices));
        self->sink_.setAnnounced(key, announcedAddresses(*service, slices));
        self->sink_.setHealth(std::string(ns), std::string(name), serviceHealth(*service, slices, self->view_));
        for (ServicePort& port : servicePorts(*service, slices, self->view_)) {
          ports.insert(port.key);
          changed->push_back(std::move(port));
        }
      } else {
        self->sink_.removeDns(std::string(ns), std::string(name));
        self->sink_.setAnnounced(key, {});
        self->sink_.setHealth(std::string(ns), std::string(name), {});
      }
      for (const std::string& port : self->told_[key]) {
        if (!ports.contains(port)) removed->push_back(port);
      }
      if (ports.empty()) {
        self->told_.erase(key);
      } else {
        self->told_[key] = std::move(ports);
      }
    }
    auto result = std::make_shared<Result<>>();
    ServiceSink* sink = &self->sink_;
    co_await self->offload_.run([result, sink, changed, removed, full] {
      *result = full ? sink->applyAll(std::move(*changed), ServiceProxy::Snapshot::kSure)
                     : sink->update(std::move(*changed), std::move(*removed));
    });
    if (!result->ok()) {
      log::error("node", "service rules: {}", result->error().message());
      for (const ObjectPtr& service : self->services_.list()) self->dirty_.insert(service->key());
      self->full_ = true;
      self->applied_ = 0;  // nobody knows what is in force
      self->retry_ = self->loop_.after(kRetry, [self] { self->wake(); });
      break;
    }
    self->applied_ = revision;
    self->flushed_.notify();
    self->keepSoon();
  }
  self->flushing_ = false;
}

void ServiceFeed::keepSoon() {
  if (file_.empty() || keep_) return;
  keep_ = loop_.after(kKeepAfter, [this] {
    keep_ = Timer();
    std::string lines;
    for (client::Cache* cache : {&services_, &slices_}) {
      for (const ObjectPtr& object : cache->list()) lines += object->bytes() + "\n";
    }
    auto written = writeFile(file_, lines, 0600);
    if (!written.ok()) log::warn("node", "{}", written.error().message());
  });
}

Result<> ServiceFeed::load() {
  if (file_.empty() || !pathExists(file_)) return {};
  ASSIGN_OR_RETURN(std::string lines, readFile(file_));
  for (const std::string& line : split(lines, '\n')) {
    if (line.empty()) continue;
    ASSIGN_OR_RETURN(ObjectPtr object, Object::parse(line));
    remembered_.push_back(std::move(object));
  }
  std::vector<ServicePort> ports;
  for (const ObjectPtr& object : remembered_) {
    if (object->kind() != "Service") continue;
    const std::vector<ObjectPtr> slices = slicesOf(object->key());
    sink_.setDns(dnsService(*object, slices));
    sink_.setAnnounced(std::string(object->key()), announcedAddresses(*object, slices));
    sink_.setHealth(std::string(object->ns()), std::string(object->name()), serviceHealth(*object, slices, view_));
    for (ServicePort& port : servicePorts(*object, slices, view_)) ports.push_back(std::move(port));
  }
  // Perhaps a little older than the rules that the last agent left.
  return sink_.applyAll(std::move(ports), ServiceProxy::Snapshot::kUnsure);
}

}  // namespace dhow::node
