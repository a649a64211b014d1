#include "node_pool_plan.h"

#include <algorithm>
#include <map>

namespace dhow::controllers {

namespace {

class Planner {
 public:
  Planner(const PoolWish& wish, const std::vector<PoolMachine>& machines, const std::vector<PoolZone>& zones)
      : wish_(wish), machines_(machines), zones_(zones) {
    for (const PoolMachine& machine : machines_) {
      if (machine.deleting) {
        busy_ = true;
        continue;
      }
      ++load_[machine.zone];
      if (!machine.original.empty()) continue;
      if (zoneOf(machine.zone) == nullptr) {
        foreign_.push_back(&machine);
      } else if (machine.surge) {
        surge_.push_back(&machine);
      } else {
        originals_.push_back(&machine);
        ++home_[machine.zone];
      }
    }
    for (const PoolZone& zone : zones_) room_[zone.name] = zone.room;
  }

  PoolStep run() {
    standIns();
    grow();
    leaveForeignZones();
    shrink();
    level();
    upgrade();
    return std::move(step_);
  }

 private:
  const PoolZone* zoneOf(std::string_view name) const {
    auto found = std::find_if(zones_.begin(), zones_.end(), [&](const PoolZone& zone) { return zone.name == name; });
    return found == zones_.end() ? nullptr : &*found;
  }
  // Zones that the pool has left count as up: nothing stands in for their machines.
  bool down(std::string_view zone) const {
    const PoolZone* found = zoneOf(zone);
    return found != nullptr && found->phase == ZonePhase::kDown;
  }
  bool usable(const PoolZone& zone) { return zone.phase != ZonePhase::kDown && zone.open && room_[zone.name] > 0; }
  bool allUp() const {
    return std::all_of(zones_.begin(), zones_.end(), [](const PoolZone& zone) {
      return zone.phase == ZonePhase::kUp || zone.phase == ZonePhase::kUnknown;
    });
  }
  void say(std::string message) {
    if (step_.message.empty()) step_.message = std::move(message);
  }

  // The usable zone with the fewest by `count`, then with the most pods waiting for it, then with the fewest machines.
  const PoolZone* fewest(const std::map<std::string, int64_t>& count) {
    const PoolZone* best = nullptr;
    auto rank = [&](const PoolZone& zone) {
      auto found = count.find(zone.name);
      return std::tuple(found == count.end() ? 0 : found->second, -zone.wanted, load_[zone.name]);
    };
    for (const PoolZone& zone : zones_) {
      if (usable(zone) && (best == nullptr || rank(zone) < rank(*best))) best = &zone;
    }
    return best;
  }

  bool create(const std::map<std::string, int64_t>& by, PoolStep::Create what) {
    const PoolZone* zone = fewest(by);
    if (zone == nullptr) {
      say("there is no room for another machine in the zones that are up");
      return false;
    }
    what.zone = zone->name;
    --room_[zone->name];
    ++load_[zone->name];
    step_.create.push_back(std::move(what));
    return true;
  }

  void standIns() {
    std::map<std::string, const PoolMachine*> byName;
    for (const PoolMachine& machine : machines_) {
      if (machine.original.empty()) byName[machine.name] = &machine;
    }
    std::map<std::string, bool> stoodIn;
    for (const PoolMachine& machine : machines_) {
      if (machine.original.empty() || machine.deleting) continue;
      auto found = byName.find(machine.original);
      const PoolMachine* original = found == byName.end() || found->second->deleting ? nullptr : found->second;
      const bool back = original != nullptr && !down(original->zone) && original->ready;
      const bool elsewhere = machine.noRoom && fewest(load_) != nullptr;
      if (machine.noRoom && !elsewhere) say(machine.message);
      if (original == nullptr || back || down(machine.zone) || elsewhere || stoodIn[machine.original]) {
        step_.remove.push_back(machine.name);
        --load_[machine.zone];
      } else {
        stoodIn[machine.original] = true;
      }
    }
    for (const PoolMachine* original : originals_) {
      if (!down(original->zone) || stoodIn[original->name]) continue;
      create(load_, {.original = original->name, .originalZone = original->zone});
    }
  }

  void grow() {
    for (auto missing = wish_.count - static_cast<int64_t>(originals_.size()); missing > 0; --missing) {
      if (!create(home_, {})) return;
      ++home_[step_.create.back().zone];
      busy_ = true;
    }
  }

  void leaveForeignZones() {
    if (foreign_.empty()) return;
    busy_ = true;
    const auto ready =
        std::count_if(originals_.begin(), originals_.end(), [](const PoolMachine* machine) { return machine->ready; });
    if (ready < wish_.count) return say("machines leave the zones that the pool has left when the others are ready");
    for (const PoolMachine* machine : foreign_) step_.remove.push_back(machine->name);
  }

  void shrink() {
    auto surplus = static_cast<int64_t>(originals_.size()) - wish_.count;
    if (surplus <= 0) return;
    busy_ = true;
    std::vector<const PoolMachine*> left = originals_;
    const bool coming = std::any_of(left.begin(), left.end(), [](const PoolMachine* m) { return m->creating; });
    for (; surplus > 0; --surplus) {
      auto rank = [&](const PoolMachine* m) {
        return std::tuple(home_[m->zone], !m->ready, m->idle, !m->current, m->number);
      };
      auto victim =
          std::max_element(left.begin(), left.end(), [&](const auto* a, const auto* b) { return rank(a) < rank(b); });
      // It is being replaced by one that is on its way.
      if ((*victim)->ready && coming) return say("a machine goes when the one that replaces it is ready");
      step_.remove.push_back((*victim)->name);
      --home_[(*victim)->zone];
      left.erase(victim);
    }
  }

  // One more where there are fewest; shrink() then takes one where there are most.
  void level() {
    if (busy_ || !allUp() || !surge_.empty() || originals_.empty()) return;
    int64_t least = INT64_MAX, most = 0;
    for (const PoolZone& zone : zones_) {
      most = std::max(most, home_[zone.name]);
      if (usable(zone)) least = std::min(least, home_[zone.name]);
    }
    if (least == INT64_MAX || most - least < 2) return;
    if (create(home_, {})) busy_ = true;
  }

  void upgrade() {
    std::vector<const PoolMachine*> outdated;
    int64_t renewing = 0, surgeReady = 0;
    const PoolMachine *stuck = nullptr, *blocked = nullptr;
    for (const PoolMachine* machine : originals_) {
      if (!machine->current)
        outdated.push_back(machine);
      else if (!machine->ready)
        ++renewing;
      if (machine->stuck && machine->current) stuck = machine;
      if (machine->blocked && machine->current) blocked = machine;
    }
    for (const PoolMachine* machine : surge_) surgeReady += machine->ready && machine->current;
    if (outdated.empty() && renewing == 0) {
      for (const PoolMachine* machine : surge_) step_.remove.push_back(machine->name);
      return;
    }
    step_.upgrading = !outdated.empty() || !surge_.empty();
    if (stuck != nullptr) {
      step_.stuck = true;
      return say("the upgrade stands still: machine " + stuck->name + ": " + stuck->message);
    }
    if (blocked != nullptr) say("machine " + blocked->name + ": " + blocked->message);
    if (outdated.empty()) return;
    for (const PoolMachine* machine : surge_) {
      if (!machine->current) step_.remove.push_back(machine->name);
    }
    if (busy_ || !allUp()) return say("the upgrade goes on when the pool is complete and its zones are up");
    const auto wanted = std::min<int64_t>(wish_.surge, static_cast<int64_t>(outdated.size()) + renewing);
    for (auto have = static_cast<int64_t>(surge_.size()); have < wanted; ++have) {
      if (!create(load_, {.surge = true})) break;
    }
    std::sort(outdated.begin(), outdated.end(), [](const auto* a, const auto* b) {
      return std::tuple(a->ready, a->number) < std::tuple(b->ready, b->number);
    });
    for (const PoolMachine* machine : outdated) {
      // What does not run is no loss.
      if (machine->ready && renewing >= surgeReady) break;
      step_.renew.push_back(machine->name);
      ++renewing;
    }
    say(std::to_string(outdated.size()) + " machines are still to be upgraded");
  }

  const PoolWish& wish_;
  const std::vector<PoolMachine>& machines_;
  const std::vector<PoolZone>& zones_;
  std::vector<const PoolMachine*> originals_, surge_, foreign_;
  std::map<std::string, int64_t> home_;  // originals, by zone
  std::map<std::string, int64_t> load_;  // machines of the pool, by zone
  std::map<std::string, int64_t> room_;
  bool busy_ = false;  // machines come or go: nothing else is begun
  PoolStep step_;
};

}  // namespace

PoolStep planPool(const PoolWish& wish, const std::vector<PoolMachine>& machines, const std::vector<PoolZone>& zones) {
  return Planner(wish, machines, zones).run();
}

}  // namespace dhow::controllers
