// What the agent knows of one container of a pod: its present attempt and how the last one ended.
#pragma once

#include <optional>
#include <string>

#include "backoff.h"
#include "base/loop.h"
#include "json.h"

namespace dhow::node {

struct Terminated {
  int code = 0;
  int signal = 0;
  std::string reason, message;
  WallTime startedAt{}, finishedAt{};
  std::string containerId;
};

struct ContainerRecord {
  enum class Kind { kInit, kSidecar, kApp };
  // kStarting: an image is fetched or the process is being started.
  enum class State { kWaiting, kStarting, kRunning, kExited };

  std::string name;
  Kind kind = Kind::kApp;
  State state = State::kWaiting;
  std::string reason, message;      // kWaiting: why; empty: ContainerCreating or PodInitializing
  std::string id;                   // in the runtime
  std::string image, imageId;       // as named, and as pulled
  int64_t attempts = 0;             // started so far; the present one has the number attempts - 1
  WallTime startedAt{};             // kRunning
  std::optional<Terminated> ended;  // kExited
  std::optional<Terminated> last;   // of the attempt before
  bool ready = false;
  bool started = false;   // kRunning, and past its post-start hook and startup probe
  bool hookDone = false;  // the post-start hook has ended
  bool replaced = false;  // its definition changed: started anew whatever the restart policy says
  bool stopping = false;  // a stop is under way
  Backoff restarts, pulls;
  TimePoint failedAt{};       // when the present waiting or exited state began
  bool pullFailed = false;    // kWaiting because of the image
  bool configFailed = false;  // kWaiting because of something that may appear later

  int64_t restartCount() const { return attempts > 0 ? attempts - 1 : 0; }
  bool live() const { return state == State::kRunning || state == State::kStarting; }
};

json::object toJson(const Terminated& ended);
std::optional<Terminated> terminatedFromJson(const json::object& state);
// Takes over what a status written earlier says: attempts, the last end, image. `running` in it becomes an end
// without a known exit; adoption corrects that for those that do run.
void restore(ContainerRecord& record, const json::object& containerStatus);

}  // namespace dhow::node
