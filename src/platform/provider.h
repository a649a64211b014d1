// The machines of a region, as a cloud's API gives them: made, started, stopped, removed and listed by name, and cut
// from their network for drills. One process of a cluster holds it at a time (kFailedPrecondition else). What is asked
// of one machine at once happens one after the other. The machines outlive it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "platform/config.h"
#include "platform/machines.h"
#include "platform/programs.h"

namespace dhow::platform {

struct MachineInfo {
  std::string name;
  bool master = false;
  std::string zone, address;
  bool made = false;      // it has been started once; planned ones are listed before that
  bool starting = false;  // just now
  bool running = false;
  int pid = 0;        // of its PID 1 on this host; 0 when stopped
  bool cut = false;   // its link or its zone's is down
  bool held = false;  // stopped because somebody asked for that
  std::string pool, version;
  std::string program;  // what its role runs (programs.h); empty while it does not
};

struct ZoneInfo {
  std::string name;
  bool up = true;
};

class Provider {
 public:
  static Task<Result<std::unique_ptr<Provider>>> open(Loop& loop, BlockingPool& pool, const ClusterConfig& config,
                                                      Programs programs);
  ~Provider();

  // Planned ones (config.h) and those that were made here, masters first.
  Task<Result<std::vector<MachineInfo>>> list();
  std::vector<ZoneInfo> zones() const;
  // Makes a node and starts it; its address is the region's choice. One that is there is left as it is (one that `up`
  // started takes over pool and version), and is kConflict in another zone. kUnavailable while the zone is cut off.
  Task<Result<>> create(std::string name, std::string zone, NodeTraits traits);
  // Starting what runs and stopping what does not is fine. kNotFound when there is no such machine.
  Task<Result<>> start(std::string name);
  Task<Result<>> stop(std::string name, Duration grace);
  // As when its power fails, and comes back at once with restart().
  Task<Result<>> kill(std::string name);
  Task<Result<>> restart(std::string name);
  // Ends a machine's role; PID 1 starts it again from `program`, and everything else in the machine goes on. What runs
  // it already is left alone, and one that is stopped starts from it later.
  Task<Result<>> replace(std::string name, std::string program);
  // Ends a node and forgets it with all its data; missing is fine. Masters are kInvalid: `down` removes them.
  Task<Result<>> remove(std::string name);
  Task<Result<>> setLink(std::string name, bool up);
  Task<Result<>> setZone(std::string zone, bool up);
  // Ends all machines and removes their links and cgroups; data stays.
  Task<Result<>> removeAll();
  // `changed` is called, on the loop, with the name of each machine that was made, started, ended or removed; with an
  // empty name when any may have changed.
  void onChange(std::function<void(const std::string& name)> changed);
  // Something else about the machine has changed: tells them.
  void tellChange(const std::string& name);
  Task<> close();

 private:
  struct Rep;
  explicit Provider(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::platform
