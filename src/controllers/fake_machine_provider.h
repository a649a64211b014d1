// A provider of machines for simulations: machines take a while, zones can be out or full, and calls fail now and then.
#pragma once

#include <functional>
#include <map>
#include <set>

#include "base/gate.h"
#include "machine_provider.h"

namespace dhow::controllers {

class FakeMachineProvider final : public MachineProvider {
 public:
  explicit FakeMachineProvider(Loop& loop) : loop_(loop), gate_(loop) {}

  std::set<std::string> zones;         // that exist
  std::set<std::string> out;           // that do not answer
  bool unreached = false;              // it answers nothing itself
  std::map<std::string, size_t> room;  // of zones that are not endless
  uint64_t faults = 0;                 // one of so many calls fails; 0: none
  Duration slowest = std::chrono::seconds(4);
  // The machine begins or ceases to run.
  std::function<void(const MachineRequest&, bool on)> onPower;

  const std::map<std::string, MachineInfo>& machines() const { return machines_; }
  // As its owner, or fate, would.
  void powerOff(const std::string& name) { setPower(name, false); }
  void powerOn(const std::string& name) { setPower(name, true); }
  Task<> stop() {
    timers_.clear();
    listeners_.clear();
    co_await gate_.close();
  }

  Task<Result<>> create(MachineRequest request) override {
    co_await delay();
    if (!zones.contains(request.zone)) co_return Error(Code::kInvalid, "no zone " + request.zone);
    if (failing(request.zone)) co_return Error(Code::kUnavailable, "zone " + request.zone + " does not answer");
    if (machines_.contains(request.name)) co_return Result<>();
    size_t used = 0;
    for (const auto& [name, info] : machines_) used += info.zone == request.zone;
    if (room.contains(request.zone) && used >= room[request.zone])
      co_return Error(Code::kFailedPrecondition, "no room in zone " + request.zone);
    const std::string name = request.name;
    MachineInfo info;
    info.name = name;
    info.zone = request.zone;
    info.version = request.version;
    machines_[name] = std::move(info);
    requests_[name] = std::move(request);
    tell(name);
    timers_[name] = loop_.after(some(), [this, name] { setPower(name, true); });
    co_return Result<>();
  }
  Task<Result<>> remove(std::string name) override {
    co_await delay();
    auto found = machines_.find(name);
    if (found == machines_.end()) co_return Result<>();
    if (failing(found->second.zone)) co_return Error(Code::kUnavailable, "machine " + name + " cannot be reached");
    setPower(name, false);
    timers_.erase(name);
    machines_.erase(name);
    tell(name);
    co_return Result<>();
  }
  Task<Result<>> restart(std::string name) override {
    co_await delay();
    auto found = machines_.find(name);
    if (found == machines_.end()) co_return Error(Code::kNotFound, "no machine " + name);
    if (failing(found->second.zone)) co_return Error(Code::kUnavailable, "machine " + name + " cannot be reached");
    setPower(name, false);
    timers_[name] = loop_.after(some(), [this, name] { setPower(name, true); });
    co_return Result<>();
  }
  Task<Result<std::vector<MachineInfo>>> list(std::string zone) override {
    co_await delay();
    if (!unreached && !zone.empty() && !zones.contains(zone)) co_return Error(Code::kNotFound, "no zone " + zone);
    if (!unreached && out.contains(zone)) co_return Error(Code::kFailedPrecondition, "zone " + zone + " is out");
    if (failing(zone)) co_return Error(Code::kUnavailable, "zone " + zone + " does not answer");
    std::vector<MachineInfo> all;
    for (const auto& [name, info] : machines_) {
      if (zone.empty() ? !out.contains(info.zone) : info.zone == zone) all.push_back(info);
    }
    co_return all;
  }
  std::unique_ptr<Subscription> subscribe(Changed changed) override {
    const uint64_t id = ++last_;
    listeners_[id] = std::move(changed);
    struct Entry final : Subscription {
      Entry(FakeMachineProvider* from, uint64_t id) : from(from), id(id) {}
      ~Entry() override { from->listeners_.erase(id); }
      FakeMachineProvider* from;
      uint64_t id;
    };
    return std::make_unique<Entry>(this, id);
  }

 private:
  Task<> delay() { return loop_.sleep(std::chrono::milliseconds(1 + loop_.random() % 50)); }
  Duration some() {
    const auto most = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(slowest).count());
    return std::chrono::milliseconds(300 + loop_.random() % std::max<uint64_t>(most, 1));
  }
  bool failing(const std::string& zone) {
    return unreached || out.contains(zone) || (faults != 0 && loop_.random() % faults == 0);
  }
  void setPower(const std::string& name, bool on) {
    auto found = machines_.find(name);
    if (found == machines_.end()) return;
    const bool was = found->second.state == MachineInfo::State::kRunning;
    found->second.state = on ? MachineInfo::State::kRunning : MachineInfo::State::kStopped;
    if (was != on && onPower) onPower(requests_[name], on);
    tell(name);
  }
  // Later, and never from within a call.
  void tell(const std::string& name) {
    news_.push_back(loop_.after(std::chrono::milliseconds(loop_.random() % 200), [this, name] {
      std::vector<Changed> all;
      for (const auto& [id, listener] : listeners_) all.push_back(listener);
      for (const Changed& listener : all) listener(name);
    }));
    if (news_.size() > 1000) news_.pop_front();
  }

  Loop& loop_;
  std::map<std::string, MachineInfo> machines_;
  std::map<std::string, MachineRequest> requests_;
  std::map<std::string, Timer> timers_;
  std::deque<Timer> news_;
  std::map<uint64_t, Changed> listeners_;
  uint64_t last_ = 0;
  Gate gate_;
};

}  // namespace dhow::controllers
