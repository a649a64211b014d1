// The engine with real containers, in a network namespace, cgroup subtree and folder of its own.
#include "engine/engine.h"

#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>

#include "base/files.h"
#include "base/process.h"
#include "base/strings.h"
#include "create.h"
#include "fields.h"
#include "launch.h"
#include "runtime/log_reader.h"

namespace dhow::engine {
namespace {

using namespace std::chrono_literals;

class EngineTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    if (!pathExists("/bin/busybox")) GTEST_SKIP() << "needs busybox-static";
    // Threads that are started from here on inherit it.
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << strerror(errno);
    auto made = makeTempDir("/var/tmp", "dhow-engine-test-");
    ASSERT_TRUE(made.ok());
    dir = *made;
    pool = std::make_unique<BlockingPool>(2);
    open();
    image::AssembleOptions image;
    image.tags = {"busybox"};
    for (const char* name : {"busybox", "sh", "true", "cat", "echo", "sleep", "id", "ls", "touch", "hostname", "kill"})
      image.additions.push_back({"/bin/busybox", std::string("/bin/") + name});
    ASSERT_TRUE(writeFile(dir + "/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").ok());
    image.additions.push_back({dir + "/passwd", "/etc/passwd", false, 0644});
    image.config.env = {"PATH=/bin", "FROM_IMAGE=1"};
    image.config.cmd = {"sh"};
    auto assembled = runOn(loop, engine->images().assemble(std::move(image)));
    ASSERT_TRUE(assembled.ok()) << assembled.error().message();
  }
  void TearDown() override {
    if (engine) runOn(loop, engine->destroy());
    engine.reset();
    pool.reset();
    auto hierarchies = listDir("/sys/fs/cgroup");
    ASSERT_TRUE(hierarchies.ok());
    for (const auto& name : *hierarchies)
      EXPECT_FALSE(pathExists("/sys/fs/cgroup/" + name + cgroup())) << "a group is left in " << name;
    if (!dir.empty()) EXPECT_TRUE(removeTree(dir).ok());
  }

  static std::string cgroup() { return "/dhow-engine-test-" + std::to_string(::getpid()); }

  void open() {
    EngineOptions options;
    options.root = dir + "/root";
    options.runDir = dir + "/run";
    options.shimPath = std::string(DHOW_BINARY_DIR) + "/dhow-shim";
    options.cgroupParent = cgroup();
    options.readyNetworks = 1;
    auto started = runOn(loop, Engine::start(loop, *pool, std::move(options)));
    ASSERT_TRUE(started.ok()) << started.error().message();
    engine = std::move(*started);
  }
  void reopen() {
    runOn(loop, engine->stop());
    engine.reset();
    open();
  }

  static json::object body(const std::string& script, json::object host = {}) {
    return {{"Image", "busybox"}, {"Cmd", json::array{"sh", "-c", script}}, {"HostConfig", std::move(host)}};
  }
  Result<Engine::Created> create(json::object what, const std::string& name = "") {
    return runOn(loop, engine->create(name, std::move(what), {}));
  }
  static Task<> untilStopped(ContainerPtr container) {
    while (!container->removed && (container->state.running() || container->state.status == Status::kRestarting))
      co_await container->changed.wait();
  }
  // Creates, starts and waits. The container stays.
  ContainerPtr ran(json::object what, const std::string& name = "") {
    auto created = create(std::move(what), name);
    EXPECT_TRUE(created.ok()) << created.error().message();
    if (!created.ok()) return nullptr;
    auto container = *engine->find(created->id);
    auto started = runOn(loop, engine->startContainer(created->id));
    EXPECT_TRUE(started.ok()) << started.error().message();
    runOn(loop, untilStopped(container));
    return container;
  }
  std::string log(const ContainerPtr& container) {
    runtime::LogQuery query;
    query.path = engine->logPath(*container);
    auto reader = runtime::LogReader::open(loop, query);
    std::string out;
    while (true) {
      auto entry = (*reader)->tryNext();
      if (!entry.ok() || !*entry) return out;
      out += (*entry)->text + ((*entry)->partial ? "" : "\n");
    }
  }
  size_t foldersOfContainers() { return listDir(dir + "/root/containers")->size(); }
  // Ends of containers' networks on this side, beside those that wait in the pool.
  size_t linksOfContainers() { return engine->bridge().attachments().size(); }

  RealLoop loop;
  std::unique_ptr<BlockingPool> pool;
  std::string dir;
  std::unique_ptr<Engine> engine;
};

TEST_F(EngineTest, RunsAContainerAndKeepsItsExitCodeAndLog) {
  auto container = ran(body("echo $FROM_IMAGE $GIVEN; hostname; exit 7"));
  ASSERT_TRUE(container);
  EXPECT_EQ(container->state.exitCode, 7);
  EXPECT_EQ(container->state.status, Status::kExited);
  EXPECT_EQ(log(container), "1\n" + container->id.substr(0, 12) + "\n");
  EXPECT_FALSE(container->network.has_value());
  EXPECT_EQ(linksOfContainers(), 0u);
  auto removed = runOn(loop, engine->remove(container->id, false, false));
  ASSERT_TRUE(removed.ok()) << removed.error().message();
  EXPECT_EQ(foldersOfContainers(), 0u);
  EXPECT_TRUE(engine->images().snapshots().empty());
}

TEST_F(EngineTest, ManyLinesWithinOneSecondAllReachTheLog) {
  auto container = ran(body("i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; echo end >&2"));
  ASSERT_TRUE(container);
  auto lines = split(std::string(trim(log(container))), '\n');
  EXPECT_EQ(lines.size(), 3001u);
}

TEST_F(EngineTest, StartsAgainWithTheSameFiles) {
  auto container = ran(body("touch /mark; ls / | cat > /dev/null; echo ran"));
  ASSERT_TRUE(container);
  ASSERT_TRUE(runOn(loop, engine->startContainer(container->name)).ok());
  runOn(loop, untilStopped(container));
  EXPECT_EQ(log(container), "ran\nran\n");
  auto changes = runOn(loop, engine->images().changes(container->id));
  ASSERT_TRUE(changes.ok());
  EXPECT_TRUE(std::any_of(changes->begin(), changes->end(), [](const auto& c) { return c.path == "/mark"; }));
}

TEST_F(EngineTest, MissingCommandIsExitCode127AndHoldsNothing) {
  json::object what = body("");
  what["Cmd"] = json::array{"/no/such"};
  auto created = create(std::move(what));
  ASSERT_TRUE(created.ok());
  auto started = runOn(loop, engine->startContainer(created->id));
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.error().message().find("no such file or directory"), std::string::npos)
      << started.error().message();
  auto container = *engine->find(created->id);
  EXPECT_EQ(container->state.exitCode, 127);
  EXPECT_FALSE(container->state.running());
  EXPECT_FALSE(container->sandbox);
  EXPECT_EQ(linksOfContainers(), 0u);
}

TEST_F(EngineTest, FailedStartOfAnAutoRemovedContainerRemovesIt) {
  json::object what = body("", {{"AutoRemove", true}});
  what["Cmd"] = json::array{"/no/such"};
  auto created = create(std::move(what));
  ASSERT_TRUE(created.ok());
  EXPECT_FALSE(runOn(loop, engine->startContainer(created->id)).ok());
  EXPECT_FALSE(engine->find(created->id).ok());
  EXPECT_EQ(foldersOfContainers(), 0u);
}

TEST_F(EngineTest, AutoRemoveTakesItsVolumesAlong) {
  json::object what = body("echo x > /data/y", {{"AutoRemove", true}});
  what["Volumes"] = json::object{{"/data", json::object()}};
  auto container = ran(std::move(what));
  ASSERT_TRUE(container);
  runOn(loop, [](ContainerPtr container) -> Task<> {
    while (!container->removed) co_await container->changed.wait();
  }(container));
  EXPECT_TRUE(engine->volumes().list().empty());
  EXPECT_EQ(foldersOfContainers(), 0u);
}

TEST_F(EngineTest, NamesAreTakenOnce) {
  ASSERT_TRUE(create(body("true"), "one").ok());
  auto again = create(body("true"), "one");
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code(), Code::kConflict);
  EXPECT_TRUE(
      again.error().message().starts_with("Conflict. The container name \"/one\" is already in use by container \""));
  EXPECT_EQ(engine->containers().size(), 1u);
}

TEST_F(EngineTest, RefusedCreateLeavesNothing) {
  for (const auto& [host, why] : std::vector<std::pair<json::object, std::string>>{
           {{{"Memory", 1000}}, "Minimum memory limit allowed is 6MB"},
           {{{"LogConfig", {{"Type", "nowhere"}}}}, "logger: no log driver named 'nowhere' is registered"},
           {{{"Binds", json::array{"anonymous:relative"}}}, "mount path must be absolute"},
           {{{"Binds", json::array{"/tmp:/x:wrong"}}}, "invalid mode: wrong"},
           {{{"PortBindings", {{"99999/tcp", json::array{json::object()}}}}}, "invalid port specification"}}) {
    auto created = create(body("true", host), "refused");
    ASSERT_FALSE(created.ok());
    EXPECT_NE(created.error().message().find(why), std::string::npos) << created.error().message();
  }
  EXPECT_TRUE(engine->containers().empty());
  EXPECT_EQ(foldersOfContainers(), 0u);
  EXPECT_TRUE(engine->images().snapshots().empty());
  EXPECT_TRUE(create(body("true"), "refused").ok()) << "the name must be free again";
}

TEST_F(EngineTest, RunningContainersOutliveTheEngine) {
  auto created = create(body("i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"), "lasting");
  ASSERT_TRUE(created.ok());
  ASSERT_TRUE(runOn(loop, engine->startContainer("lasting")).ok());
  auto pid = (*engine->find("lasting"))->state.pid;
  auto startedAt = (*engine->find("lasting"))->state.startedAt;
  auto address = (*engine->find("lasting"))->network->address.str();
  reopen();
  auto container = *engine->find("lasting");
  EXPECT_EQ(container->state.status, Status::kRunning);
  EXPECT_EQ(container->state.pid, pid);
  EXPECT_EQ(container->state.startedAt, startedAt);
  ASSERT_TRUE(container->network.has_value());
  EXPECT_EQ(container->network->address.str(), address);
  EXPECT_EQ(linksOfContainers(), 1u);
  ASSERT_TRUE(runOn(loop, engine->stopContainer("lasting", "", 0)).ok());
  EXPECT_EQ(container->state.exitCode, 137);
  auto lines = split(std::string(trim(log(container))), '\n');
  for (size_t i = 0; i < lines.size(); ++i) EXPECT_EQ(lines[i], std::to_string(i));
}

TEST_F(EngineTest, AnExitWhileTheEngineIsDownIsKnownAfterwards) {
  auto created = create(body("sleep 0.2; exit 5"), "short");
  ASSERT_TRUE(runOn(loop, engine->startContainer("short")).ok());
  auto pid = (*engine->find("short"))->state.pid;
  runOn(loop, engine->stop());
  engine.reset();
  auto watch = pidfdOf(pid);
  if (watch.ok()) ASSERT_TRUE(runOn(loop, waitReadable(loop, watch->get())).ok());
  open();
  auto container = *engine->find("short");
  runOn(loop, untilStopped(container));
  EXPECT_EQ(container->state.exitCode, 5);
  EXPECT_EQ(linksOfContainers(), 0u);
}

TEST_F(EngineTest, OnFailureRestartsSoManyTimes) {
  auto container =
      ran(body("echo again; exit 3", {{"RestartPolicy", {{"Name", "on-failure"}, {"MaximumRetryCount", 2}}}}));
  ASSERT_TRUE(container);
  EXPECT_EQ(container->restartCount, 2);
  EXPECT_EQ(container->state.exitCode, 3);
  EXPECT_EQ(log(container), "again\nagain\nagain\n");
}

TEST_F(EngineTest, StopEndsARestartPolicy) {
  ASSERT_TRUE(create(body("exec sleep 100", {{"RestartPolicy", {{"Name", "always"}}}}), "always").ok());
  ASSERT_TRUE(runOn(loop, engine->startContainer("always")).ok());
  ASSERT_TRUE(runOn(loop, engine->stopContainer("always", "KILL", 5)).ok());
  auto container = *engine->find("always");
  EXPECT_EQ(container->state.status, Status::kExited);
  EXPECT_EQ(container->state.exitCode, 137);
}

TEST_F(EngineTest, NamedVolumesLastAndAreFilledFromTheImage) {
  auto container = ran(
      body("cat /etc/passwd | { read line; echo $line; }; echo kept > /etc/own", {{"Binds", json::array{"etc:/etc"}}}));
  ASSERT_TRUE(container);
  EXPECT_EQ(log(container), "root:x:0:0::/root:/bin/sh\n");
  auto second = ran(body("cat /v/own", {{"Binds", json::array{"etc:/v:ro"}}}));
  EXPECT_EQ(log(second), "kept\n");
  ASSERT_TRUE(runOn(loop, engine->remove(second->id, false, true)).ok());
  EXPECT_EQ(engine->volumes().list().size(), 1u) << "named ones stay";
}

TEST_F(EngineTest, APortIsPublishedOnce) {
  json::object host{{"PortBindings", {{"80/tcp", json::array{json::object{{"HostPort", "8080"}}}}}}};
  ASSERT_TRUE(create(body("exec sleep 100", host), "first").ok());
  ASSERT_TRUE(create(body("exec sleep 100", host), "second").ok());
  auto first = runOn(loop, engine->startContainer("first"));
  ASSERT_TRUE(first.ok()) << first.error().message();
  auto second = runOn(loop, engine->startContainer("second"));
  ASSERT_FALSE(second.ok());
  EXPECT_NE(second.error().message().find("port is already allocated"), std::string::npos) << second.error().message();
  EXPECT_EQ(linksOfContainers(), 1u);
  ASSERT_TRUE(runOn(loop, engine->remove("first", true, false)).ok());
  second = runOn(loop, engine->startContainer("second"));
  EXPECT_TRUE(second.ok()) << second.error().message();
}

TEST_F(EngineTest, ExecRunsBesideTheFirstProcess) {
  ASSERT_TRUE(create(body("exec sleep 100"), "box").ok());
  ASSERT_TRUE(runOn(loop, engine->startContainer("box")).ok());
  auto exec =
      runOn(loop, engine->createExec("box", {{"Cmd", json::array{"sh", "-c", "id -u; exit 9"}}, {"User", "web"}}));
  ASSERT_TRUE(exec.ok()) << exec.error().message();
  auto started = runOn(loop, engine->startExec(*exec, {false, false, false}, 0, 0));
  ASSERT_TRUE(started.ok()) << started.error().message();
  auto exit = runOn(loop, (*exec)->exec->wait());
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 9);
  auto missing = runOn(loop, engine->createExec("box", {{"Cmd", json::array{"nothing"}}}));
  ASSERT_TRUE(missing.ok());
  EXPECT_FALSE(runOn(loop, engine->startExec(*missing, {}, 0, 0)).ok());
  EXPECT_EQ((*missing)->exit->code, 127);
}

TEST_F(EngineTest, ConcurrentStartsAndRemovesLeaveNothing) {
  std::vector<std::string> ids;
  for (int i = 0; i < 8; ++i) {
    auto created = create(body("true"));
    ASSERT_TRUE(created.ok());
    ids.push_back(created->id);
  }
  auto all = [](Engine* engine, std::vector<std::string> ids) -> Task<> {
    Gate gate(engine->loop());
    auto one = [](Engine* engine, std::string id) -> Task<> {
      (void)co_await engine->startContainer(id);
      (void)co_await engine->remove(id, true, true);
    };
    for (const auto& id : ids) {
      gate.spawn(one(engine, id));
      gate.spawn(one(engine, id));
    }
    co_await gate.close();
  };
  runOn(loop, all(engine.get(), ids));
  EXPECT_TRUE(engine->containers().empty());
  EXPECT_EQ(foldersOfContainers(), 0u);
  EXPECT_EQ(linksOfContainers(), 0u);
}

TEST(ContainerNames, AreDockers) {
  EXPECT_TRUE(validContainerName("web-1_a.b"));
  EXPECT_FALSE(validContainerName("x"));
  EXPECT_FALSE(validContainerName("-x"));
  EXPECT_FALSE(validContainerName("a/b"));
  for (uint64_t i = 0; i < 100; ++i) EXPECT_TRUE(validContainerName(randomName(i * 7919)));
}

TEST(Fields, NumbersThatAreNoIntegersAreMissing) {
  const json::object body{{"huge", 1e300}, {"low", -1e300}, {"edge", 0x1p63}, {"part", 2.75}, {"text", "3"}};
  for (const char* name : {"huge", "low", "edge", "text"}) EXPECT_EQ(integer(body, name, 7), 7) << name;
  EXPECT_EQ(integer(body, "part"), 2);
}

TEST(Signals, AreKnownByNameAndNumber) {
  EXPECT_EQ(signalOf("SIGTERM"), SIGTERM);
  EXPECT_EQ(signalOf("kill"), SIGKILL);
  EXPECT_EQ(signalOf("15"), 15);
  EXPECT_EQ(signalOf("0"), 0);
  EXPECT_EQ(signalOf("nonsense"), 0);
  EXPECT_EQ(signalOf("1000"), 0);
}

}  // namespace
}  // namespace dhow::engine
