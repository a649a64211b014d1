#include "container_record.h"

namespace dhow::node {

json::object toJson(const Terminated& ended) {
  json::object out{{"exitCode", ended.code}, {"reason", ended.reason}};
  if (ended.signal != 0) out["signal"] = ended.signal;
  if (!ended.message.empty()) out["message"] = ended.message;
  out["startedAt"] = timeValue(ended.startedAt);
  out["finishedAt"] = timeValue(ended.finishedAt);
  if (!ended.containerId.empty()) out["containerID"] = "dhow://" + ended.containerId;
  return out;
}

namespace {

std::string withoutScheme(std::string_view id) {
  constexpr std::string_view kScheme = "dhow://";
  if (id.starts_with(kScheme)) id.remove_prefix(kScheme.size());
  return std::string(id);
}

}  // namespace

std::optional<Terminated> terminatedFromJson(const json::object& state) {
  const json::object& from = object(state, {"terminated"});
  if (from.empty()) return std::nullopt;
  Terminated out;
  out.code = static_cast<int>(number(from, {"exitCode"}, 0));
  out.signal = static_cast<int>(number(from, {"signal"}, 0));
  out.reason = text(from, "reason");
  out.message = text(from, "message");
  out.startedAt = client::time(from, {"startedAt"}).value_or(WallTime());
  out.finishedAt = client::time(from, {"finishedAt"}).value_or(WallTime());
  out.containerId = withoutScheme(text(from, "containerID"));
  return out;
}

void restore(ContainerRecord& record, const json::object& status) {
  record.imageId = text(status, "imageID");
  record.id = withoutScheme(text(status, "containerID"));
  record.last = terminatedFromJson(object(status, {"lastState"}));
  const json::object& state = object(status, {"state"});
  const int64_t count = number(status, {"restartCount"}, 0);
  if (auto ended = terminatedFromJson(state)) {
    record.state = ContainerRecord::State::kExited;
    record.ended = std::move(ended);
    record.attempts = count + 1;
  } else if (const json::object& running = object(state, {"running"}); !running.empty()) {
    record.state = ContainerRecord::State::kRunning;
    record.startedAt = client::time(running, {"startedAt"}).value_or(WallTime());
    record.attempts = count + 1;
    record.ready = flag(status, {"ready"});
    record.started = flag(status, {"started"});
  } else {
    record.attempts = record.last ? count + 1 : 0;
    if (record.last) {
      // It waited for its next start; the last end is the present one again.
      record.state = ContainerRecord::State::kExited;
      record.ended = record.last;
      record.last.reset();
    }
  }
}

}  // namespace dhow::node
