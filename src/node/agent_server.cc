#include "agent_server.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <csignal>

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/streaming.h"
#include "network/links.h"
#include "runtime/log_reader.h"
#include "stream_session.h"

namespace dhow::node {

namespace {

constexpr size_t kFlushAt = 32 << 10;
constexpr size_t kMostProcesses = 1000;
constexpr off_t kLongestTail = 4 << 20;

bool truthy(std::string_view value) {
  return value == "true" || value == "1";
}

int httpStatusOf(const Error& error) {
  switch (error.code()) {
    case Code::kNotFound: return 404;
    case Code::kBadRequest:
    case Code::kInvalid:
    case Code::kConflict: return 400;
    case Code::kMethodNotAllowed: return 405;
    default: return 500;
  }
}

http::Headers upgradeHeaders() {
  http::Headers headers;
  headers.set("Connection", "Upgrade");
  headers.set("Upgrade", client::streaming::kStreamUpgrade);
  return headers;
}

runtime::StreamOptions streamsOf(const http::Query& query, bool tty) {
  runtime::StreamOptions out;
  out.in = truthy(query.get("stdin"));
  out.out = truthy(query.get("stdout")) || tty;
  out.err = truthy(query.get("stderr")) && !tty;
  return out;
}

// Inside the pod's own network: what listens on its loopback can be reached.
Result<UniqueFd> connectInside(const std::string& netPath, uint16_t port) {
  ASSIGN_OR_RETURN(Netns netns, Netns::open(netPath));
  ASSIGN_OR_RETURN(UniqueFd four, socketInNetns(netns.fd(), AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  struct sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(four.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0) return four;
  const int failed = errno;
  auto six = socketInNetns(netns.fd(), AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (six.ok()) {
    struct sockaddr_in6 to6{};
    to6.sin6_family = AF_INET6;
    to6.sin6_port = htons(port);
    to6.sin6_addr = in6addr_loopback;
    if (::connect(six->get(), reinterpret_cast<sockaddr*>(&to6), sizeof to6) == 0) return std::move(*six);
  }
  return Error::fromErrno(failed, fmt::format("dial tcp 127.0.0.1:{}", port));
}

}  // namespace

AgentServer::AgentServer(Loop& loop, BlockingPool& pool, PodManager& pods, ServiceFeed& services, ingress::Edge& edge)
    : loop_(loop), pool_(pool), pods_(pods), services_(services), edge_(edge) {}

Task<> AgentServer::handle(http::Request& request, http::ResponseWriter& writer) {
  auto served = co_await serve(request, writer);
  if (served.ok() || writer.started()) co_return;
  http::Response response;
  response.status = httpStatusOf(served.error());
  response.headers.set("Content-Type", "text/plain");
  response.body = served.error().message();
  auto sent = co_await writer.send(std::move(response));
  (void)sent;
}

Task<Result<>> AgentServer::serve(http::Request& request, http::ResponseWriter& writer) {
  std::vector<std::string> path;
  for (const std::string& part : split(std::string_view(request.path).substr(1), '/')) {
    path.push_back(percentDecode(part).value_or(part));
  }
  if (path[0] == "healthz" || path[0] == "livez" || path[0] == "readyz") {
    http::Response response;
    response.body = "ok";
    co_return co_await writer.send(std::move(response));
  }
  if (request.path == client::kAppliedPath) co_return co_await applied(request, writer);
  if (request.path == client::kSessionsPath) co_return co_await sessions(request, writer);
  if (path[0] == "containerLogs" && path.size() == 4) co_return co_await logs(request, writer, std::move(path));
  if (path[0] == "exec" && path.size() == 4) co_return co_await exec(request, writer, std::move(path));
  if (path[0] == "attach" && path.size() == 4) co_return co_await attach(request, writer, std::move(path));
  if (path[0] == "portForward" && path.size() == 3) co_return co_await portForward(request, writer, std::move(path));
  if (path[0] == "stats" && path.size() == 2 && path[1] == "summary") co_return co_await summary(writer);
  if (path[0] == "metrics" && path.size() == 1) co_return co_await metrics(writer);
  if (path[0] == "logs" && path.size() == 3 && path[1] == "ingress") {
    if (path[2] == "access.log") co_return co_await edgeLog(request, writer, edge_.accessLogFile());
    if (path[2] == "waf.log") co_return co_await edgeLog(request, writer, edge_.findingsFile());
  }
  co_return Error(Code::kNotFound, "404 page not found");
}

Result<AgentServer::Target> AgentServer::targetOf(const std::vector<std::string>& path, bool running) const {
  Target target;
  target.worker = pods_.find(path[1], path[2]);
  if (target.worker == nullptr) return Error(Code::kNotFound, fmt::format("pod \"{}\" not found", path[2]));
  if (path.size() < 4) return target;
  for (const ContainerRecord& record : target.worker->containers()) {
    if (record.name == path[3]) target.record = &record;
  }
  if (target.record == nullptr) {
    return Error(Code::kBadRequest, fmt::format("container {} is not valid for pod {}", path[3], path[2]));
  }
  if (running && target.record->state != ContainerRecord::State::kRunning) {
    return Error(Code::kBadRequest, fmt::format("container not found (\"{}\"): it is not running", path[3]));
  }
  return target;
}

Task<Result<>> AgentServer::logs(http::Request& request, http::ResponseWriter& writer, std::vector<std::string> path) {
  CO_ASSIGN_OR_RETURN(Target target, targetOf(path, false));
  const bool previous = truthy(request.query.get("previous"));
  const int64_t attempt = target.record->attempts - (previous ? 2 : 1);
  if (attempt < 0) {
    if (previous) {
      co_return Error(Code::kBadRequest,
                      fmt::format("previous terminated container \"{}\" in pod \"{}\" not found", path[3], path[2]));
    }
    std::string reason = target.record->reason.empty() ? "ContainerCreating" : target.record->reason;
    for (const ContainerRecord& record : target.worker->containers()) {
      if (record.kind == ContainerRecord::Kind::kInit && !record.ended &&
          target.record->kind == ContainerRecord::Kind::kApp && target.record->reason.empty()) {
        reason = "PodInitializing";
      }
    }
    co_return Error(Code::kBadRequest,
                    fmt::format("container \"{}\" in pod \"{}\" is waiting to start: {}", path[3], path[2], reason));
  }
  runtime::LogQuery query;
  query.path = target.worker->paths().log(path[3], attempt);
  query.tail = parseUint(request.query.get("tailLines"));
  if (auto since = parseInt(request.query.get("sinceSeconds"))) query.since = loop_.wallNow() - boundedSeconds(*since);
  if (auto since = parseTime(request.query.get("sinceTime"))) query.since = *since;
  const bool runs = !previous && target.record->state == ContainerRecord::State::kRunning;
  query.follow = truthy(request.query.get("follow")) && runs;
  const bool timestamps = truthy(request.query.get("timestamps"));
  uint64_t left = parseUint(request.query.get("limitBytes")).value_or(UINT64_MAX);

  auto opened = runtime::LogReader::open(loop_, query);
  if (!opened.ok()) co_return std::move(opened).error();
  std::shared_ptr<runtime::LogReader> reader = std::move(*opened);
  uint64_t watcher = 0;
  if (query.follow) watcher = pods_.onContainerEnd(target.record->id, [reader] { reader->finish(); });
  writer.onClose([reader] { reader->close(); });
  http::Headers headers;
  headers.set("Content-Type", "text/plain");
  auto sent = co_await writer.start(200, std::move(headers));
  std::string out;
  bool lineStart = true;
  while (sent.ok() && left > 0) {
    auto entry = reader->tryNext();
    if (entry.ok() && !*entry) {
      // Nothing more for now: what there is goes out before waiting.
      if (!out.empty()) sent = co_await writer.write(out);
      out.clear();
      if (!query.follow || !sent.ok()) break;
      entry = co_await reader->next();
    }
    if (!entry.ok() || !*entry) break;
    std::string line;
    if (timestamps && lineStart) line = formatTimeNano((*entry)->time) + " ";
    line += (*entry)->text;
    lineStart = !(*entry)->partial;
    if (lineStart) line += '\n';
    if (line.size() > left) line.resize(left);
    left -= line.size();
    out += line;
    if (out.size() >= kFlushAt) {
      sent = co_await writer.write(out);
      out.clear();
    }
  }
  if (watcher != 0) pods_.forget(watcher);
  if (sent.ok() && !out.empty()) sent = co_await writer.write(out);
  if (!sent.ok()) co_return sent;
  co_return co_await writer.finish();
}

namespace {

Task<> killExec(std::shared_ptr<runtime::Exec> exec) {
  auto sent = co_await exec->signal(SIGKILL);
  (void)sent;
}

Task<Result<runtime::ExitInfo>> waitExec(std::shared_ptr<runtime::Exec> exec) {
  auto exit = co_await exec->wait();
  co_return exit;
}

Task<> endStdin(std::shared_ptr<runtime::Sandbox> sandbox, std::string id, bool once) {
  if (!once) co_return;
  auto closed = co_await sandbox->closeStdin(id);
  (void)closed;
}

Task<> resizeContainer(std::shared_ptr<runtime::Sandbox> sandbox, std::string id, uint16_t rows, uint16_t columns) {
  auto done = co_await sandbox->resize(id, rows, columns);
  (void)done;
}

}  // namespace

Task<Result<>> AgentServer::exec(http::Request& request, http::ResponseWriter& writer, std::vector<std::string> path) {
  CO_ASSIGN_OR_RETURN(Target target, targetOf(path, true));
  std::vector<std::string> command;
  for (std::string_view word : request.query.getAll("command")) command.emplace_back(word);
  if (command.empty()) co_return Error(Code::kBadRequest, "you must specify at least 1 command for the container");
  const bool tty = truthy(request.query.get("tty"));
  const runtime::StreamOptions streams = streamsOf(request.query, tty);
  const std::string id = target.record->id;
  const std::shared_ptr<runtime::Sandbox> sandbox = target.worker->sandbox();
  auto process = co_await target.worker->processFor(path[3], std::move(command));
  if (!process.ok()) co_return std::move(process).error();
  process->terminal = tty;
  if (tty && std::none_of(process->env.begin(), process->env.end(),
                          [](const std::string& e) { return e.starts_with("TERM="); })) {
    process->env.push_back("TERM=xterm");
  }
  auto started = co_await sandbox->exec(id, std::move(*process), streams);
  if (!started.ok()) {
    // kubectl shows this as the command's own failure: the stream is opened and the Status sent on it.
    const bool missing = started.error().is(Code::kNotFound) || started.error().is(Code::kPermissionDenied);
    if (!missing) co_return std::move(started).error();
    auto connection = co_await writer.hijack(101, upgradeHeaders());
    if (!connection.ok()) co_return std::move(connection).error();
    const std::string frame =
        client::streaming::encodeFrame(client::streaming::Channel::kError, exitStatus(started.error()));
    auto told = co_await (*connection)->write(frame);
    (void)told;
    co_await (*connection)->shutdownWrite();
    (*connection)->close();
    co_return Result<>();
  }
  std::shared_ptr<runtime::Exec> exec = std::move(*started);
  auto connection = co_await writer.hijack(101, upgradeHeaders());
  if (!connection.ok()) {
    co_await killExec(exec);
    co_return std::move(connection).error();
  }
  SessionHooks hooks;
  hooks.resize = [exec](uint16_t rows, uint16_t columns) { (void)exec->resize(rows, columns); };
  hooks.wait = [exec] { return waitExec(exec); };
  hooks.clientGone = [exec] { return killExec(exec); };
  co_await runSession(loop_, std::move(*connection), std::move(exec->streams), std::move(hooks));
  co_return Result<>();
}

Task<Result<>> AgentServer::attach(http::Request& request, http::ResponseWriter& writer,
                                   std::vector<std::string> path) {
  CO_ASSIGN_OR_RETURN(Target target, targetOf(path, true));
  const json::object& spec = object(target.worker->pod()->root(), {"spec"});
  const json::object* container = named(array(spec, {"containers"}), path[3]);
  const bool tty = container != nullptr && flag(*container, {"tty"});
  const bool once = container != nullptr && flag(*container, {"stdinOnce"});
  const std::string id = target.record->id;
  const std::shared_ptr<runtime::Sandbox> sandbox = target.worker->sandbox();
  auto attached = co_await sandbox->attach(id, streamsOf(request.query, tty));
  if (!attached.ok()) co_return std::move(attached).error();
  auto connection = co_await writer.hijack(101, upgradeHeaders());
  if (!connection.ok()) co_return std::move(connection).error();
  SessionHooks hooks;
  Gate gate(loop_);
  hooks.resize = [sandbox, id, &gate](uint16_t rows, uint16_t columns) {
    gate.spawn(resizeContainer(sandbox, id, rows, columns));
  };
  hooks.stdinEnded = [sandbox, id, once] { return endStdin(sandbox, id, once); };
  co_await runSession(loop_, std::move(*connection), std::move(*attached), std::move(hooks));
  co_await gate.close();
  co_return Result<>();
}

Task<Result<>> AgentServer::portForward(http::Request& request, http::ResponseWriter& writer,
                                        std::vector<std::string> path) {
  CO_ASSIGN_OR_RETURN(Target target, targetOf(path, false));
  auto port = parseUint(request.query.get("port"));
  if (!port || *port == 0 || *port > 65535) co_return Error(Code::kBadRequest, "port must be a number from 1 to 65535");
  const std::shared_ptr<runtime::Sandbox> sandbox = target.worker->sandbox();
  if (!sandbox) co_return Error(Code::kBadRequest, fmt::format("pod {} is not running", path[2]));
  const std::string netPath = hostNetworkOf(target.worker->pod()->root()) ? "/proc/self/ns/net" : sandbox->netPath();
  const auto number = static_cast<uint16_t>(*port);
  auto fd = co_await pool_.run(loop_, [netPath, number] { return connectInside(netPath, number); });
  if (!fd.ok()) co_return std::move(fd).error();
  auto connection = co_await writer.hijack(101, upgradeHeaders());
  if (!connection.ok()) co_return std::move(connection).error();
  auto inside = http::adoptFd(loop_, fd->release());
  co_await http::pipeBoth(loop_, std::move(*connection), std::move(inside));
  co_return Result<>();
}

Task<Result<>> AgentServer::sessions(http::Request& request, http::ResponseWriter& writer) {
  auto report = co_await edge_.sessions(client::sessionQuestion(request.query));
  CO_RETURN_IF_ERROR(report);
  http::Response response;
  response.headers.set("Content-Type", "application/json");
  response.body = client::encodeSessions(*report);
  co_return co_await writer.send(std::move(response));
}

Task<Result<>> AgentServer::applied(http::Request& request, http::ResponseWriter& writer) {
  const client::AppliedQuestion question = client::appliedQuestion(request.query);
  const TimePoint end = loop_.now() + question.limit;
  uint64_t revision = co_await services_.untilApplied(question.revision, question.limit);
  // Both work at once; only the waiting is one after the other.
  const uint64_t edge = co_await edge_.untilApplied(question.revision, std::max(Duration::zero(), end - loop_.now()));
  revision = std::min(revision, edge);
  http::Response response;
  response.headers.set("Content-Type", "application/json");
  response.body = client::encodeApplied(revision);
  co_return co_await writer.send(std::move(response));
}

Task<Result<>> AgentServer::summary(http::ResponseWriter& writer) {
  json::array pods;
  std::vector<std::pair<ObjectPtr, std::shared_ptr<runtime::Sandbox>>> all;
  for (PodWorker* worker : pods_.workers()) {
    if (worker->sandbox() && all.size() < kMostProcesses) all.emplace_back(worker->pod(), worker->sandbox());
  }
  for (const auto& [pod, sandbox] : all) {
    const std::string now = formatTime(loop_.wallNow());
    json::array containers;
    for (const runtime::ContainerStatus& container : sandbox->containers()) {
      auto stats = co_await sandbox->stats(container.id);
      if (!stats.ok()) continue;
      containers.push_back(
          json::object{{"name", noteOf(container.annotations, kNoteContainer)},
                       {"startTime", timeValue(container.startedAt)},
                       {"cpu", json::object{{"time", now}, {"usageCoreNanoSeconds", stats->cpuUsageNanos}}},
                       {"memory", json::object{{"time", now},
                                               {"usageBytes", stats->memoryUsage},
                                               {"workingSetBytes", stats->memoryWorkingSet},
                                               {"rssBytes", stats->memoryRss}}}});
    }
    pods.push_back(
        json::object{{"podRef", json::object{{"name", pod->name()}, {"namespace", pod->ns()}, {"uid", pod->uid()}}},
                     {"containers", std::move(containers)}});
  }
  http::Response response;
  response.headers.set("Content-Type", "application/json");
  response.body = json::serialize(json::object{{"pods", std::move(pods)}});
  co_return co_await writer.send(std::move(response));
}

Task<Result<>> AgentServer::metrics(http::ResponseWriter& writer) {
  size_t containers = 0, restarts = 0;
  for (PodWorker* worker : pods_.workers()) {
    for (const ContainerRecord& record : worker->containers()) {
      containers += record.state == ContainerRecord::State::kRunning ? 1 : 0;
      restarts += static_cast<size_t>(record.restartCount());
    }
  }
  http::Response response;
  response.headers.set("Content-Type", "text/plain; version=0.0.4");
  response.body = fmt::format(
      "# TYPE kubelet_running_pods gauge\nkubelet_running_pods {}\n"
      "# TYPE kubelet_running_containers gauge\nkubelet_running_containers {}\n"
      "# TYPE dhow_container_restarts gauge\ndhow_container_restarts {}\n",
      pods_.size(), containers, restarts);
  response.body += co_await edge_.metrics();
  co_return co_await writer.send(std::move(response));
}

// Without tailLines the whole file.
Task<Result<>> AgentServer::edgeLog(http::Request& request, http::ResponseWriter& writer, std::string path) {
  const std::optional<uint64_t> tail = parseUint(request.query.get("tailLines"));
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) co_return Error(Code::kNotFound, "this node has no such log");
  auto readFrom = [&fd, &path](off_t at, size_t most) -> Result<std::string> {
    std::string out(most, '\0');
    const ssize_t count = ::pread(fd.get(), out.data(), out.size(), at);
    if (count < 0) return Error::fromErrno("read " + path);
    out.resize(static_cast<size_t>(count));
    return out;
  };
  off_t at = 0;
  if (tail) {
    const off_t end = ::lseek(fd.get(), 0, SEEK_END);
    at = std::max<off_t>(0, end - kLongestTail);
    auto last = co_await pool_.run(loop_, [&] { return readFrom(at, static_cast<size_t>(end - at)); });
    CO_RETURN_IF_ERROR(last);
    size_t from = last->size();
    for (uint64_t lines = 0; from > 0; --from)
      if ((*last)[from - 1] == '\n' && lines++ == *tail) break;
    if (from == 0 && at > 0) from = std::min(last->find('\n') + 1, last->size());  // it begins within a line
    at += static_cast<off_t>(from);
  }
  http::Headers headers;
  headers.set("Content-Type", "text/plain");
  CO_RETURN_IF_ERROR(co_await writer.start(200, std::move(headers)));
  while (!writer.closed()) {
    auto part = co_await pool_.run(loop_, [&] { return readFrom(at, kFlushAt); });
    if (!part.ok() || part->empty()) break;
    at += static_cast<off_t>(part->size());
    CO_RETURN_IF_ERROR(co_await writer.write(*part));
  }
  if (writer.closed()) co_return Result<>();
  co_return co_await writer.finish();
}

}  // namespace dhow::node
