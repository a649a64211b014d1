// attach, logs, exec, wait, stats: answers that last.
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include "api.h"
#include "base/strings.h"
#include "base/time.h"
#include "http/stream.h"
#include "runtime/log_reader.h"

namespace dhow::engine::docker {

namespace {

using namespace std::chrono_literals;

constexpr size_t kCopySize = 32 << 10;
constexpr int kMultiplexedSince = 42;  // API 1.42 names the content type
enum StreamId : char { kStdout = 1, kStderr = 2 };

// Docker's frame: stream id, three zero bytes, length in big endian.
std::string frameHeader(StreamId id, size_t length) {
  std::string header(8, '\0');
  header[0] = id;
  for (int i = 0; i < 4; ++i) header[static_cast<size_t>(4 + i)] = static_cast<char>((length >> (24 - 8 * i)) & 0xff);
  return header;
}

std::string contentType(const Call& call, bool tty) {
  return tty || call.version < kMultiplexedSince ? "application/vnd.docker.raw-stream"
                                                 : "application/vnd.docker.multiplexed-stream";
}

// Client and process, joined. Two outputs share one connection: their writes take turns.
struct Session {
  Session(Loop& loop, std::unique_ptr<http::Stream> connection, bool framed)
      : loop(loop), connection(std::move(connection)), framed(framed), outputs(loop), writing(loop) {}
  Loop& loop;
  std::unique_ptr<http::Stream> connection;
  bool framed;
  Gate outputs;
  Turn writing;
};

Task<> copyOutput(std::shared_ptr<Session> session, std::unique_ptr<http::Stream> from, StreamId id) {
  std::string buffer(kCopySize, '\0');
  while (true) {
    auto n = co_await from->read(buffer);
    if (!n.ok() || *n == 0) co_return;
    auto turn = co_await session->writing.take();
    std::string piece = session->framed ? frameHeader(id, *n) : std::string();
    piece.append(buffer, 0, *n);
    auto written = co_await session->connection->write(piece);
    if (!written.ok()) co_return;
  }
}

Task<> copyInput(std::shared_ptr<Session> session, std::unique_ptr<http::Stream> to, std::function<void()> atEnd) {
  std::string buffer(kCopySize, '\0');
  while (true) {
    auto n = co_await session->connection->read(buffer);
    if (!n.ok() || *n == 0) break;
    auto written = co_await to->write(std::string_view(buffer).substr(0, *n));
    if (!written.ok()) break;
  }
  to->close();
  to.reset();
  if (atEnd) atEnd();
}

// Moves bytes until the process has closed its outputs (and, when given, ended); then the client sees the end.
Task<> converse(Loop& loop, std::unique_ptr<http::Stream> connection, runtime::Streams streams, bool framed,
                std::function<void()> inputEnded, runtime::Exec* process = nullptr) {
  auto session = std::make_shared<Session>(loop, std::move(connection), framed);
  Gate inputs(loop);
  bool readsOutput = streams.out || streams.err;
  if (streams.in) inputs.spawn(copyInput(session, http::adoptFd(loop, streams.in.release()), std::move(inputEnded)));
  if (streams.out) session->outputs.spawn(copyOutput(session, http::adoptFd(loop, streams.out.release()), kStdout));
  if (streams.err) session->outputs.spawn(copyOutput(session, http::adoptFd(loop, streams.err.release()), kStderr));
  co_await session->outputs.close();
  // Without an output to wait for, the input's end is the end.
  if (!readsOutput) co_await inputs.close();
  // The client asks for the exit code as soon as the connection ends.
  if (process) (void)co_await process->wait();
  co_await session->connection->shutdownWrite();
  session->connection->close();
  co_await inputs.close();
}

Task<Result<std::unique_ptr<http::Stream>>> takeConnection(Call& call, bool tty) {
  http::Headers headers;
  headers.set("Content-Type", contentType(call, tty));
  bool upgrade = call.request.headers.hasToken("Connection", "upgrade");
  if (upgrade) {
    headers.set("Connection", "Upgrade");
    headers.set("Upgrade", "tcp");
  }
  auto connection = co_await call.writer.hijack(upgrade ? 101 : 200, std::move(headers));
  co_return connection;
}

Task<> endInput(Engine* engine, ContainerPtr container) {
  if (!container->sandbox || !container->state.running()) co_return;
  auto sandbox = container->sandbox;
  (void)co_await sandbox->closeStdin(container->id);
}

Task<Result<>> writeLogs(Call& call, const Container& container, http::Stream& out, bool wantOut, bool wantErr) {
  runtime::LogQuery query;
  query.path = call.engine.logPath(container);
  CO_ASSIGN_OR_RETURN(auto reader, runtime::LogReader::open(call.engine.loop(), query));
  while (true) {
    CO_ASSIGN_OR_RETURN(auto entry, reader->tryNext());
    if (!entry) co_return Result<>();
    if (!(entry->error ? wantErr : wantOut)) continue;
    if (!entry->partial) entry->text += container.tty() ? "\r\n" : "\n";
    auto piece =
        container.tty() ? entry->text : frameHeader(entry->error ? kStderr : kStdout, entry->text.size()) + entry->text;
    auto written = co_await out.write(piece);
    CO_RETURN_IF_ERROR(written);
  }
}

Task<Result<>> attach(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  runtime::StreamOptions options{call.flag("stdin"), call.flag("stdout"), call.flag("stderr")};
  bool stream = call.flag("stream"), logs = call.flag("logs");
  if (!stream && !logs) co_return Error(Code::kBadRequest, "at least one of stream or logs is needed");
  if (container->state.status == Status::kPaused)
    co_return Error(Code::kConflict,
                    fmt::format("container {} is paused, unpause the container before attach", container->id));
  auto connection = co_await takeConnection(call, container->tty());
  CO_RETURN_IF_ERROR(connection);
  if (logs) {
    auto written = co_await writeLogs(call, *container, **connection, options.out, options.err);
    CO_RETURN_IF_ERROR(written);
  }
  if (!stream) {
    co_await (*connection)->shutdownWrite();
    co_return Result<>();
  }
  if (!boolean(container->config, "OpenStdin")) options.in = false;
  bool once = boolean(container->config, "StdinOnce");
  auto streams = co_await call.engine.attach(container, options);
  if (!streams.ok()) {
    (*connection)->close();
    co_return Result<>();
  }
  std::function<void()> ended;
  if (once) ended = [engine = &call.engine, container] { spawn(engine->loop(), endInput(engine, container)); };
  co_await converse(call.engine.loop(), std::move(*connection), std::move(*streams), !container->tty(),
                    std::move(ended));
  co_return Result<>();
}

// Ends the reader when the container ends.
Task<> finishWithContainer(ContainerPtr container, uint64_t exits, std::shared_ptr<runtime::LogReader> reader,
                           std::shared_ptr<bool> done) {
  while (!*done && !container->removed && container->exits == exits && container->state.running())
    co_await container->changed.wait();
  reader->finish();
}

Task<Result<>> logs(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  bool wantOut = call.flag("stdout"), wantErr = call.flag("stderr"), stamps = call.flag("timestamps");
  if (!wantOut && !wantErr) co_return Error(Code::kBadRequest, "Bad parameters: you must choose at least one stream");
  runtime::LogQuery query;
  query.path = call.engine.logPath(*container);
  query.follow = call.flag("follow") && container->state.running();
  query.since = call.time("since");
  if (call.query("until") != "0") query.until = call.time("until");  // "0": no end
  if (auto tail = call.query("tail"); !tail.empty() && tail != "all") {
    auto lines = parseInt(tail);
    if (lines && *lines >= 0) query.tail = static_cast<uint64_t>(*lines);
  }
  CO_ASSIGN_OR_RETURN(std::shared_ptr<runtime::LogReader> reader, runtime::LogReader::open(call.engine.loop(), query));
  auto done = std::make_shared<bool>(false);
  call.writer.onClose([reader, done] { reader->close(); });
  http::Headers headers;
  headers.set("Content-Type", contentType(call, container->tty()));
  auto started = co_await call.writer.start(200, std::move(headers));
  CO_RETURN_IF_ERROR(started);
  if (query.follow) spawn(call.engine.loop(), finishWithContainer(container, container->exits, reader, done));
  bool continued = false;
  Result<> result;
  while (true) {
    auto entry = co_await reader->next();
    if (!entry.ok() || !*entry) break;
    auto& line = **entry;
    if (!(line.error ? wantErr : wantOut)) continue;
    std::string piece = stamps && !continued ? formatTimeNano(line.time) + " " : "";
    piece += line.text;
    if (!line.partial) piece += container->tty() ? "\r\n" : "\n";
    continued = line.partial;
    if (!container->tty()) piece.insert(0, frameHeader(line.error ? kStderr : kStdout, piece.size()));
    result = co_await call.writer.write(piece);
    if (!result.ok()) break;
  }
  *done = true;
  container->changed.notify();
  if (result.ok()) result = co_await call.writer.finish();
  co_return result;
}

Task<Result<>> wait(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  auto condition = call.query("condition");
  if (condition.empty()) condition = "not-running";
  if (condition != "not-running" && condition != "next-exit" && condition != "removed")
    co_return Error(Code::kBadRequest, "invalid condition: \"" + condition + "\"");
  // Clients start the container only once these headers have come.
  http::Headers headers;
  headers.set("Content-Type", "application/json");
  uint64_t before = container->exits, failuresBefore = container->failedStarts;
  auto started = co_await call.writer.start(200, std::move(headers));
  CO_RETURN_IF_ERROR(started);
  auto gone = std::make_shared<bool>(false);
  call.writer.onClose([gone, container] {
    *gone = true;
    container->changed.notify();
  });
  auto holds = [&] {
    if (container->removed || *gone) return true;
    if (condition == "removed") return false;
    if (condition == "next-exit") return container->exits != before || container->failedStarts != failuresBefore;
    return !container->state.running() && container->state.status != Status::kRestarting;
  };
  while (!holds()) co_await container->changed.wait();
  if (*gone) co_return Result<>();
  auto line = json::serialize(json::object{{"StatusCode", container->state.exitCode}}) + "\n";
  auto written = co_await call.writer.write(line);
  CO_RETURN_IF_ERROR(written);
  auto finished = co_await call.writer.finish();
  co_return finished;
}

Task<Result<>> createExec(Call& call) {
  auto body = co_await call.body();
  CO_RETURN_IF_ERROR(body);
  auto session = co_await call.engine.createExec(call.args[0], std::move(*body));
  CO_RETURN_IF_ERROR(session);
  auto replied = co_await call.reply(201, json::object{{"Id", (*session)->id}});
  co_return replied;
}

Task<Result<>> startExec(Call& call) {
  CO_ASSIGN_OR_RETURN(auto session, call.engine.findExec(call.args[0]));
  auto body = co_await call.body();
  CO_RETURN_IF_ERROR(body);
  bool tty = boolean(session->config, "Tty");
  runtime::StreamOptions options;
  bool detach = boolean(*body, "Detach");
  if (!detach)
    options = {boolean(session->config, "AttachStdin"), boolean(session->config, "AttachStdout"),
               !tty && boolean(session->config, "AttachStderr")};
  uint16_t rows = 0, columns = 0;
  if (const auto& size = list(*body, "ConsoleSize"); size.size() == 2 && size[0].is_int64() && size[1].is_int64()) {
    rows = static_cast<uint16_t>(size[0].get_int64());
    columns = static_cast<uint16_t>(size[1].get_int64());
  }
  if (session->started)
    co_return Error(Code::kConflict, fmt::format("Error: Exec command {} is already running", session->id));
  if (detach) {
    auto started = co_await call.engine.startExec(session, options, rows, columns);
    CO_RETURN_IF_ERROR(started);
    auto replied = co_await call.reply(200);
    co_return replied;
  }
  auto connection = co_await takeConnection(call, tty);
  CO_RETURN_IF_ERROR(connection);
  auto started = co_await call.engine.startExec(session, options, rows, columns);
  if (!started.ok()) {
    // The connection is the client's already: it reads the reason as output.
    auto message =
        "OCI runtime exec failed: exec failed: unable to start container process: " + started.error().message() +
        (tty ? "\r\n" : "\n");
    auto piece = tty ? message : frameHeader(kStderr, message.size()) + message;
    (void)co_await (*connection)->write(piece);
    co_await (*connection)->shutdownWrite();
    co_return Result<>();
  }
  co_await converse(call.engine.loop(), std::move(*connection), std::move(session->exec->streams), !tty, nullptr,
                    session->exec.get());
  co_return Result<>();
}

Task<Result<>> inspectExec(Call& call) {
  CO_ASSIGN_OR_RETURN(auto session, call.engine.findExec(call.args[0]));
  // The outputs' end and the exit are two events: a client that saw the first asks now for the second.
  if (session->exec && !session->exit) {
    auto exit = session->exec->exit();
    if (exit) session->exit = exit;
  }
  auto command = texts(session->config, "Cmd");
  std::string entry = command.empty() ? "" : command[0];
  if (!command.empty()) command.erase(command.begin());
  json::object out{{"ID", session->id},
                   {"Running", session->running()},
                   {"ExitCode", session->exit ? json::value(session->exit->code) : json::value(nullptr)},
                   {"ProcessConfig",
                    {{"tty", boolean(session->config, "Tty")},
                     {"entrypoint", entry},
                     {"arguments", toJson(command)},
                     {"privileged", boolean(session->config, "Privileged")},
                     {"user", text(session->config, "User")}}},
                   {"OpenStdin", boolean(session->config, "AttachStdin")},
                   {"OpenStderr", boolean(session->config, "AttachStderr")},
                   {"OpenStdout", boolean(session->config, "AttachStdout")},
                   {"CanRemove", !session->running()},
                   {"ContainerID", session->containerId},
                   {"DetachKeys", ""},
                   {"Pid", session->exec ? session->exec->pid() : 0}};
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> resizeExec(Call& call) {
  CO_ASSIGN_OR_RETURN(auto session, call.engine.findExec(call.args[0]));
  auto rows = parseUint(call.query("h")), columns = parseUint(call.query("w"));
  if (!rows || !columns || *rows > 65535 || *columns > 65535)
    co_return Error(Code::kBadRequest, "invalid resize height or width");
  if (!session->exec) co_return Error(Code::kConflict, "exec " + session->id + " has not been started");
  CO_RETURN_IF_ERROR(session->exec->resize(static_cast<uint16_t>(*rows), static_cast<uint16_t>(*columns)));
  auto replied = co_await call.reply(200);
  co_return replied;
}

json::object statsJson(const Container& container, const runtime::Stats& stats, WallTime now) {
  auto cpu = [](const runtime::Stats& s) {
    return json::object{{"cpu_usage",
                         {{"total_usage", s.cpuUsageNanos},
                          {"usage_in_kernelmode", s.cpuSystemNanos},
                          {"usage_in_usermode", s.cpuUserNanos}}},
                        {"online_cpus", ::sysconf(_SC_NPROCESSORS_ONLN)},
                        {"throttling_data",
                         {{"periods", s.cpuPeriods},
                          {"throttled_periods", s.cpuThrottledPeriods},
                          {"throttled_time", s.cpuThrottledNanos}}}};
  };
  auto systemNanos = std::chrono::duration_cast<std::chrono::nanoseconds>(now.time_since_epoch()).count() *
                     ::sysconf(_SC_NPROCESSORS_ONLN);
  auto cpuNow = cpu(stats);
  cpuNow["system_cpu_usage"] = systemNanos;
  return {{"read", formatTimeNano(now)},
          {"name", "/" + container.name},
          {"id", container.id},
          {"num_procs", 0},
          {"pids_stats", {{"current", stats.pids}, {"limit", stats.pidsLimit}}},
          {"cpu_stats", std::move(cpuNow)},
          {"memory_stats",
           {{"usage", stats.memoryUsage},
            {"max_usage", stats.memoryMaxUsage},
            {"limit", stats.memoryLimit},
            {"failcnt", stats.memoryFailCount},
            {"stats",
             {{"total_inactive_file", stats.memoryInactiveFile},
              {"inactive_file", stats.memoryInactiveFile},
              {"cache", stats.memoryCache},
              {"rss", stats.memoryRss}}}}},
          {"blkio_stats",
           {{"io_service_bytes_recursive",
             json::array{json::object{{"major", 0}, {"minor", 0}, {"op", "read"}, {"value", stats.ioReadBytes}},
                         json::object{{"major", 0}, {"minor", 0}, {"op", "write"}, {"value", stats.ioWriteBytes}}}}}}};
}

// One object a second, each with the one before it as its reference.
Task<Result<>> stats(Call& call) {
  CO_ASSIGN_OR_RETURN(auto container, call.engine.find(call.args[0]));
  bool stream = call.flag("stream", true);
  auto& loop = call.engine.loop();
  http::Headers headers;
  headers.set("Content-Type", "application/json");
  auto started = co_await call.writer.start(200, std::move(headers));
  CO_RETURN_IF_ERROR(started);
  json::object before;
  bool needsReference = !stream && !call.flag("one-shot");
  while (!call.writer.closed()) {
    runtime::Stats now;
    if (auto sandbox = container->sandbox; sandbox && container->state.running()) {
      auto taken = co_await sandbox->stats(container->id);
      if (taken.ok()) now = *taken;
    }
    auto out = statsJson(*container, now, loop.wallNow());
    auto cpu = out["cpu_stats"].get_object();
    out["precpu_stats"] = before.empty() ? json::value(json::object()) : json::value(before["cpu_stats"]);
    out["preread"] = before.empty() ? json::value("0001-01-01T00:00:00Z") : before["read"];
    bool silent = needsReference && before.empty();
    if (!silent) {
      auto line = json::serialize(out) + "\n";
      auto written = co_await call.writer.write(line);
      CO_RETURN_IF_ERROR(written);
      if (!stream) break;
    }
    before = json::object{{"cpu_stats", std::move(cpu)}, {"read", out["read"]}};
    co_await loop.sleep(1s);
  }
  auto finished = co_await call.writer.finish();
  co_return finished;
}

constexpr Route kRoutes[] = {
    {"POST", "/containers/{}/attach", attach},   {"GET", "/containers/{}/logs", logs},
    {"POST", "/containers/{}/wait", wait},       {"GET", "/containers/{}/stats", stats},
    {"POST", "/containers/{}/exec", createExec}, {"POST", "/exec/{}/start", startExec},
    {"GET", "/exec/{}/json", inspectExec},       {"POST", "/exec/{}/resize", resizeExec},
};

}  // namespace

std::span<const Route> streamRoutes() {
  return kRoutes;
}

}  // namespace dhow::engine::docker
