// What a probe or a lifecycle hook does: exec, httpGet, tcpSocket, grpc, sleep.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "exec_run.h"
#include "floors.h"
#include "json.h"
#include "probe.h"

namespace dhow::node {

struct HandlerTarget {
  json::object container;  // for port names
  std::string podIp;
  std::function<Task<Result<ExecOutcome>>(std::vector<std::string> command, Duration limit)> exec;
};

// A number, or the name of one of the container's ports. kInvalid otherwise.
Result<uint16_t> portOf(const json::object& container, const json::value* port);
// A probe's one look.
Task<ProbeOutcome> look(Connector& connector, HandlerTarget target, json::object probe);
// A postStart or preStop action; done within `limit`.
Task<Result<>> runHook(Loop& loop, Connector& connector, HandlerTarget target, json::object hook, Duration limit);

}  // namespace dhow::node
