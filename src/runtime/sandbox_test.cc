// Streams, logs, life and death of sandboxes, and what is left afterwards.
#include <fcntl.h>
#include <signal.h>

#include <poll.h>
#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "sandbox.h"
#include "test_world.h"

namespace dhow::runtime {
namespace {

std::string readUntil(int fd, const std::string& text) {
  std::string out;
  char buffer[4096];
  while (out.find(text) == std::string::npos) {
    pollfd polled{fd, POLLIN, 0};
    if (::poll(&polled, 1, 10000) <= 0) break;
    ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n <= 0) break;
    out.append(buffer, static_cast<size_t>(n));
  }
  return out;
}

size_t openFds() {
  return listDir("/proc/self/fd")->size();
}
// Others mount and unmount on the same machine.
size_t mountsBelow(const std::string& dir) {
  auto lines = split(*readFile("/proc/self/mountinfo"), '\n');
  return static_cast<size_t>(
      std::count_if(lines.begin(), lines.end(), [&](const auto& line) { return line.find(dir) != std::string::npos; }));
}

TEST(Sandbox, TerminalHasOneStreamAndResizes) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("ls -l /proc/self/fd/0; read line; stty size; echo again:$line");
  spec.process.terminal = true;
  spec.process.rows = 30;
  spec.process.columns = 90;
  spec.stdinOpen = true;
  auto started = runOn(world.loop, box->start(spec, {{true, true, true}}));
  ASSERT_TRUE(started.ok()) << started.error().message();
  auto& streams = started->streams[0];
  ASSERT_TRUE(streams.in);
  EXPECT_NE(readUntil(streams.out.get(), "/dev/pts/0").find("/dev/pts/0"), std::string::npos);
  ASSERT_TRUE(runOn(world.loop, box->resize(spec.id, 50, 132)).ok());
  ASSERT_EQ(::write(streams.in.get(), "hey\n", 4), 4);
  std::string out = World::drain(streams.out.get());
  EXPECT_NE(out.find("50 132\r\nagain:hey\r\n"), std::string::npos) << out;
  EXPECT_EQ(World::drain(streams.err.get()), "");
}

TEST(Sandbox, StandardInputReachesTheContainerUntilClosed) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("cat; echo end");
  spec.stdinOpen = true;
  auto started = runOn(world.loop, box->start(spec, {{true, true, false}}));
  ASSERT_TRUE(started.ok());
  auto& streams = started->streams[0];
  ASSERT_EQ(::write(streams.in.get(), "one\n", 4), 4);
  EXPECT_EQ(readUntil(streams.out.get(), "one\n"), "one\n");
  auto second = runOn(world.loop, box->attach(spec.id, {true, true, false}));
  ASSERT_TRUE(second.ok()) << second.error().message();
  ASSERT_EQ(::write(second->in.get(), "two\n", 4), 4);
  EXPECT_EQ(readUntil(streams.out.get(), "two\n"), "two\n");
  EXPECT_EQ(readUntil(second->out.get(), "two\n"), "two\n");
  streams.in.reset();
  second->in.reset();
  ASSERT_TRUE(runOn(world.loop, box->closeStdin(spec.id)).ok());
  EXPECT_EQ(World::drain(second->out.get()), "end\n");
}

TEST(Sandbox, SlowClientHoldsBackAndAGoneOneDoesNot) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("seq 1 100000; echo done >&2");
  spec.log.path = world.dir + "/log";
  auto started = runOn(world.loop, box->start(spec, {{false, true, false}, {false, true, true}}));
  ASSERT_TRUE(started.ok());
  started->streams[1] = {};
  std::string out = World::drain(started->streams[0].out.get());
  EXPECT_EQ(out.size(), 588895u);
  ASSERT_TRUE(runOn(world.loop, box->wait(spec.id)).ok());
  EXPECT_EQ(split(*readFile(spec.log.path), '\n').size(), 100002u);
}

TEST(Sandbox, ExecHasTheContainersNamespacesAndItsOwnStreams) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox({.id = "ex", .hostname = "inside"});
  auto spec = world.shell("exec sleep 100");
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  ProcessSpec process;
  process.args = {"sh", "-c",
                  "cat; hostname; echo $FOO; grep CapEff /proc/self/status; readlink /proc/self/exe >&2; exit 9"};
  process.env = {"PATH=/bin", "FOO=bar"};
  auto exec = runOn(world.loop, box->exec(spec.id, process, {true, true, true}));
  ASSERT_TRUE(exec.ok()) << exec.error().message();
  auto& streams = (*exec)->streams;
  ASSERT_EQ(::write(streams.in.get(), "typed\n", 6), 6);
  streams.in.reset();
  EXPECT_EQ(World::drain(streams.out.get()), "typed\ninside\nbar\nCapEff:\t00000000a80425fb\n");
  EXPECT_EQ(World::drain(streams.err.get()), "/bin/busybox\n");
  auto exit = runOn(world.loop, (*exec)->wait());
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 9);
  EXPECT_EQ(runOn(world.loop, (*exec)->signal(9)).error().code(), Code::kNotFound);
  process.args = {"/nowhere"};
  auto missing = runOn(world.loop, box->exec(spec.id, process, {false, true, true}));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
  EXPECT_TRUE(box->container(spec.id)->state == ContainerState::kRunning);
}

TEST(Sandbox, ExecWithTerminalResizesAndTakesSignals) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("exec sleep 100");
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  ProcessSpec process;
  process.args = {"/bin/sh", "-c", "stty size; read x; stty size; exec sleep 100"};
  process.env = {"PATH=/bin"};
  process.terminal = true;
  process.rows = 11;
  process.columns = 22;
  auto exec = runOn(world.loop, box->exec(spec.id, process, {true, true, false}));
  ASSERT_TRUE(exec.ok()) << exec.error().message();
  EXPECT_NE(readUntil((*exec)->streams.out.get(), "11 22").find("11 22"), std::string::npos);
  ASSERT_TRUE((*exec)->resize(33, 44).ok());
  ASSERT_EQ(::write((*exec)->streams.in.get(), "\n", 1), 1);
  EXPECT_NE(readUntil((*exec)->streams.out.get(), "33 44").find("33 44"), std::string::npos);
  ASSERT_TRUE(runOn(world.loop, (*exec)->signal(SIGTERM)).ok());
  auto exit = runOn(world.loop, (*exec)->wait());
  EXPECT_EQ(exit->code, 143);
}

TEST(Sandbox, LogIsInCriFormWithPartialLines) {
  NEEDS_ROOT();
  World world;
  auto spec = world.shell("echo short; head -c 20000 /dev/zero | tr '\\0' x; echo; echo err >&2; echo -n tail");
  spec.log.path = world.dir + "/log";
  auto ran = world.run(spec);
  ASSERT_TRUE(ran.started) << ran.error;
  std::string log = *readFile(spec.log.path);
  auto lines = split(log, '\n');
  ASSERT_EQ(lines.size(), 6u) << log.substr(0, 400);
  EXPECT_EQ(lines[0].size(), 31 + 9 + 5u);
  EXPECT_EQ(lines[0].substr(4, 1), "-");
  EXPECT_EQ(lines[0].substr(29), "Z stdout F short");
  std::string x16(16384, 'x');
  EXPECT_TRUE(std::find_if(lines.begin(), lines.end(), [&](auto& l) { return l.ends_with(" stdout P " + x16); }) !=
              lines.end());
  EXPECT_TRUE(std::find_if(lines.begin(), lines.end(),
                           [&](auto& l) { return l.ends_with(" stdout F " + std::string(3616, 'x')); }) != lines.end());
  EXPECT_NE(log.find(" stderr F err\n"), std::string::npos);
  EXPECT_NE(log.find(" stdout P tail\n"), std::string::npos);
}

TEST(Sandbox, LogRotatesBySizeAndKeepsSoManyFiles) {
  NEEDS_ROOT();
  World world;
  auto spec = world.shell("seq 1 2000");
  spec.log = {world.dir + "/log", 16384, 3};
  ASSERT_TRUE(world.run(spec).started);
  std::string all;
  for (const char* suffix : {".2", ".1", ""}) {
    std::string part = *readFile(spec.log.path + suffix);
    EXPECT_LE(part.size(), 16384u + 64);
    EXPECT_TRUE(part.ends_with("\n"));
    all += part;
  }
  EXPECT_FALSE(pathExists(spec.log.path + ".3"));
  EXPECT_TRUE(all.ends_with(" stdout F 2000\n"));
  auto lines = split(all, '\n');
  int64_t last = 0;
  for (auto& line : lines) {
    if (line.empty()) continue;
    int64_t number = *parseInt(line.substr(40));
    if (last) EXPECT_EQ(number, last + 1);
    last = number;
  }
}

TEST(Sandbox, SurvivesTheDaemonAndTellsWhatHappenedMeanwhile) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox({.id = "kept", .annotations = {{"pod", "a/b"}}});
  auto runs = world.shell("read x; echo $x; exec sleep 100");
  runs.stdinOpen = true;
  runs.log.path = world.dir + "/log";
  runs.annotations = {{"name", "first"}};
  auto ends = world.shell("read x; exit 3");
  ends.stdinOpen = true;
  ASSERT_TRUE(runOn(world.loop, box->start(runs)).ok());
  auto ending = runOn(world.loop, box->start(ends, {{true, false, false}}));
  ASSERT_TRUE(ending.ok());
  pid_t shim = box->shimPid();
  runOn(world.loop, world.runtime->stop());
  box.reset();
  world.runtime.reset();
  ASSERT_EQ(::write(ending->streams[0].in.get(), "\n", 1), 1);
  while (!pathExists(world.dir + "/state/kept/" + ends.id + ".exit")) ::usleep(1000);
  world.open();
  auto found = runOn(world.loop, world.runtime->findSandboxes());
  ASSERT_TRUE(found.ok()) << found.error().message();
  ASSERT_EQ(found->sandboxes.size(), 1u);
  EXPECT_TRUE(found->lost.empty());
  auto again = found->sandboxes[0];
  EXPECT_EQ(again->id(), "kept");
  EXPECT_EQ(again->shimPid(), shim);
  EXPECT_EQ(again->annotations().at(0).second, "a/b");
  auto exit = runOn(world.loop, again->wait(ends.id));
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 3);
  EXPECT_EQ(again->container(runs.id)->annotations.at(0).second, "first");
  auto client = runOn(world.loop, again->attach(runs.id, {true, true, false}));
  ASSERT_TRUE(client.ok()) << client.error().message();
  ASSERT_EQ(::write(client->in.get(), "back\n", 5), 5);
  EXPECT_EQ(readUntil(client->out.get(), "back\n"), "back\n");
  EXPECT_TRUE(readFile(runs.log.path)->ends_with(" stdout F back\n"));
}

Task<Event> nextEvent(Queue<Event>& events) {
  auto event = co_await events.pop();
  co_return *event;
}

TEST(Sandbox, KilledShimIsNoticedAndEverythingOfItEnds) {
  NEEDS_ROOT();
  World world;
  Queue<Event> events(world.loop);
  world.runtime->onEvent([&](const Event& event) { events.push(event); });
  auto box = world.sandbox();
  auto spec = world.shell("sleep 100 & exec sleep 100");
  auto started = runOn(world.loop, box->start(spec));
  ASSERT_TRUE(started.ok());
  ::kill(box->shimPid(), SIGKILL);
  Event event = runOn(world.loop, nextEvent(events));
  EXPECT_EQ(event.kind, Event::Kind::kShimGone);
  EXPECT_FALSE(box->alive());
  EXPECT_EQ(runOn(world.loop, box->wait(spec.id)).error().code(), Code::kUnavailable);
  EXPECT_TRUE(runOn(world.loop, box->remove()).ok());
  // Gone, or dead and not yet buried by whoever inherited it.
  auto status = readFile("/proc/" + std::to_string(started->pid) + "/status");
  EXPECT_TRUE(!status.ok() || status->find("State:\tZ") != std::string::npos) << *status;
}

TEST(Sandbox, LostSandboxesAreCleanedByTheNextDaemon) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox({.id = "lost"});
  auto spec = world.shell("exec sleep 100");
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  pid_t shim = box->shimPid();
  runOn(world.loop, world.runtime->stop());
  box.reset();
  world.runtime.reset();
  ::kill(shim, SIGKILL);
  (void)makeDirs(world.dir + "/state/halfmade").ok();
  world.open();
  auto found = runOn(world.loop, world.runtime->findSandboxes());
  ASSERT_TRUE(found.ok());
  EXPECT_TRUE(found->sandboxes.empty());
  EXPECT_EQ(found->lost, (std::vector<std::string>{"halfmade", "lost"}));
  EXPECT_EQ(listDir(world.dir + "/state")->size(), 1u);
  EXPECT_FALSE(pathExists("/sys/fs/cgroup/memory" + world.cgroupParent + "/lost"));
}

// A shim of another version: greets with `error` and says that it speaks `protocol`.
struct OtherShim {
  OtherShim(const std::string& dir, int error, int protocol) {
    EXPECT_TRUE(makeDirs(dir).ok());
    EXPECT_TRUE(saveSandbox(dir, {dir.substr(dir.rfind('/') + 1), "/dhow-test-none/other", false, {}}).ok());
    listener = std::move(*listenAt(dir));
    thread = std::thread([this, error, protocol] { serve(error, protocol); });
  }
  ~OtherShim() {
    ::shutdown(listener.get(), SHUT_RDWR);
    thread.join();
  }
  void serve(int error, int protocol) {
    pollfd polled{listener.get(), POLLIN, 0};
    ::poll(&polled, 1, 10000);
    UniqueFd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    polled = {socket.get(), POLLIN, 0};
    if (!socket || ::poll(&polled, 1, 10000) != 1) return;
    // Longer messages than this program knows.
    struct {
      wire::Message known{};
      char more[64] = {1, 2, 3};
    } message;
    got = ::recv(socket.get(), &message.known, sizeof message.known, 0);
    message.known.type = wire::Type::kReply;
    message.known.error = error;
    message.known.status = protocol;
    message.known.pid = ::getpid();
    (void)::send(socket.get(), &message, sizeof message, MSG_NOSIGNAL);
    ::recv(socket.get(), &message.known, sizeof message.known, 0);  // until the daemon is gone
  }
  UniqueFd listener;
  std::thread thread;
  ssize_t got = 0;
};

TEST(Sandbox, ShimsThatAreTooFarApartAreLeftAlone) {
  NEEDS_ROOT();
  for (auto [error, protocol] : {std::pair{EPROTO, 0}, {0, 0}}) {
    World world;
    OtherShim other(world.dir + "/state/far", error, protocol);
    auto found = runOn(world.loop, world.runtime->findSandboxes());
    ASSERT_FALSE(found.ok());
    EXPECT_TRUE(found.error().is(Code::kFailedPrecondition)) << found.error().message();
    EXPECT_TRUE(pathExists(world.dir + "/state/far/sandbox.json"));
    world.runtime.reset();
    world.open();
  }
}

TEST(Sandbox, ShimsOfANewerVersionAreUnderstood) {
  NEEDS_ROOT();
  World world;
  {
    OtherShim newer(world.dir + "/state/newer", 0, wire::kProtocol + 7);
    auto found = runOn(world.loop, world.runtime->findSandboxes());
    ASSERT_TRUE(found.ok()) << found.error().message();
    ASSERT_EQ(found->sandboxes.size(), 1u);
    EXPECT_EQ(found->sandboxes[0]->id(), "newer");
    EXPECT_GE(newer.got, static_cast<ssize_t>(wire::kLeastMessage));
    runOn(world.loop, world.runtime->stop());
    world.runtime.reset();
  }
  (void)removeTree(world.dir + "/state/newer").ok();
  world.open();
}

// A daemon of the first protocol sends shorter messages, one of a later protocol longer ones.
TEST(Sandbox, TheShimTakesMessagesOfOtherLengths) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox({.id = "box"});
  auto spec = world.shell("exec sleep 100");
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  for (size_t size : {size_t{wire::kLeastMessage}, sizeof(wire::Message) + 64}) {
    auto socket = connectAt(world.dir + "/state/box");
    ASSERT_TRUE(socket.ok());
    std::string bytes(size, '\0');
    wire::Message hello = request(wire::Type::kHello, "", wire::kMagic, wire::kProtocol);
    hello.sequence = 9;
    std::memcpy(bytes.data(), &hello, std::min(sizeof hello, size));
    ASSERT_EQ(::send(socket->get(), bytes.data(), size, 0), static_cast<ssize_t>(size));
    std::vector<wire::Message> answers;
    while (answers.empty() || answers.back().type != wire::Type::kReply) {
      pollfd polled{socket->get(), POLLIN, 0};
      ASSERT_EQ(::poll(&polled, 1, 10000), 1);
      wire::Message message{};
      std::vector<UniqueFd> fds;
      ASSERT_TRUE(receiveMessage(socket->get(), message, fds).ok());
      answers.push_back(message);
    }
    ASSERT_EQ(answers.size(), 2u);
    EXPECT_EQ(answers[0].type, wire::Type::kRecord);
    EXPECT_EQ(std::string(answers[0].id), spec.id);
    EXPECT_EQ(answers[1].error, 0);
    EXPECT_EQ(answers[1].status, static_cast<int32_t>(wire::kProtocol));
  }
}

TEST(Sandbox, EventsComeForEveryExit) {
  NEEDS_ROOT();
  World world;
  Queue<Event> events(world.loop);
  world.runtime->onEvent([&](const Event& event) { events.push(event); });
  auto box = world.sandbox();
  auto spec = world.shell("exit 4");
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  Event event = runOn(world.loop, nextEvent(events));
  EXPECT_EQ(event.kind, Event::Kind::kExited);
  EXPECT_EQ(event.sandboxId, box->id());
  EXPECT_EQ(event.containerId, spec.id);
  EXPECT_EQ(event.exit.code, 4);
  // Under its old id it runs again.
  spec.process.args[2] = "exit 5";
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  EXPECT_EQ(runOn(world.loop, box->wait(spec.id))->code, 5);
}

TEST(Sandbox, NothingLeaksOverManyLives) {
  NEEDS_ROOT();
  World world;
  (void)world.run(world.shell("true"));
  size_t fds = openFds(), mounted = mountsBelow(world.dir);
  size_t groups = listDir("/sys/fs/cgroup/memory" + world.cgroupParent)->size();
  for (int i = 0; i < 20; ++i) (void)world.run(world.shell(i % 2 ? "true" : "exec /nowhere"));
  // The last shims may still be on their way out.
  for (int i = 0; i < 500 && openFds() > fds; ++i) runOn(world.loop, world.loop.sleep(std::chrono::milliseconds(10)));
  EXPECT_LE(openFds(), fds);
  EXPECT_EQ(mountsBelow(world.dir), mounted);
  EXPECT_EQ(listDir("/sys/fs/cgroup/memory" + world.cgroupParent)->size(), groups);
  EXPECT_EQ(listDir(world.dir + "/state")->size(), 1u);
}

TEST(Sandbox, ShimStaysSmall) {
  NEEDS_ROOT();
  World world;
  auto box = world.sandbox();
  auto spec = world.shell("seq 1 1000; exec sleep 100");
  spec.log.path = world.dir + "/log";
  ASSERT_TRUE(runOn(world.loop, box->start(spec)).ok());
  std::string status = *readFile("/proc/" + std::to_string(box->shimPid()) + "/status");
  auto at = status.find("VmRSS:");
  int64_t kib = *parseInt(trim(std::string_view(status).substr(at + 6, status.find(" kB", at) - at - 6)));
  std::printf("shim RSS %ld KiB\n", static_cast<long>(kib));
  EXPECT_LT(kib, 400);
}

}  // namespace
}  // namespace dhow::runtime
