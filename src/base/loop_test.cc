#include "base/loop.h"

#include <gtest/gtest.h>

#include "base/blocking.h"
#include "base/gate.h"
#include "base/process.h"

namespace dhow {
namespace {

using namespace std::chrono_literals;

Task<int> addLater(Loop& loop, int a, int b) {
  co_await loop.sleep(10s);
  co_return a + b;
}

TEST(SimLoop, SleepTakesVirtualTimeOnly) {
  SimLoop loop;
  auto before = loop.now();
  EXPECT_EQ(runOn(loop, addLater(loop, 2, 3)), 5);
  EXPECT_EQ(loop.now() - before, 10s);
}

TEST(SimLoop, RunsTimersInOrderOfTimeThenOfCreation) {
  SimLoop loop;
  std::string order;
  auto a = loop.after(2s, [&] { order += 'c'; });
  auto b = loop.after(1s, [&] { order += 'a'; });
  auto c = loop.after(1s, [&] { order += 'b'; });
  auto cancelled = loop.after(1s, [&] { order += 'x'; });
  cancelled.cancel();
  loop.advance(5s);
  EXPECT_EQ(order, "abc");
}

Task<> produce(Loop& loop, Queue<int>& queue) {
  for (int i = 0; i < 3; ++i) {
    co_await loop.sleep(1s);
    queue.push(i);
  }
  queue.close();
}

Task<int> consume(Queue<int>& queue) {
  int sum = 0;
  while (true) {
    auto value = co_await queue.pop();
    if (!value) co_return sum;
    sum += *value;
  }
}

TEST(Queue, HandsOverValuesAndEndsWhenClosed) {
  SimLoop loop;
  Queue<int> queue(loop);
  Gate gate(loop);
  gate.spawn(produce(loop, queue));
  EXPECT_EQ(runOn(loop, consume(queue)), 3);
  runOn(loop, gate.close());
}

TEST(Signal, WaitForGivesUpAtItsLimit) {
  SimLoop loop;
  Signal signal(loop);
  EXPECT_FALSE(runOn(loop, signal.waitFor(1s)));
  auto timer = loop.after(1s, [&] { signal.notify(); });
  EXPECT_TRUE(runOn(loop, signal.waitFor(5s)));
}

Task<int> square(Loop& loop, BlockingPool& pool, int x) {
  auto result = co_await pool.run(loop, [x] { return x * x; });
  co_return result;
}

TEST(BlockingPool, ReturnsToTheLoop) {
  RealLoop loop;
  BlockingPool pool(2);
  EXPECT_EQ(runOn(loop, square(loop, pool, 7)), 49);
}

TEST(Process, ReportsExitCodeSignalAndMissingProgram) {
  RealLoop loop;
  SpawnOptions options;
  options.args = {"sh", "-c", "exit 3"};
  auto process = Process::spawn(options);
  ASSERT_TRUE(process.ok());
  auto status = runOn(loop, process->wait(loop));
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->code, 3);
  options.args = {"sh", "-c", "kill -9 $$"};
  auto killed = Process::spawn(options);
  auto killedStatus = runOn(loop, killed->wait(loop));
  EXPECT_EQ(killedStatus->code, 137);
  options.args = {"/nonexistent/program"};
  auto missing = Process::spawn(options);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), Code::kNotFound);
}

TEST(RunCommand, FeedsInputAndCollectsOutput) {
  auto out = runCommand({"sh", "-c", "cat; echo problem >&2"}, "hello");
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->output, "hello");
  EXPECT_EQ(out->errors, "problem\n");
}

}  // namespace
}  // namespace dhow
