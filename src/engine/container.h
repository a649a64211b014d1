// One container as its users know it: what it was created with, and how it fares. Kept in <root>/containers/<id>/:
// container.json, which is on disk before anybody is told of the container, and state.json, which is written at each
// start and end without waiting for the disk. A machine that lost its power loses the second at most.
#pragma once

#include <boost/json/object.hpp>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "base/result.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"
#include "runtime/runtime.h"

namespace dhow::engine {

enum class Status { kCreated, kRunning, kPaused, kRestarting, kRemoving, kExited, kDead };
std::string_view statusName(Status status);  // as Docker spells it

struct State {
  Status status = Status::kCreated;
  pid_t pid = 0;
  int exitCode = 0;
  bool oomKilled = false;
  std::string error;
  WallTime startedAt{};
  WallTime finishedAt{};
  bool running() const { return status == Status::kRunning || status == Status::kPaused; }
};

// What HEALTHCHECK or --health-cmd asks for; a test that is empty is none.
struct HealthPlan {
  std::vector<std::string> command;
  Duration interval{}, timeout{}, startPeriod{}, startInterval{};
  int64_t retries = 0;
};

struct Health {
  enum class Status { kStarting, kHealthy, kUnhealthy };
  struct Probe {
    WallTime start{}, end{};
    int exitCode = 0;
    std::string output;  // its beginning
  };
  HealthPlan plan;
  Status status = Status::kStarting;
  int64_t failingStreak = 0;
  std::deque<Probe> log;  // the last five
  Timer next;
  std::shared_ptr<struct HealthProbe> running;
};
std::string_view healthName(Health::Status status);  // as Docker spells it

struct MountPoint {
  std::string type;  // "bind", "volume", "tmpfs"
  std::string name;  // of a volume
  std::string source;
  std::string destination;
  std::string mode;  // as given: "ro,z"
  bool writable = true;
  std::string propagation;
  std::vector<std::pair<std::string, std::string>> options;  // of a tmpfs
};

// Tasks take turns: start, stop and remove of one container never overlap.
class Turn {
 public:
  explicit Turn(Loop& loop) : freed_(loop) {}
  class Held {
   public:
    explicit Held(Turn* turn) : turn_(turn) {}
    Held(Held&& other) noexcept : turn_(std::exchange(other.turn_, nullptr)) {}
    ~Held() {
      if (!turn_) return;
      turn_->taken_ = false;
      turn_->freed_.notify();
    }

   private:
    Turn* turn_;
  };
  Task<Held> take() {
    while (taken_) co_await freed_.wait();
    taken_ = true;
    co_return Held(this);
  }

 private:
  Signal freed_;
  bool taken_ = false;
};

struct Container {
  explicit Container(Loop& loop) : turn(loop), changed(loop) {}

  std::string id;
  std::string name;  // without the slash
  WallTime created{};
  std::string imageId;
  std::string imageName;       // as the user gave it
  boost::json::object config;  // Docker's Config, the image's own merged in
  boost::json::object hostConfig;
  std::vector<MountPoint> mounts;
  std::vector<std::string> newVolumes;  // made for it by its own creation, which may yet fail
  State state;
  int restartCount = 0;
  bool stoppedByUser = false;  // a restart policy must not undo that

  // While it runs.
  std::optional<Attachment> network;
  std::vector<PublishedPort> ports;
  std::shared_ptr<runtime::Sandbox> sandbox;

  std::unique_ptr<Health> health;  // while it runs, and as its last run left it

  // Clients that attached before the start get their streams with it.
  struct Waiting {
    runtime::StreamOptions options;
    std::optional<runtime::Streams> streams;
  };
  std::vector<std::shared_ptr<Waiting>> waiting;

  Turn turn;
  Signal changed;      // of any state
  uint64_t exits = 0;  // how many times it has ended
  uint64_t failedStarts = 0;
  bool removed = false;
  Timer restart;
  Duration restartDelay{};
  std::vector<std::weak_ptr<class ExecSession>> execs;

  bool tty() const;
  bool autoRemove() const;
};
using ContainerPtr = std::shared_ptr<Container>;

boost::json::object toRecord(const Container& container);
boost::json::object toStateRecord(const Container& container, const State& state);
// `state`: as toStateRecord() made it; empty for a container that never ran.
Result<ContainerPtr> fromRecord(Loop& loop, const boost::json::object& record, const boost::json::object& state);

}  // namespace dhow::engine
