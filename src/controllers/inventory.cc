#include "inventory.h"

#include "client/fields.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kZones;

namespace {
constexpr Duration kAskAgain = std::chrono::seconds(30);
constexpr Duration kAskSilent = std::chrono::seconds(3);  // while a zone does not answer

bool same(const MachineInfo& a, const MachineInfo& b) {
  return a.state == b.state && a.version == b.version && a.held == b.held && a.address == b.address && a.zone == b.zone;
}
}  // namespace

Inventory::Inventory(Context context, MachineProvider* provider)
    : provider_(provider),
      zones_(context.caches.of(kZones)),
      controller_(context.loop, {.name = "inventory", .workers = 4},
                  [this](std::string zone) { return ask(std::move(zone)); }) {
  controller_.watch(zones_, [](const ObjectPtr& before, const ObjectPtr& after, WorkQueue& queue) {
    if (!before && after) queue.add(std::string(after->name()));
  });
}

void Inventory::start() {
  if (provider_ == nullptr) return;
  subscription_ = provider_->subscribe([this](const std::string& machine) {
    const MachineInfo* known = machine.empty() ? nullptr : find(machine);
    if (known != nullptr) return refresh(known->zone);
    for (const ObjectPtr& zone : zones_.list()) refresh(zone->name());
  });
  controller_.start();
}

Task<> Inventory::stop() {
  subscription_.reset();
  co_await controller_.stop();
}

std::optional<bool> Inventory::answers(std::string_view zone) const {
  auto found = answers_.find(zone);
  return found == answers_.end() ? std::nullopt : std::optional(!found->second);
}

const Error* Inventory::refusal(std::string_view zone, Code code) const {
  auto found = answers_.find(zone);
  return found != answers_.end() && found->second && found->second->is(code) ? &*found->second : nullptr;
}

const MachineInfo* Inventory::find(std::string_view machine) const {
  auto found = machines_.find(machine);
  return found == machines_.end() ? nullptr : &found->second;
}

bool Inventory::off(std::string_view machine) const {
  const MachineInfo* info = find(machine);
  return info != nullptr && info->state == MachineInfo::State::kStopped && answers(info->zone).value_or(false);
}

Task<Result<>> Inventory::ask(std::string zone) {
  if (provider_ == nullptr || !zones_.get("", zone)) co_return Result<>();
  Result<std::vector<MachineInfo>> listed = co_await provider_->list(zone);
  std::vector<std::string> changed;
  const auto told = answers_.find(zone);
  const bool news = told == answers_.end() || told->second.has_value() == listed.ok() ||
                    (told->second && !told->second->is(listed.error().code()));
  answers_[zone] = listed.ok() ? std::nullopt : std::optional(listed.error());
  if (listed.ok()) {
    std::map<std::string, MachineInfo> now;
    for (MachineInfo& info : *listed) {
      if (info.zone == zone) now.emplace(info.name, std::move(info));
    }
    for (auto it = machines_.begin(); it != machines_.end();) {
      const bool gone = it->second.zone == zone && !now.contains(it->first);
      if (gone) changed.push_back(it->first);
      it = gone ? machines_.erase(it) : std::next(it);
    }
    for (auto& [name, info] : now) {
      auto known = machines_.find(name);
      if (known == machines_.end() || !same(known->second, info)) changed.push_back(name);
      machines_[name] = std::move(info);
    }
  }
  if (news) changed.emplace_back();
  for (const std::string& name : changed) {
    for (const Changed& listener : listeners_) listener(name, zone);
  }
  controller_.queue().addAfter(zone, listed.ok() ? kAskAgain : kAskSilent);
  // That a zone does not answer is a fact about it, not a failure of asking.
  co_return Result<>();
}

}  // namespace dhow::controllers
