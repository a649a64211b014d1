#include "region_machines.h"

#include "base/log.h"
#include "base/strings.h"

namespace dhow {

using controllers::MachineInfo;
using controllers::MachineRequest;

namespace {

constexpr Duration kAgain = std::chrono::milliseconds(500);

bool isUp(const platform::RegionClient::Machines& all, const std::string& zone) {
  return std::any_of(all.zones.begin(), all.zones.end(),
                     [&](const auto& known) { return known.name == zone && known.up; });
}

// Why the zone's machines cannot be told, though the region itself has answered.
Error whyNot(const platform::RegionClient::Machines& all, const std::string& zone) {
  std::vector<std::string> names;
  for (const auto& known : all.zones) names.push_back(known.name);
  if (std::find(names.begin(), names.end(), zone) == names.end()) {
    return Error(Code::kNotFound, fmt::format("the region has no zone {}, only {}: delete it, or name one of these",
                                              zone, join(names, ", ")));
  }
  return Error(Code::kFailedPrecondition, fmt::format("zone {} is cut off", zone));
}

MachineInfo infoOf(const platform::MachineInfo& machine) {
  MachineInfo info;
  info.name = machine.name;
  info.zone = machine.zone;
  info.version = machine.version;
  info.address = machine.address;
  info.held = machine.held;
  info.state = machine.running    ? MachineInfo::State::kRunning
               : machine.starting ? MachineInfo::State::kCreating
                                  : MachineInfo::State::kStopped;
  if (info.state == MachineInfo::State::kStopped) info.message = machine.held ? "it was stopped" : "nothing of it runs";
  return info;
}

}  // namespace

struct RegionMachines::Listeners {
  std::map<uint64_t, Changed> all;
  uint64_t next = 0;
  void tell(const std::string& name) const {
    auto copy = all;
    for (const auto& [id, listener] : copy) listener(name);
  }
};

class RegionMachines::Entry final : public Subscription {
 public:
  Entry(std::weak_ptr<Listeners> listeners, uint64_t id) : listeners_(std::move(listeners)), id_(id) {}
  ~Entry() override {
    if (auto listeners = listeners_.lock()) listeners->all.erase(id_);
  }

 private:
  std::weak_ptr<Listeners> listeners_;
  uint64_t id_;
};

RegionMachines::RegionMachines(Loop& loop, platform::RegionClient::Options options)
    : client_(loop, options),
      changes_(loop, options),
      listeners_(std::make_shared<Listeners>()),
      stopped_(loop),
      gate_(loop) {}
RegionMachines::~RegionMachines() = default;

void RegionMachines::start() {
  gate_.spawn(follow(this));
}

Task<> RegionMachines::stop() {
  stopping_ = true;
  stopped_.notify();
  changes_.close();
  client_.close();
  co_await gate_.close();
}

// After each gap in the stream it says that anything may have changed.
Task<> RegionMachines::follow(RegionMachines* self) {
  while (!self->stopping_) {
    auto ended = co_await self->changes_.follow([self](const std::string& name) { self->listeners_->tell(name); });
    if (self->stopping_) break;
    log::debug("server", "changes of machines: {}", ended.error().message());
    co_await self->stopped_.waitFor(kAgain);
  }
}

Task<Result<>> RegionMachines::create(MachineRequest request) {
  platform::NodeTraits traits;
  traits.labels = std::move(request.labels);
  for (auto& taint : request.taints) traits.taints.push_back({taint.key, taint.value, taint.effect});
  if (!request.cpu.empty()) traits.resources["cpu"] = request.cpu;
  if (!request.memory.empty()) traits.resources["memory"] = request.memory;
  traits.pool = std::move(request.pool);
  traits.version = std::move(request.version);
  auto made = co_await client_.create(std::move(request.name), std::move(request.zone), std::move(traits));
  if (made.ok()) co_return made;
  // A zone that is not there will not be there later either.
  if (made.error().is(Code::kNotFound)) co_return Error(Code::kInvalid, made.error().message());
  if (made.error().is(Code::kTooManyRequests)) co_return Error(Code::kFailedPrecondition, made.error().message());
  co_return made;
}

Task<Result<>> RegionMachines::remove(std::string name) {
  auto removed = co_await client_.remove(std::move(name));
  co_return removed;
}

Task<Result<>> RegionMachines::restart(std::string name) {
  auto all = co_await client_.list();
  CO_RETURN_IF_ERROR(all);
  // One that is off is not switched off again: somebody else may be starting it just now.
  const bool runs = std::any_of(all->machines.begin(), all->machines.end(),
                                [&](const auto& machine) { return machine.name == name && machine.running; });
  auto done = co_await (runs ? client_.restart(name) : client_.start(name));
  co_return done;
}

Task<Result<std::vector<MachineInfo>>> RegionMachines::list(std::string zone) {
  auto all = co_await client_.list();
  CO_RETURN_IF_ERROR(all);
  if (!zone.empty() && !isUp(*all, zone)) co_return whyNot(*all, zone);
  std::vector<MachineInfo> out;
  for (const auto& machine : all->machines) {
    // What is planned and was never made is not there yet.
    if (!machine.made && !machine.starting && !machine.running) continue;
    if (machine.master || !isUp(*all, machine.zone) || (!zone.empty() && machine.zone != zone)) continue;
    out.push_back(infoOf(machine));
  }
  co_return out;
}

std::unique_ptr<RegionMachines::Subscription> RegionMachines::subscribe(Changed changed) {
  const uint64_t id = listeners_->next++;
  listeners_->all[id] = std::move(changed);
  return std::make_unique<Entry>(listeners_, id);
}

}  // namespace dhow
