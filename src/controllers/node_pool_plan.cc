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
        busy_ = busy_ || !down(machine.zone);  // what a lost zone keeps takes as long as that
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
    spreadStandIns();
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
  // A zone that is just back first has its own machines back.
  bool settled(const PoolZone& zone) const {
    return zone.phase != ZonePhase::kReturning ||
           std::all_of(originals_.begin(), originals_.end(),
                       [&](const PoolMachine* machine) { return machine->zone != zone.name || machine->ready; });
  }
  bool any(ZonePhase phase) const {
    return std::any_of(zones_.begin(), zones_.end(), [&](const PoolZone& zone) { return zone.phase == phase; });
  }
  bool allUp() const { return !any(ZonePhase::kDown) && !any(ZonePhase::kReturning); }

  // What is counted of a zone: its originals, all machines of the pool, or what it has to bear: its originals and one
  // stand-in for each machine of a lost zone, there or on its way.
  using Count = int64_t (Planner::*)(const std::string& zone);
  int64_t home(const std::string& zone) { return home_[zone]; }
  int64_t load(const std::string& zone) { return load_[zone]; }
  int64_t spread(const std::string& zone) { return home_[zone] + away_[zone]; }

  void say(std::string message) {
    if (step_.message.empty()) step_.message = std::move(message);
  }

  // The usable zone with the fewest by `count`, then with the most pods waiting for it, then with the fewest machines.
  const PoolZone* fewest(Count count, bool settledOnly = false) {
    const PoolZone* best = nullptr;
    auto rank = [&](const PoolZone& zone) {
      return std::tuple((this->*count)(zone.name), -zone.wanted, load(zone.name));
    };
    for (const PoolZone& zone : zones_) {
      if (!usable(zone) || (settledOnly && !settled(zone))) continue;
      if (best == nullptr || rank(zone) < rank(*best)) best = &zone;
    }
    return best;
  }

  bool create(Count count, PoolStep::Create what) {
    const PoolZone* zone = fewest(count);
    if (zone == nullptr) {
      say("there is no room for another machine in the zones that are up");
      return false;
    }
    createIn(*zone, std::move(what));
    return true;
  }
  void createIn(const PoolZone& zone, PoolStep::Create what) {
    what.zone = zone.name;
    --room_[zone.name];
    ++load_[zone.name];
    if (!what.original.empty()) {
      ++away_[zone.name];
      step_.spreading = true;
    }
    step_.create.push_back(std::move(what));
  }
  void remove(const PoolMachine& machine) {
    step_.remove.push_back(machine.name);
    --load_[machine.zone];
  }

  void standIns() {
    std::map<std::string, const PoolMachine*> byName;
    for (const PoolMachine& machine : machines_) {
      if (machine.original.empty()) byName[machine.name] = &machine;
    }
    for (const PoolMachine& machine : machines_) {
      if (machine.original.empty() || machine.deleting) continue;
      auto found = byName.find(machine.original);
      const PoolMachine* original = found == byName.end() || found->second->deleting ? nullptr : found->second;
      const bool back = original != nullptr && !down(original->zone) && original->ready;
      const bool elsewhere = machine.noRoom && fewest(&Planner::load) != nullptr;
      if (original == nullptr || back || down(machine.zone) || elsewhere) {
        remove(machine);
        continue;
      }
      standIns_[machine.original].push_back(&machine);
      if (down(original->zone)) ++away_[machine.zone];
    }
    for (auto& [original, standIns] : standIns_) {
      keepOne(standIns, down(byName[original]->zone));
      if (standIns.front()->noRoom) say(standIns.front()->message);
    }
    for (const PoolMachine* original : originals_) {
      if (!down(original->zone) || standIns_.contains(original->name)) continue;
      create(&Planner::spread, {.original = original->name, .originalZone = original->zone});
    }
  }

  // Of several for one original the one where there are fewest stays; another goes when that one is ready.
  void keepOne(std::vector<const PoolMachine*>& standIns, bool needed) {
    auto rank = [&](const PoolMachine* m) {
      return std::tuple(m->noRoom, needed ? spread(m->zone) : 0, !m->ready, m->number);
    };
    while (standIns.size() > 1) {
      auto last = std::max_element(standIns.begin(), standIns.end(),
                                   [&](const auto* a, const auto* b) { return rank(a) < rank(b); });
      const PoolMachine& machine = **last;
      standIns.erase(last);
      if (needed) --away_[machine.zone];
      const bool other = std::any_of(standIns.begin(), standIns.end(), [](const auto* one) { return one->ready; });
      if (other || machine.creating || machine.noRoom)
        remove(machine);
      else
        step_.spreading = true;
    }
  }

  void grow() {
    for (auto missing = wish_.count - static_cast<int64_t>(originals_.size()); missing > 0; --missing) {
      if (!create(&Planner::home, {})) return;
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
      remove(**victim);
      --home_[(*victim)->zone];
      for (const PoolMachine* standIn : standIns_[(*victim)->name]) {
        remove(*standIn);
        if (down((*victim)->zone)) --away_[standIn->zone];
      }
      standIns_.erase((*victim)->name);
      left.erase(victim);
    }
  }

  // One is made where there are fewest; keepOne() then takes the other, where there are most.
  void spreadStandIns() {
    while (const PoolZone* to = fewest(&Planner::spread, true)) {
      const PoolMachine *original = nullptr, *from = nullptr;
      int64_t most = spread(to->name) + 1;
      for (const PoolMachine* one : originals_) {
        auto found = standIns_.find(one->name);
        if (!down(one->zone) || found == standIns_.end()) continue;
        const PoolMachine* standIn = found->second.front();
        if (spread(standIn->zone) <= most) continue;
        original = one;
        from = standIn;
        most = spread(standIn->zone);
      }
      if (from == nullptr) return;
      --away_[from->zone];
      createIn(*to, {.original = original->name, .originalZone = original->zone});
      standIns_.erase(original->name);
    }
  }

  // One more where there are fewest; shrink() then takes one where there are most. Stand-ins move before originals do,
  // and an upgrade is completed first, unless it waits for a zone.
  void level() {
    if (busy_ || step_.spreading || any(ZonePhase::kReturning) || originals_.empty()) return;
    if (allUp() && !surge_.empty()) return;
    int64_t least = INT64_MAX, most = 0;
    for (const PoolZone& zone : zones_) {
      if (zone.phase == ZonePhase::kDown) continue;
      most = std::max(most, spread(zone.name));
      if (usable(zone)) least = std::min(least, spread(zone.name));
    }
    if (least == INT64_MAX || most - least < 2) return;
    if (create(&Planner::spread, {})) busy_ = true;
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
      if (!create(&Planner::load, {.surge = true})) break;
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
  std::map<std::string, std::vector<const PoolMachine*>> standIns_;  // those that stay, by original
  std::map<std::string, int64_t> home_;                              // originals, by zone
  std::map<std::string, int64_t> away_;                              // stand-ins for machines of lost zones, by zone
  std::map<std::string, int64_t> load_;                              // machines of the pool, by zone
  std::map<std::string, int64_t> room_;
  bool busy_ = false;  // machines come or go: nothing else is begun
  PoolStep step_;
};

}  // namespace

PoolStep planPool(const PoolWish& wish, const std::vector<PoolMachine>& machines, const std::vector<PoolZone>& zones) {
  return Planner(wish, machines, zones).run();
}

}  // namespace dhow::controllers
