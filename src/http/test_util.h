// What the tests of this folder share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdio.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/blocking.h"
#include "base/gate.h"
#include "base/strings.h"
#include "http/client.h"
#include "http/server.h"

namespace dhow::http::testing {

using namespace std::chrono_literals;

class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "dhow-http-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  std::string operator/(std::string_view name) const { return fmt::format("{}/{}", path_, name); }

 private:
  std::string path_;
};

struct Counters {
  explicit Counters(Loop& loop) : loop(loop), changed(loop) {}
  Loop& loop;
  int closed = 0;
  int handled = 0;
  int watching = 0;
  bool sawClosed = false;
  Peer lastPeer;
  Signal changed;
};

inline Task<> echoStream(std::unique_ptr<Stream> stream) {
  std::array<char, 4096> buffer;
  while (true) {
    auto n = co_await stream->read(buffer);
    if (!n.ok()) co_return;
    if (*n == 0) break;
    auto written = co_await stream->write({buffer.data(), *n});
    if (!written.ok()) co_return;
  }
  // Only after the peer's end: proves that half close works.
  auto last = co_await stream->write("<end>");
  if (last.ok()) co_await stream->shutdownWrite();
}

inline void ignore(const Result<>&) {}

// A small application: what the tests of all protocols ask for.
inline Task<> demo(std::shared_ptr<Counters> counters, Request& request, ResponseWriter& writer) {
  ++counters->handled;
  counters->lastPeer = request.peer;
  if (request.path == "/echo") {
    auto body = co_await readAll(*request.body, 256 << 20);
    Response response;
    if (!body.ok()) {
      response.status = 400;
    } else {
      response.body = std::move(*body);
    }
    response.headers.set("X-Method", request.method);
    auto sent = co_await writer.send(std::move(response));
    ignore(sent);
  } else if (request.path == "/stream") {
    // As it arrives, in chunks.
    auto started = co_await writer.start(200, {});
    std::vector<char> buffer(16 << 10);
    while (started.ok()) {
      auto n = co_await request.body->read(buffer);
      if (!n.ok() || *n == 0) break;
      started = co_await writer.write({buffer.data(), *n});
    }
    auto finished = co_await writer.finish();
    ignore(finished);
  } else if (request.path == "/large") {
    size_t size = parseUint(request.query.get("size")).value_or(0);
    auto started = co_await writer.start(200, {});
    std::string piece(100'000, 'x');
    while (started.ok() && size > 0) {
      size_t n = std::min(size, piece.size());
      size -= n;
      started = co_await writer.write(std::string_view(piece).substr(0, n));
    }
    auto finished = co_await writer.finish();
    ignore(finished);
  } else if (request.path == "/watch") {
    auto gone = std::make_shared<Signal>(counters->loop);
    bool over = false;
    writer.onClose([&over, gone, counters] {
      over = true;
      ++counters->closed;
      gone->notify();
    });
    auto started = co_await writer.start(200, {});
    if (started.ok()) started = co_await writer.write("first\n");
    ++counters->watching;
    counters->changed.notify();
    while (!over) co_await gone->wait();
    counters->sawClosed = writer.closed();
    counters->changed.notify();
  } else if (request.path == "/hijack" || request.path == "/raw") {
    Headers headers;
    if (request.path == "/raw") headers.add("Content-Type", "application/vnd.docker.raw-stream");
    auto stream = co_await writer.hijack(request.path == "/raw" ? 200 : 101, std::move(headers));
    if (stream.ok()) co_await echoStream(std::move(*stream));
  } else if (request.path == "/ignore-body") {
    auto sent = co_await writer.send({.status = 413, .body = "too much"});
    ignore(sent);
  } else if (request.path == "/broken") {
    auto started = co_await writer.start(200, {});
    if (started.ok()) started = co_await writer.write("part");
  } else if (request.path == "/none") {
    co_return;
  } else if (request.path == "/empty") {
    auto sent = co_await writer.send({.status = 204});
    ignore(sent);
  } else {
    Response response;
    response.headers.add("Content-Type", "text/plain");
    response.body = fmt::format("hello {} over {}", request.path, request.version);
    auto sent = co_await writer.send(std::move(response));
    ignore(sent);
  }
}

inline Handler demoHandler(std::shared_ptr<Counters> counters) {
  return [counters](Request& request, ResponseWriter& writer) { return demo(counters, request, writer); };
}

// A loop with the demo server on it; stop() belongs to each test's end.
struct Fixture {
  explicit Fixture(Server::Options options = {})
      : counters(std::make_shared<Counters>(loop)), server(loop, std::move(options), demoHandler(counters)) {}
  ~Fixture() { runOn(loop, server.stop()); }
  std::string listen(std::string_view scheme = "http") {
    auto port = server.listenTcp("127.0.0.1", 0);
    EXPECT_TRUE(port.ok());
    return fmt::format("{}://127.0.0.1:{}", scheme, *port);
  }
  RealLoop loop;
  TempDir dir;
  std::shared_ptr<Counters> counters;
  Server server;
};

struct CommandResult {
  int status = -1;
  std::string out;
};
inline CommandResult runCommand(const std::string& command) {
  CommandResult result;
  FILE* pipe = ::popen(command.c_str(), "r");
  if (!pipe) return result;
  char buffer[4096];
  while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) result.out.append(buffer, n);
  int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return result;
}
inline Task<CommandResult> runBeside(Loop& loop, BlockingPool& pool, std::string command) {
  auto result = co_await pool.run(loop, [command] { return runCommand(command); });
  co_return result;
}
inline bool have(const char* program) {
  return runCommand(fmt::format("command -v {} >/dev/null 2>&1", program)).status == 0;
}

// Everything until the end of the stream.
inline Task<std::string> readToEnd(Stream& stream) {
  std::string out;
  std::array<char, 4096> buffer;
  while (true) {
    auto n = co_await stream.read(buffer);
    if (!n.ok() || *n == 0) break;
    out.append(buffer.data(), *n);
  }
  co_return out;
}

// Sends `bytes` as they are, ends, and gives the answer.
inline Task<std::string> talk(Loop& loop, uint16_t port, std::string bytes, bool halfClose = true) {
  auto stream = co_await connectTcp(loop, "127.0.0.1", port, 5s);
  if (!stream.ok()) co_return "no connection";
  auto written = co_await (*stream)->write(bytes);
  if (!written.ok()) co_return "not written";
  if (halfClose) co_await (*stream)->shutdownWrite();
  auto out = co_await readToEnd(**stream);
  co_return out;
}

inline uint16_t portOf(const std::string& url) {
  return static_cast<uint16_t>(*parseUint(std::string_view(url).substr(url.rfind(':') + 1)));
}

}  // namespace dhow::http::testing
