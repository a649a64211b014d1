#include "real_floors.h"

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "json.h"
#include "network/links.h"

namespace dhow::node {

bool StoreImages::present(const std::string& reference) const {
  return store_.get(reference).ok();
}

Task<Result<image::ImagePtr>> StoreImages::ensure(std::string reference, image::PullPolicy policy,
                                                  image::Keyring secrets) {
  auto image = co_await store_.ensure(std::move(reference), policy, std::move(secrets));
  co_return image;
}

Task<Result<image::Snapshot>> StoreImages::prepare(std::string imageId, std::string containerId) {
  auto snapshot = co_await store_.prepare(std::move(imageId), std::move(containerId));
  co_return snapshot;
}

Task<Result<>> StoreImages::removeSnapshot(std::string containerId) {
  auto removed = co_await store_.removeSnapshot(std::move(containerId));
  co_return removed;
}

BridgePodNetwork::BridgePodNetwork(Loop& loop, BlockingPool& pool, Settings settings)
    : loop_(loop), pool_(pool), settings_(std::move(settings)), opened_(loop) {}

BridgePodNetwork::~BridgePodNetwork() = default;

Result<> BridgePodNetwork::open(const std::string& range, const std::string& range6) {
  const std::string& first = range.empty() ? range6 : range;
  if (network_) {
    if (first == range_) return {};
    return Error(Code::kConflict,
                 fmt::format("the pods' range is {} and cannot become {} while the agent runs", range_, first));
  }
  ASSIGN_OR_RETURN(IpPrefix subnet, IpPrefix::parse(first));
  if (!nat_) {
    ASSIGN_OR_RETURN(nat_, NatTable::open(settings_.natTable, true));
  }
  BridgeNetworkOptions options;
  options.bridge = settings_.bridge;
  options.subnet = subnet;
  options.routed = true;
  options.mtu = mtu_;
  options.poolSize = settings_.poolSize;
  options.stateDir = settings_.stateDir;
  for (const std::string* cluster : {&settings_.clusterRange, &settings_.clusterRange6}) {
    if (cluster->empty()) continue;
    ASSIGN_OR_RETURN(options.noMasquerade.emplace_back(), IpPrefix::parse(*cluster));
  }
  if (!range.empty() && !range6.empty() && !settings_.clusterRange6.empty()) {
    ASSIGN_OR_RETURN(options.subnet6, IpPrefix::parse(range6));
  }
  ASSIGN_OR_RETURN(network_, BridgeNetwork::start(std::move(options), *nat_));
  range_ = first;
  for (const Adopted& pod : std::exchange(waiting_, {})) {
    auto adopted = adopt(pod.uid, pod.address, pod.link);
    if (adopted.ok() && !pod.ports.empty()) adopted = publish(pod.uid, pod.addresses, pod.ports);
    if (!adopted.ok()) log::warn("node", "{}", adopted.error().message());
  }
  installNat();
  opened_.notify();
  return {};
}

IpAddress BridgePodNetwork::gateway() const {
  if (!network_) return {};
  const BridgeNetworkOptions& options = network_->options();
  return options.gateway.empty() ? options.subnet.network().plus(1) : options.gateway;
}

Task<Result<PodNetwork::Given>> BridgePodNetwork::acquire(std::string podUid, bool ownUsers) {
  while (!network_ && !stopping_) co_await opened_.wait();
  if (stopping_) co_return Error(Code::kCancelled, "the agent is ending");
  Result<AcquiredNamespace> acquired = Error(Code::kInternal, "");
  const auto owner = ownUsers ? BridgeNetwork::Owner::kOwnUsers : BridgeNetwork::Owner::kSystem;
  if (network_->ready(owner) > 0) {
    acquired = network_->acquire(podUid, owner);
  } else {
    BridgeNetwork* network = network_.get();
    acquired = co_await pool_.run(loop_, [network, podUid, owner] { return network->acquire(podUid, owner); });
  }
  if (!acquired.ok()) co_return std::move(acquired).error();
  live_.insert(podUid);
  Given given;
  given.address = acquired->attachment.address.address.str();
  given.second = acquired->attachment.address6.str();
  if (settings_.ipv6First && !given.second.empty()) std::swap(given.address, given.second);
  given.hostInterface = acquired->attachment.hostInterface;
  // dup: the namespace object closes its own.
  given.netns = UniqueFd(::dup(acquired->netns.fd()));
  if (!given.netns) co_return Error::fromErrno("keep a network namespace");
  given.users = std::move(acquired->users);
  co_return given;
}

Result<> BridgePodNetwork::adopt(const std::string& podUid, const std::string& address,
                                 const std::string& hostInterface) {
  live_.insert(podUid);
  if (!network_) {
    waiting_.push_back({podUid, address, hostInterface, {}, {}});
    return {};
  }
  ASSIGN_OR_RETURN(IpAddress parsed, IpAddress::parse(address));
  return network_->adopt(podUid, parsed, hostInterface);
}

void BridgePodNetwork::release(const std::string& podUid) {
  live_.erase(podUid);
  std::erase_if(waiting_, [&](const Adopted& pod) { return pod.uid == podUid; });
  if (published_.erase(podUid) > 0 && nat_) {
    auto removed = nat_->unpublish(podUid);
    if (!removed.ok()) log::warn("node", "{}", removed.error().message());
  }
  if (network_) network_->detach(podUid);
}

Result<> BridgePodNetwork::publish(const std::string& podUid, const std::vector<std::string>& addresses,
                                   const std::vector<HostPort>& ports) {
  if (!nat_) {
    for (Adopted& pod : waiting_) {
      if (pod.uid != podUid) continue;
      pod.addresses = addresses;
      pod.ports = ports;
      return {};
    }
    return Error(Code::kUnavailable, "the node has no pod network yet");
  }
  std::vector<PublishedPort> wanted;
  for (const HostPort& port : ports) {
    PublishedPort out;
    if (!port.hostAddress.empty()) {
      ASSIGN_OR_RETURN(out.hostAddress, IpAddress::parse(port.hostAddress));
    }
    ASSIGN_OR_RETURN(out.protocol, parseProtocol(port.protocol));
    out.hostPort = port.hostPort;
    out.containerPort = port.containerPort;
    for (const std::string& address : addresses) {
      ASSIGN_OR_RETURN(out.containerAddress, IpAddress::parse(address));
      if (out.hostAddress.empty() || out.hostAddress.isV6() == out.containerAddress.isV6()) wanted.push_back(out);
    }
  }
  ASSIGN_OR_RETURN(auto done, nat_->publish(podUid, wanted));
  (void)done;
  published_.insert(podUid);
  return {};
}

void BridgePodNetwork::releaseOthers() {
  if (network_) network_->releaseAllBut({live_.begin(), live_.end()});
  recovered_ = true;
  installNat();
}

// The table of an earlier run works on until all that it published is known again.
void BridgePodNetwork::installNat() {
  if (!recovered_ || !nat_) return;
  if (auto installed = nat_->install(); !installed.ok()) log::error("node", "{}", installed.error().message());
}

Result<> BridgePodNetwork::setRoutes(const std::vector<NodeRoute>& routes) {
  if (!network_) return {};
  return network_->setNodeRoutes(routes);
}

void BridgePodNetwork::stop() {
  stopping_ = true;
  opened_.notify();
  if (network_) network_->stop();
}

Task<Result<client::Drained>> ApiBarrier::pass(client::DrainQuestion pod) {
  auto answer = co_await client_.raw("GET", client::drainTarget(node_, pod));
  if (!answer.ok()) co_return std::move(answer).error();
  co_return client::decodeDrained(*answer);
}

Task<Result<client::Held>> ApiBarrier::held(client::HeldQuestion pod) {
  auto answer = co_await client_.raw("GET", client::heldTarget(node_, pod));
  if (!answer.ok()) co_return std::move(answer).error();
  co_return client::decodeHeld(*answer);
}

Task<Result<Tokens::Token>> ApiTokens::request(std::string ns, std::string account, TokenRequest wanted,
                                               std::string podName, std::string podUid) {
  json::object spec{
      {"expirationSeconds", wanted.expirationSeconds},
      {"boundObjectRef", json::object{{"kind", "Pod"}, {"apiVersion", "v1"}, {"name", podName}, {"uid", podUid}}}};
  if (!wanted.audience.empty()) spec["audiences"] = json::array{json::string(wanted.audience)};
  json::object body{{"apiVersion", "authentication.k8s.io/v1"}, {"kind", "TokenRequest"}, {"spec", std::move(spec)}};
  auto made = co_await client_.create(dhow::object::resources::kServiceAccounts, ns, std::move(body), account, "token");
  if (!made.ok()) co_return std::move(made).error();
  Token token;
  token.token = text((*made)->root(), {"status", "token"});
  token.expires = client::time((*made)->root(), {"status", "expirationTimestamp"})
                      .value_or(loop_.wallNow() + boundedSeconds(wanted.expirationSeconds));
  if (token.token.empty()) co_return Error(Code::kInternal, "the API server gave no token");
  co_return token;
}

namespace {
// The next pod of a namespace mostly refers to what the last one did.
constexpr Duration kLinger = std::chrono::seconds(30);
constexpr std::ptrdiff_t kLingering = 32;
}  // namespace

void WatchedObjects::use(const std::string& user, std::vector<ObjectRef> refs, std::function<void()> changed) {
  std::set<ObjectRef> wanted(refs.begin(), refs.end());
  std::set<ObjectRef> had;
  if (auto found = users_.find(user); found != users_.end()) had = found->second.refs;
  if (wanted.empty()) {
    users_.erase(user);
  } else {
    users_[user] = {wanted, std::move(changed)};
  }
  for (const ObjectRef& ref : wanted) {
    if (stopping_ || had.contains(ref)) continue;
    if (!entries_.contains(ref)) open(ref);
    entries_[ref]->users.insert(user);
    entries_[ref]->linger.cancel();
  }
  for (const ObjectRef& ref : had) {
    if (wanted.contains(ref)) continue;
    auto found = entries_.find(ref);
    if (found == entries_.end()) continue;
    found->second->users.erase(user);
    if (!found->second->users.empty()) continue;
    const auto idle =
        std::count_if(entries_.begin(), entries_.end(), [](const auto& entry) { return entry.second->users.empty(); });
    if (idle > kLingering) {
      drop(ref);
    } else {
      found->second->linger = loop_.after(kLinger, [this, ref] { drop(ref); });
    }
  }
}

void WatchedObjects::drop(ObjectRef ref) {
  auto found = entries_.find(ref);
  if (found == entries_.end()) return;
  std::shared_ptr<Entry> entry = std::move(found->second);
  entries_.erase(found);
  seeds_.erase(ref);
  gate_.spawn(close(std::move(entry)));
}

void WatchedObjects::open(const ObjectRef& ref) {
  auto entry = std::make_shared<Entry>();
  client::Reflector::Options options;
  options.select.ns = ref.ns;
  options.select.fieldSelector = "metadata.name=" + ref.name;
  const Resource& resource =
      ref.kind == "secrets" ? dhow::object::resources::kSecrets : dhow::object::resources::kConfigMaps;
  entry->reflector = std::make_unique<client::Reflector>(loop_, client_, resource, std::move(options));
  entries_[ref] = entry;
  entry->subscription =
      entry->reflector->cache().subscribe([this, ref](const ObjectPtr&, const ObjectPtr&) { tell(ref); });
  entry->reflector->start();
  gate_.spawn(announce(this, ref, entry->reflector.get()));
}

// That an object is not there is news, too.
Task<> WatchedObjects::announce(WatchedObjects* self, ObjectRef ref, client::Reflector* reflector) {
  co_await reflector->cache().waitSynced();
  auto found = self->entries_.find(ref);
  if (found != self->entries_.end() && found->second->reflector.get() == reflector) self->tell(ref);
}

Task<> WatchedObjects::close(std::shared_ptr<Entry> entry) {
  entry->linger.cancel();
  entry->subscription.reset();
  co_await entry->reflector->stop();
}

void WatchedObjects::tell(const ObjectRef& ref) {
  auto found = entries_.find(ref);
  if (found == entries_.end() || stopping_) return;
  for (const std::string& name : std::set<std::string>(found->second->users)) {
    auto user = users_.find(name);
    if (user == users_.end() || !user->second.changed) continue;
    std::function<void()> changed = user->second.changed;
    changed();
  }
}

void WatchedObjects::seed(const ObjectRef& ref, ObjectPtr object) {
  seeds_[ref] = std::move(object);
}

bool WatchedObjects::known(const ObjectRef& ref) const {
  if (seeds_.contains(ref)) return true;
  auto found = entries_.find(ref);
  return found != entries_.end() && found->second->reflector->cache().synced();
}

ObjectPtr WatchedObjects::find(const ObjectRef& ref) const {
  auto found = entries_.find(ref);
  if (found != entries_.end() && found->second->reflector->cache().synced()) {
    return found->second->reflector->cache().get(ref.ns, ref.name);
  }
  auto seed = seeds_.find(ref);
  return seed == seeds_.end() ? nullptr : seed->second;
}

Task<> WatchedObjects::stop() {
  stopping_ = true;
  users_.clear();
  for (auto& [ref, entry] : std::exchange(entries_, {})) gate_.spawn(close(std::move(entry)));
  co_await gate_.close();
}

Task<> PoolOffload::run(std::function<void()> work) {
  co_await pool_.run(loop_, [work = std::move(work)] { work(); });
}

}  // namespace dhow::node
