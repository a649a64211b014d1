#include "handler.h"

#include "base/strings.h"
#include "base/time.h"
#include "base/url_host.h"

namespace dhow::node {

namespace {

Result<Connector::HttpGet> httpRequest(const HandlerTarget& target, const json::object& action) {
  Connector::HttpGet request;
  request.scheme = toLower(text(action, "scheme"));
  if (request.scheme.empty()) request.scheme = "http";
  std::string_view host = text(action, "host");
  request.host = host.empty() ? target.podIp : std::string(host);
  ASSIGN_OR_RETURN(request.port, portOf(target.container, field(action, {"port"})));
  request.path = text(action, "path");
  if (!request.path.starts_with('/')) request.path.insert(0, "/");
  for (const json::value& entry : array(action, {"httpHeaders"})) {
    if (!entry.is_object()) continue;
    request.headers.emplace_back(std::string(text(entry.get_object(), "name")),
                                 std::string(text(entry.get_object(), "value")));
  }
  return request;
}

ProbeOutcome failure(std::string message) {
  return {false, std::move(message)};
}

Task<ProbeOutcome> lookHttp(Connector& connector, const HandlerTarget& target, const json::object& action,
                            Duration limit) {
  auto request = httpRequest(target, action);
  if (!request.ok()) co_return failure(request.error().message());
  const std::string url =
      fmt::format("{}://{}:{}{}", request->scheme, urlHost(request->host), request->port, request->path);
  auto answer = co_await connector.httpGet(std::move(*request), limit);
  if (!answer.ok()) {
    // A connection that failed has told what was asked, a time limit has not.
    const std::string& said = answer.error().message();
    co_return failure(said.starts_with("Get \"") ? said : fmt::format("Get \"{}\": {}", url, said));
  }
  if (answer->status >= 200 && answer->status < 400) co_return ProbeOutcome{true, {}};
  co_return failure(fmt::format("HTTP probe failed with statuscode: {}", answer->status));
}

Task<ProbeOutcome> lookExec(const HandlerTarget& target, const json::object& action, Duration limit) {
  auto outcome = co_await target.exec(strings(array(action, {"command"})), limit);
  if (!outcome.ok()) co_return failure(outcome.error().message());
  if (outcome->timedOut) {
    co_return failure(
        fmt::format("command timed out after {}s", std::chrono::duration_cast<std::chrono::seconds>(limit).count()));
  }
  if (outcome->exit.code == 0) co_return ProbeOutcome{true, {}};
  std::string message(trim(outcome->output));
  if (message.empty()) message = fmt::format("command exited with code {}", outcome->exit.code);
  co_return failure(std::move(message));
}

}  // namespace

Result<uint16_t> portOf(const json::object& container, const json::value* port) {
  if (port != nullptr && port->is_int64() && port->get_int64() > 0 && port->get_int64() < 65536) {
    return static_cast<uint16_t>(port->get_int64());
  }
  if (port != nullptr && port->is_string()) {
    for (const json::value& entry : array(container, {"ports"})) {
      if (!entry.is_object() || text(entry.get_object(), "name") != std::string_view(port->get_string())) continue;
      return static_cast<uint16_t>(number(entry.get_object(), {"containerPort"}, 0));
    }
    auto digits = parseUint(port->get_string());
    if (digits && *digits > 0 && *digits < 65536) return static_cast<uint16_t>(*digits);
    return Error(Code::kInvalid, fmt::format("couldn't find port: \"{}\"", std::string_view(port->get_string())));
  }
  return Error(Code::kInvalid, "invalid port number");
}

Task<ProbeOutcome> look(Connector& connector, HandlerTarget target, json::object probe) {
  const Duration limit = Probe::settingsOf(probe).timeout;
  if (const json::object& action = object(probe, {"httpGet"}); !action.empty()) {
    ProbeOutcome outcome = co_await lookHttp(connector, target, action, limit);
    co_return outcome;
  }
  if (const json::object& action = object(probe, {"exec"}); !action.empty()) {
    ProbeOutcome outcome = co_await lookExec(target, action, limit);
    co_return outcome;
  }
  if (const json::object& action = object(probe, {"tcpSocket"}); !action.empty()) {
    auto port = portOf(target.container, field(action, {"port"}));
    if (!port.ok()) co_return failure(port.error().message());
    std::string host(text(action, "host"));
    if (host.empty()) host = target.podIp;
    auto connected = co_await connector.tcpConnect(host, *port, limit);
    if (connected.ok()) co_return ProbeOutcome{true, {}};
    co_return failure(fmt::format("dial tcp {}:{}: {}", urlHost(host), *port, connected.error().message()));
  }
  if (const json::object& action = object(probe, {"grpc"}); !action.empty()) {
    auto port = portOf(target.container, field(action, {"port"}));
    if (!port.ok()) co_return failure(port.error().message());
    auto served = co_await connector.grpcHealth(target.podIp, *port, std::string(text(action, "service")), limit);
    if (served.ok()) co_return ProbeOutcome{true, {}};
    co_return failure(served.error().message());
  }
  co_return failure("missing probe handler");
}

Task<Result<>> runHook(Loop& loop, Connector& connector, HandlerTarget target, json::object hook, Duration limit) {
  if (const json::object& action = object(hook, {"exec"}); !action.empty()) {
    auto outcome = co_await target.exec(strings(array(action, {"command"})), limit);
    if (!outcome.ok()) co_return std::move(outcome).error();
    if (outcome->timedOut) co_return Error(Code::kDeadlineExceeded, "command timed out");
    if (outcome->exit.code == 0) co_return Result<>();
    co_return Error(Code::kUnknown,
                    fmt::format("command exited with {}: {}", outcome->exit.code, trim(outcome->output)));
  }
  if (const json::object& action = object(hook, {"httpGet"}); !action.empty()) {
    auto request = httpRequest(target, action);
    if (!request.ok()) co_return std::move(request).error();
    auto answer = co_await connector.httpGet(std::move(*request), limit);
    if (!answer.ok()) co_return std::move(answer).error();
    if (answer->status >= 400) co_return Error(Code::kUnknown, fmt::format("http status {}", answer->status));
    co_return Result<>();
  }
  if (const json::object& action = object(hook, {"sleep"}); !action.empty()) {
    const Duration wanted = boundedSeconds(std::max<int64_t>(0, number(action, {"seconds"}, 0)));
    co_await loop.sleep(std::min(wanted, limit));
    co_return Result<>();
  }
  if (const json::object& action = object(hook, {"tcpSocket"}); !action.empty()) {
    auto port = portOf(target.container, field(action, {"port"}));
    if (!port.ok()) co_return std::move(port).error();
    auto connected = co_await connector.tcpConnect(target.podIp, *port, limit);
    co_return connected;
  }
  co_return Error(Code::kInvalid, "missing hook handler");
}

}  // namespace dhow::node
