// How long the container engine takes for create + start + exit + remove of a busybox container with a network of its
// own, a memory limit and seccomp; measured inside the engine and through Docker's API on a unix socket.
//
//   engine-bench [--runs N] [--dir DIR]      measure; everything in a network namespace and folders of its own, removed
//   at the end engine-bench --serve SOCKET --dir DIR    only serve Docker's API there (tests use that); SIGTERM leaves
//   containers, SIGUSR1 removes all
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include "base/blocking.h"
#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/process.h"
#include "base/strings.h"
#include "engine/docker_api.h"
#include "engine/engine.h"
#include "http/client.h"
#include "http/server.h"

namespace {

using namespace dhow;

struct Arguments {
  std::string serve, dir, cgroup = "/dhow-bench-" + std::to_string(::getpid());
  int runs = 200, ready = engine::EngineOptions().readyNetworks;
};

struct Bench {
  RealLoop loop;
  BlockingPool pool{4};
  Arguments arguments;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<http::Server> front;
  int code = 0;
};

std::string programFolder() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().string();
}

Task<Result<>> open(Bench* bench) {
  engine::EngineOptions options;
  options.root = bench->arguments.dir + "/root";
  options.runDir = bench->arguments.dir + "/run";
  options.shimPath = programFolder() + "/../dhow-shim";
  if (!pathExists(options.shimPath)) options.shimPath = programFolder() + "/dhow-shim";
  options.cgroupParent = bench->arguments.cgroup;
  options.readyNetworks = bench->arguments.ready;
  auto engine = co_await engine::Engine::start(bench->loop, bench->pool, std::move(options));
  CO_RETURN_IF_ERROR(engine);
  bench->engine = std::move(*engine);
  auto socket = bench->arguments.serve.empty() ? bench->arguments.dir + "/docker.sock" : bench->arguments.serve;
  bench->front = std::make_unique<http::Server>(bench->loop, http::Server::Options{.name = "docker"},
                                                engine::dockerApi(*bench->engine));
  co_return bench->front->listenUnix(socket);
}

Task<> close(Bench* bench, bool destroy) {
  if (bench->front) co_await bench->front->stop();
  if (bench->engine && destroy) co_await bench->engine->destroy();
  if (bench->engine && !destroy) co_await bench->engine->stop();
  bench->front.reset();
  bench->engine.reset();
  bench->loop.stop();
}

boost::json::object containerBody() {
  return {{"Image", "bench/busybox"},
          {"Cmd", boost::json::array{"true"}},
          {"HostConfig", {{"Memory", 64 << 20}, {"NetworkMode", "bridge"}}}};
}

struct Figures {
  std::vector<double> total, create, start, exit, remove;
  void print(const char* name) {
    auto median = [](std::vector<double> values) {
      std::sort(values.begin(), values.end());
      return values.empty() ? 0.0 : values[values.size() / 2];
    };
    auto high = [](std::vector<double> values) {
      std::sort(values.begin(), values.end());
      return values.empty() ? 0.0 : values[values.size() * 95 / 100];
    };
    std::printf("%-34s median %6.2f ms   p95 %6.2f ms", name, median(total), high(total));
    if (!create.empty())
      std::printf("   median/p95: create %.2f/%.2f, start %.2f/%.2f, exit %.2f/%.2f, remove %.2f/%.2f", median(create),
                  high(create), median(start), high(start), median(exit), high(exit), median(remove), high(remove));
    std::printf("\n");
    std::fflush(stdout);
  }
};

double millis(TimePoint from, TimePoint to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

Task<Result<>> insideOnce(Bench* bench, Figures* figures) {
  auto& engine = *bench->engine;
  auto t0 = bench->loop.now();
  auto created = co_await engine.create("", containerBody(), {});
  CO_RETURN_IF_ERROR(created);
  auto t1 = bench->loop.now();
  CO_ASSIGN_OR_RETURN(auto container, engine.find(created->id));
  auto started = co_await engine.startContainer(created->id);
  CO_RETURN_IF_ERROR(started);
  auto t2 = bench->loop.now();
  while (container->exits == 0) co_await container->changed.wait();
  auto t3 = bench->loop.now();
  auto removed = co_await engine.remove(created->id, false, false);
  CO_RETURN_IF_ERROR(removed);
  auto t4 = bench->loop.now();
  figures->total.push_back(millis(t0, t4));
  figures->create.push_back(millis(t0, t1));
  figures->start.push_back(millis(t1, t2));
  figures->exit.push_back(millis(t2, t3));
  figures->remove.push_back(millis(t3, t4));
  co_return Result<>();
}

Task<Result<http::Response>> call(http::Client* client, std::string method, std::string path, std::string body) {
  http::Request request;
  request.method = std::move(method);
  if (!body.empty()) {
    request.headers.set("Content-Type", "application/json");
    request.body = http::bodyOf(std::move(body));
  }
  auto response = co_await client->fetch("http://docker" + path, std::move(request));
  CO_RETURN_IF_ERROR(response);
  if (response->status >= 300) co_return Error(Code::kInternal, path + ": " + response->body);
  co_return response;
}

Task<Result<>> throughHttpOnce(Bench* bench, http::Client* client, Figures* figures) {
  auto t0 = bench->loop.now();
  auto created = co_await call(client, "POST", "/v1.51/containers/create", boost::json::serialize(containerBody()));
  CO_RETURN_IF_ERROR(created);
  auto id = std::string(boost::json::parse(created->body).at("Id").as_string());
  auto t1 = bench->loop.now();
  auto started = co_await call(client, "POST", "/v1.51/containers/" + id + "/start", "");
  CO_RETURN_IF_ERROR(started);
  auto t2 = bench->loop.now();
  auto ended = co_await call(client, "POST", "/v1.51/containers/" + id + "/wait", "");
  CO_RETURN_IF_ERROR(ended);
  auto t3 = bench->loop.now();
  auto removed = co_await call(client, "DELETE", "/v1.51/containers/" + id, "");
  CO_RETURN_IF_ERROR(removed);
  auto t4 = bench->loop.now();
  figures->total.push_back(millis(t0, t4));
  figures->create.push_back(millis(t0, t1));
  figures->start.push_back(millis(t1, t2));
  figures->exit.push_back(millis(t2, t3));
  figures->remove.push_back(millis(t3, t4));
  co_return Result<>();
}

Task<Result<>> measure(Bench* bench) {
  image::AssembleOptions image;
  image.tags = {"bench/busybox"};
  image.additions = {{"/bin/busybox", "/bin/busybox"}, {"/bin/busybox", "/bin/true"}};
  auto made = co_await bench->engine->images().assemble(std::move(image));
  CO_RETURN_IF_ERROR(made);
  Figures inside, http;
  for (int i = 0; i < bench->arguments.runs; ++i) {
    auto done = co_await insideOnce(bench, &inside);
    CO_RETURN_IF_ERROR(done);
  }
  inside.print("dhow, inside the engine");
  http::Client::Options options;
  options.unixSocket = bench->arguments.dir + "/docker.sock";
  http::Client client(bench->loop, std::move(options));
  for (int i = 0; i < bench->arguments.runs; ++i) {
    auto done = co_await throughHttpOnce(bench, &client, &http);
    CO_RETURN_IF_ERROR(done);
  }
  http.print("dhow, Docker's API by HTTP");
  client.close();
  co_return Result<>();
}

Task<> run(Bench* bench) {
  auto done = co_await open(bench);
  if (done.ok() && !bench->arguments.serve.empty()) co_return;
  if (done.ok()) done = co_await measure(bench);
  if (!done.ok()) {
    std::fprintf(stderr, "engine-bench: %s\n", done.error().message().c_str());
    bench->code = 1;
  }
  co_await close(bench, true);
}

// What other engines on this machine need for the same, program start included.
void printPeers(const std::string& dir, int runs) {
  auto rootfs = dir + "/bundle/rootfs";
  if (!makeDirs(rootfs + "/bin").ok() || !makeDirs(rootfs + "/proc").ok()) return;
  std::error_code ignored;
  std::filesystem::copy_file("/bin/busybox", rootfs + "/bin/true", ignored);
  const std::string config =
      R"({"ociVersion":"1.0.2","root":{"path":"rootfs"},"process":{"args":["/bin/true"],"cwd":"/"},
    "mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
    "linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"},{"type":"network"}]}})";
  if (!writeFile(dir + "/bundle/config.json", config).ok()) return;
  auto time = [&](const std::string& name, const std::vector<std::string>& command) {
    Figures figures;
    RealLoop loop;
    for (int i = 0; i < runs; ++i) {
      auto words = command;
      for (auto& word : words) {
        if (word == "@") word = "dhow-bench-" + std::to_string(::getpid()) + "-" + std::to_string(i);
      }
      auto from = loop.now();
      auto done = runCommand(words);
      if (!done.ok() || done->status.code != 0) return;
      figures.total.push_back(millis(from, loop.now()));
    }
    figures.print(name.c_str());
  };
  auto state = dir + "/peer-state";
  // Without cgroups, which crun refuses on machines that have both versions.
  time("crun run (no network, no limits)",
       {"crun", "--cgroup-manager=disabled", "--root", state, "run", "--bundle", dir + "/bundle", "@"});
  time("runc run (no network, no limits)", {"runc", "--root", state, "run", "--bundle", dir + "/bundle", "@"});
  auto fromDocker = [&](const char* program) {
    auto images = runCommand({program, "image", "inspect", "busybox"});
    if (images.ok() && images->status.code == 0)
      time(std::string(program) + " run --rm", {program, "run", "--rm", "--memory", "64m", "busybox", "true"});
  };
  fromDocker("podman");
  fromDocker("docker");
}

}  // namespace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);
  Arguments arguments;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string name = argv[i];
    if (name == "--serve")
      arguments.serve = argv[i + 1];
    else if (name == "--dir")
      arguments.dir = argv[i + 1];
    else if (name == "--cgroup")
      arguments.cgroup = argv[i + 1];
    else if (name == "--ready-networks")
      arguments.ready = std::atoi(argv[i + 1]);
    else if (name == "--runs")
      arguments.runs = std::atoi(argv[i + 1]);
  }
  log::configure(log::Level::kWarn, "");
  bool ownFolder = arguments.dir.empty();
  if (ownFolder) {
    auto made = makeTempDir("/var/tmp", "dhow-engine-bench-");
    if (!made.ok()) {
      std::fprintf(stderr, "engine-bench: %s\n", made.error().message().c_str());
      return 1;
    }
    arguments.dir = *made;
  }
  // The machine's own network is not for measurements. A served engine gets its namespace from its caller.
  if (arguments.serve.empty() && ::unshare(CLONE_NEWNET) != 0) {
    std::perror("engine-bench: a network namespace");
    return 1;
  }
  int code;
  {
    Bench bench;
    bench.arguments = arguments;
    boost::asio::signal_set signals(bench.loop.executor(), SIGTERM, SIGINT, SIGUSR1);
    if (!arguments.serve.empty()) {
      signals.async_wait([&](const boost::system::error_code& error, int signal) {
        if (!error) spawn(bench.loop, close(&bench, signal == SIGUSR1));
      });
    }
    spawn(bench.loop, run(&bench));
    bench.loop.run();
    code = bench.code;
  }
  if (arguments.serve.empty() && code == 0) printPeers(arguments.dir, std::min(arguments.runs, 50));
  if (ownFolder) (void)removeTree(arguments.dir);
  return code;
}
