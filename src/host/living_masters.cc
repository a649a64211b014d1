#include "host/living_masters.h"

#include "base/log.h"
#include "base/time.h"
#include "client/fields.h"
#include "object/labels.h"

namespace dhow::host {

namespace json = boost::json;
using object::resources::kLeases;

namespace {

constexpr const char* kIdentityLabel = "apiserver.kubernetes.io/identity";
constexpr const char* kIdentity = "kube-apiserver";
constexpr const char* kAddress = "dhow.io/address";
constexpr Duration kAgain = std::chrono::milliseconds(500);
constexpr char kAll[] = "all";

bool isMaster(const client::ObjectPtr& lease) {
  return lease && masterOf(*lease);
}

}  // namespace

std::string masterLease(const std::string& master) {
  return "apiserver-" + master;
}

std::optional<MasterAddress> masterOf(const client::Object& lease) {
  if (lease.ns() != kMasterLeases || lease.label(kIdentityLabel) != kIdentity) return std::nullopt;
  MasterAddress out{std::string(client::text(lease.root(), {"spec", "holderIdentity"})),
                    std::string(lease.annotation(kAddress))};
  if (out.name.empty() || out.address.empty()) return std::nullopt;
  return out;
}

MasterHeartbeat::MasterHeartbeat(Loop& loop, client::Client& client, std::string name, std::string address)
    : loop_(loop), client_(client), name_(std::move(name)), address_(std::move(address)), stopped_(loop), gate_(loop) {}

Task<Result<>> MasterHeartbeat::renew() {
  const std::string lease = masterLease(name_);
  json::object body{
      {"apiVersion", "coordination.k8s.io/v1"},
      {"kind", "Lease"},
      {"metadata", json::object{{"name", lease},
                                {"namespace", kMasterLeases},
                                {"labels", json::object{{kIdentityLabel, kIdentity}, {object::kHostnameLabel, name_}}},
                                {"annotations", json::object{{kAddress, address_}}}}},
      {"spec", json::object{{"holderIdentity", name_},
                            {"leaseDurationSeconds", kMasterDeadAfter / std::chrono::seconds(1)},
                            {"renewTime", formatTimeMicro(loop_.wallNow())}}}};
  auto patched = co_await client_.patch(kLeases, kMasterLeases, lease, "", client::PatchType::kMerge, body);
  if (!patched.ok() && patched.error().is(Code::kNotFound))
    patched = co_await client_.create(kLeases, kMasterLeases, body);
  CO_RETURN_IF_ERROR(patched);
  co_return Result<>();
}

Task<> MasterHeartbeat::run(MasterHeartbeat* self) {
  while (!self->stopping_) {
    auto renewed = co_await self->renew();
    if (!renewed.ok()) log::warn("server", "renew this master's lease: {}", renewed.error().message());
    if (self->stopping_) break;
    co_await self->stopped_.waitFor(renewed.ok() ? kMasterRenewEvery : kAgain);
  }
}

Task<> MasterHeartbeat::stop() {
  stopping_ = true;
  stopped_.notify();
  co_await gate_.close();
  auto removed = co_await client_.remove(kLeases, kMasterLeases, masterLease(name_), {});
  if (!removed.ok()) log::debug("server", "give up this master's lease: {}", removed.error().message());
}

LivingMasters::LivingMasters(Loop& loop, client::Cache& leases, Publish publish)
    : loop_(loop),
      leases_(leases),
      publish_(std::move(publish)),
      controller_(loop, {.name = "living-masters", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watch(leases_,
                    [](const client::ObjectPtr& before, const client::ObjectPtr& after, client::WorkQueue& queue) {
                      if (isMaster(before) || isMaster(after)) queue.add(kAll);
                    });
}

void LivingMasters::start() {
  controller_.start();
  controller_.queue().add(kAll);
}

Task<Result<>> LivingMasters::reconcile(std::string) {
  const TimePoint now = loop_.now();
  std::map<std::string, Seen> seen;
  std::vector<std::string> living;
  Duration soonest = kMasterDeadAfter;
  for (const auto& lease : leases_.list()) {
    const auto master = masterOf(*lease);
    if (!master) continue;
    const std::string name(lease->name());
    const uint64_t version = lease->resourceVersion();
    const auto known = seen_.find(name);
    // Of one that was never seen before the last renewal may be long ago: it has as long as any to show itself.
    const bool same = known != seen_.end() && known->second.version == version;
    const TimePoint at = same ? known->second.at : now;
    seen[name] = {version, at};
    if (now - at >= kMasterDeadAfter) continue;
    soonest = std::min(soonest, kMasterDeadAfter - (now - at));
    living.push_back(master->address);
  }
  seen_ = std::move(seen);
  if (living.empty()) co_return Result<>();
  controller_.queue().addAfter(kAll, soonest);
  auto published = co_await publish_(std::move(living));
  co_return published;
}

}  // namespace dhow::host
