#include "client/controller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/gate.h"
#include "client/event_recorder.h"
#include "client/fake_client.h"
#include "client/fields.h"
#include "client/leader.h"
#include "client/leading_client.h"
#include "client/reflector.h"

namespace dhow::client {
namespace {

using namespace std::chrono_literals;
using object::resources::kConfigMaps;
using object::resources::kEvents;
using object::resources::kPods;
using testing::ElementsAre;

TEST(WorkQueue, KeyAddedTwiceComesOnce) {
  SimLoop loop;
  WorkQueue queue(loop);
  queue.add("a");
  queue.add("a");
  queue.add("b");
  EXPECT_EQ(queue.tryTake(), "a");
  EXPECT_EQ(queue.tryTake(), "b");
  EXPECT_EQ(queue.tryTake(), std::nullopt);
}

TEST(WorkQueue, KeyAddedWhileOutComesAgainOnlyAfterDone) {
  SimLoop loop;
  WorkQueue queue(loop);
  queue.add("a");
  EXPECT_EQ(queue.tryTake(), "a");
  queue.add("a");
  EXPECT_EQ(queue.tryTake(), std::nullopt);
  queue.done("a");
  EXPECT_EQ(queue.tryTake(), "a");
  queue.done("a");
  EXPECT_EQ(queue.tryTake(), std::nullopt);
}

TEST(WorkQueue, SoonestDelayCountsAndAddOvertakesIt) {
  SimLoop loop;
  WorkQueue queue(loop);
  queue.addAfter("a", 10s);
  queue.addAfter("a", 5s);
  queue.addAfter("a", 20s);
  queue.addAfter("b", 5s);
  queue.add("b");
  EXPECT_EQ(queue.tryTake(), "b");
  queue.done("b");
  loop.advance(4s);
  EXPECT_EQ(queue.tryTake(), std::nullopt);
  loop.advance(1s);
  EXPECT_EQ(queue.tryTake(), "a");
  queue.done("a");
  loop.advance(60s);
  EXPECT_EQ(queue.tryTake(), std::nullopt);
}

TEST(WorkQueue, BackOffDoublesUpToItsLimitUntilForgotten) {
  SimLoop loop;
  WorkQueue queue(loop, {.firstDelay = 1s, .maxDelay = 4s});
  for (Duration expected : {1s, 2s, 4s, 4s}) {
    queue.addRateLimited("a");
    loop.advance(expected - 1ms);
    EXPECT_EQ(queue.tryTake(), std::nullopt);
    loop.advance(1ms);
    EXPECT_EQ(queue.tryTake(), "a");
    queue.done("a");
  }
  queue.forget("a");
  queue.addRateLimited("a");
  loop.advance(1s);
  EXPECT_EQ(queue.tryTake(), "a");
}

struct Probe {
  explicit Probe(SimLoop& loop) : loop(loop) {}
  Task<Result<>> reconcile(std::string key) {
    ++running;
    most = std::max(most, running);
    EXPECT_TRUE(inside.insert(key).second) << "one key twice at once";
    co_await loop.sleep(1s);
    inside.erase(key);
    --running;
    done.push_back(key);
    if (failures > 0) {
      --failures;
      co_return Error(Code::kUnavailable, "not now");
    }
    co_return Result<>();
  }
  SimLoop& loop;
  int running = 0;
  int most = 0;
  int failures = 0;
  std::set<std::string> inside;
  std::vector<std::string> done;
};

TEST(Controller, WorksOnSeveralKeysAtOnceButNeverTwiceOnOne) {
  SimLoop loop;
  FakeClient api(loop);
  Probe probe(loop);
  Controller controller(loop, {.name = "probe", .workers = 2}, [&](std::string key) { return probe.reconcile(key); });
  controller.watchOwn(api.of(kConfigMaps));
  for (int i = 0; i < 5; ++i) api.seed(kConfigMaps, {{"metadata", {{"name", fmt::format("c{}", i)}}}});
  controller.start();
  loop.advance(500ms);
  api.change(kConfigMaps, "default", "c0", [](json::object& o) { o["data"] = {{"a", "b"}}; });
  loop.advance(10s);
  EXPECT_EQ(probe.most, 2);
  EXPECT_EQ(probe.done.size(), 6u);
  EXPECT_TRUE(controller.idle());
  runOn(loop, controller.stop());
}

struct Handling {
  Task<Result<>> reconcile(std::string) {
    inside = inside || now;
    ++done;
    co_return Result<>();
  }
  bool now = false, inside = false;
  int done = 0;
};

// A handler goes through names that a reconciliation removes.
TEST(Controller, DoesNotBeginInsideTheHandlerThatAddsAKey) {
  SimLoop loop;
  FakeClient api(loop);
  Handling handling;
  Controller controller(loop, {.name = "probe"}, [&](std::string key) { return handling.reconcile(key); });
  controller.watch(api.of(kConfigMaps), [&](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) {
    handling.now = true;
    for (const char* key : {"a", "b"}) queue.add(key);
    handling.now = false;
  });
  controller.start();
  loop.advance(1ms);
  loop.post([&] { api.seed(kConfigMaps, {{"metadata", {{"name", "c"}}}}); });
  loop.advance(1s);
  EXPECT_EQ(handling.done, 2);
  EXPECT_FALSE(handling.inside);
  runOn(loop, controller.stop());
}

TEST(Controller, RetriesAfterAnError) {
  SimLoop loop;
  Probe probe(loop);
  probe.failures = 3;
  Controller controller(loop, {.name = "probe"}, [&](std::string key) { return probe.reconcile(key); });
  controller.start();
  controller.queue().add("a");
  loop.advance(20s);
  EXPECT_THAT(probe.done, ElementsAre("a", "a", "a", "a"));
  EXPECT_EQ(controller.queue().failures("a"), 0);
  runOn(loop, controller.stop());
}

TEST(MemoryCache, IndexFollowsChanges) {
  SimLoop loop;
  FakeClient api(loop);
  Cache& pods = api.of(kPods);
  api.seed(kPods, R"({"metadata":{"name":"a"},"spec":{"nodeName":"n1"}})");
  pods.addIndex("node", [](const ObjectPtr& pod, std::vector<std::string>& keys) {
    keys.emplace_back(text(pod->root(), {"spec", "nodeName"}));
  });
  EXPECT_EQ(pods.byIndex("node", "n1").size(), 1u);
  api.change(kPods, "default", "a", [](json::object& o) { objectAt(o, "spec")["nodeName"] = "n2"; });
  EXPECT_EQ(pods.byIndex("node", "n1").size(), 0u);
  EXPECT_EQ(pods.byIndex("node", "n2").size(), 1u);
  api.drop(kPods, "default", "a");
  EXPECT_EQ(pods.byIndex("node", "n2").size(), 0u);
}

TEST(FakeClient, RefusesAnUpdateOfAnOldVersion) {
  SimLoop loop;
  FakeClient api(loop);
  ObjectPtr old = api.seed(kConfigMaps, {{"metadata", {{"name", "a"}}}});
  api.change(kConfigMaps, "default", "a", [](json::object& o) { o["data"] = {{"a", "b"}}; });
  auto result = runOn(loop, api.update(kConfigMaps, "default", "a", "", copyOf(old)));
  ASSERT_FALSE(result.ok());
  EXPECT_TRUE(result.error().is(Code::kConflict));
}

struct Watching {
  explicit Watching(SimLoop& loop, FakeClient& api) : reflector(loop, api, kPods, {}) {
    subscription = reflector.cache().subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
      seen.push_back((before ? (after ? "~" : "-") : "+") + std::string((after ? after : before)->name()));
    });
    reflector.start();
  }
  Reflector reflector;
  std::unique_ptr<Cache::Subscription> subscription;
  std::vector<std::string> seen;
};

TEST(Reflector, ListsThenFollowsWatch) {
  SimLoop loop;
  FakeClient api(loop);
  api.seed(kPods, R"({"metadata":{"name":"a"}})");
  Watching w(loop, api);
  loop.advance(1s);
  EXPECT_TRUE(w.reflector.cache().synced());
  api.seed(kPods, R"({"metadata":{"name":"b"}})");
  api.change(kPods, "default", "a", [](json::object& o) { o["spec"] = {{"nodeName", "n"}}; });
  api.drop(kPods, "default", "b");
  loop.advance(1s);
  EXPECT_THAT(w.seen, ElementsAre("+a", "+b", "~a", "-b"));
  runOn(loop, w.reflector.stop());
}

TEST(Reflector, KeepsWhatItHasWhileTheServerIsAwayAndResumesWithoutListing) {
  SimLoop loop;
  FakeClient api(loop);
  api.seed(kPods, R"({"metadata":{"name":"a"}})");
  Watching w(loop, api);
  loop.advance(1s);
  api.injectRead = [](std::string_view, const Resource&) { return Error(Code::kUnavailable, "connection refused"); };
  api.breakWatches();
  loop.advance(60s);
  EXPECT_FALSE(w.reflector.connected());
  EXPECT_NE(w.reflector.cache().get("default", "a"), nullptr);
  api.seed(kPods, R"({"metadata":{"name":"b"}})");
  api.drop(kPods, "default", "a");
  api.injectRead = nullptr;
  loop.advance(30s);
  EXPECT_TRUE(w.reflector.connected());
  EXPECT_THAT(w.seen, ElementsAre("+a", "+b", "-a"));
  EXPECT_EQ(w.reflector.lists(), 1u);
  runOn(loop, w.reflector.stop());
}

TEST(Reflector, ListsAnewWhenItsVersionIsGone) {
  SimLoop loop;
  FakeClient api(loop);
  api.seed(kPods, R"({"metadata":{"name":"a"}})");
  Watching w(loop, api);
  loop.advance(1s);
  api.injectRead = [](std::string_view, const Resource&) { return Error(Code::kUnavailable, "connection refused"); };
  api.breakWatches();
  api.drop(kPods, "default", "a");
  api.seed(kPods, R"({"metadata":{"name":"b"}})");
  api.expireWatches();
  api.injectRead = nullptr;
  loop.advance(60s);
  EXPECT_THAT(w.seen, ElementsAre("+a", "-a", "+b"));
  EXPECT_EQ(w.reflector.lists(), 2u);
  runOn(loop, w.reflector.stop());
}

TEST(EventRecorder, CountsTheSameEventInsteadOfRepeatingIt) {
  SimLoop loop;
  FakeClient api(loop);
  EventRecorder recorder(loop, api, {.component = "test"});
  ObjectPtr pod = api.seed(kPods, R"({"metadata":{"name":"a"}})");
  for (int i = 0; i < 3; ++i) recorder.warning(*pod, "Failed", "no luck");
  recorder.normal(*pod, "Started", "up");
  loop.advance(1s);
  auto events = api.all(kEvents);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(number(events[0]->root(), {"count"}), 3);
  EXPECT_EQ(text(events[0]->root(), {"involvedObject", "name"}), "a");
  EXPECT_EQ(text(events[0]->root(), {"source", "component"}), "test");
  runOn(loop, recorder.stop());
}

TEST(EventRecorder, OneObjectCannotFlood) {
  SimLoop loop;
  FakeClient api(loop);
  EventRecorder recorder(loop, api, {.component = "test"});
  ObjectPtr pod = api.seed(kPods, R"({"metadata":{"name":"a"}})");
  for (int i = 0; i < 100; ++i) recorder.warning(*pod, "Failed", fmt::format("no luck {}", i));
  loop.advance(1s);
  EXPECT_EQ(api.all(kEvents).size(), 25u);
  EXPECT_EQ(recorder.dropped(), 75u);
  runOn(loop, recorder.stop());
}

TEST(EventRecorder, AFailingServerDropsEventsSilently) {
  SimLoop loop;
  FakeClient api(loop);
  EventRecorder recorder(loop, api, {.component = "test"});
  ObjectPtr pod = api.seed(kPods, R"({"metadata":{"name":"a"}})");
  api.inject = [](const FakeClient::Action&) { return Error(Code::kUnavailable, "away"); };
  recorder.warning(*pod, "Failed", "no luck");
  loop.advance(1s);
  EXPECT_EQ(recorder.dropped(), 1u);
  runOn(loop, recorder.stop());
}

struct Candidate {
  Candidate(SimLoop& loop, FakeClient& api, std::string identity)
      : elector(loop, api, {.name = "dhow", .identity = std::move(identity)}) {
    elector.start();
  }
  LeaderElector elector;
};

TEST(LeaderElector, OneLeadsAndAnotherFollowsAtOnceAfterRelease) {
  SimLoop loop;
  FakeClient api(loop);
  Candidate a(loop, api, "a");
  loop.advance(1s);
  Candidate b(loop, api, "b");
  loop.advance(60s);
  EXPECT_TRUE(a.elector.leading());
  EXPECT_FALSE(b.elector.leading());
  EXPECT_EQ(b.elector.holder(), "a");
  runOn(loop, a.elector.stop());
  loop.advance(5s);
  EXPECT_TRUE(b.elector.leading());
  runOn(loop, b.elector.stop());
}

TEST(LeaderElector, ALeaderThatCannotRenewStepsDownBeforeAnotherLeads) {
  SimLoop loop;
  FakeClient api(loop);
  Candidate a(loop, api, "a");
  loop.advance(1s);
  Candidate b(loop, api, "b");
  loop.advance(10s);
  ASSERT_TRUE(a.elector.leading());
  api.inject = [](const FakeClient::Action& action) -> std::optional<Error> {
    if (text(action.body.as_object(), {"spec", "holderIdentity"}) != "a") return std::nullopt;
    return Error(Code::kUnavailable, "cut off");
  };
  bool both = false;
  bool passed = loop.runUntil(
      [&] {
        both |= a.elector.leading() && b.elector.leading();
        return b.elector.leading();
      },
      60s);
  EXPECT_TRUE(passed);
  EXPECT_FALSE(both);
  EXPECT_FALSE(a.elector.leading());
  runOn(loop, a.elector.stop());
  runOn(loop, b.elector.stop());
}

// By the clock of who waits, from when it first saw the renewal: what the holder wrote as its time counts for nothing.
TEST(LeaderElector, AnothersLeaseEndsByTheObserversOwnClockWhateverTimesItTells) {
  for (const char* told : {"1971-01-01T00:00:00.000000Z", "2199-01-01T00:00:00.000000Z"}) {
    SimLoop loop;
    FakeClient api(loop);
    json::object lease{{"metadata", {{"name", "dhow"}, {"namespace", "kube-system"}}},
                       {"spec",
                        {{"holderIdentity", "gone"},
                         {"leaseDurationSeconds", 7},
                         {"acquireTime", told},
                         {"renewTime", told},
                         {"leaseTransitions", 4}}}};
    api.seed(object::resources::kLeases, std::move(lease));
    loop.advance(20s);  // nobody looked meanwhile
    const TimePoint seen = loop.now();
    Candidate b(loop, api, "b");
    ASSERT_TRUE(loop.runUntil([&] { return b.elector.leading(); }, 60s));
    EXPECT_GE(loop.now() - seen, 7s) << told;
    EXPECT_LT(loop.now() - seen, 8s) << told;
    ObjectPtr now = api.all(object::resources::kLeases).at(0);
    EXPECT_EQ(text(now->root(), {"spec", "holderIdentity"}), "b");
    EXPECT_EQ(number(now->root(), {"spec", "leaseTransitions"}), 5);
    const std::string acquired(text(now->root(), {"spec", "acquireTime"}));
    EXPECT_NE(acquired, told);
    // Renewals are no transitions.
    loop.advance(30s);
    now = api.all(object::resources::kLeases).at(0);
    EXPECT_EQ(number(now->root(), {"spec", "leaseTransitions"}), 5);
    EXPECT_EQ(text(now->root(), {"spec", "acquireTime"}), acquired);
    EXPECT_NE(text(now->root(), {"spec", "renewTime"}), acquired);
    // Given up, it still counts the next holder.
    runOn(loop, b.elector.stop());
    Candidate c(loop, api, "c");
    loop.advance(3s);
    EXPECT_TRUE(c.elector.leading());
    EXPECT_EQ(number(api.all(object::resources::kLeases).at(0)->root(), {"spec", "leaseTransitions"}), 6);
    runOn(loop, c.elector.stop());
  }
}

// A look may hang as long as the store has no leader of its own, and the time that it takes is not added.
TEST(LeaderElector, ARenewalThatWasWatchedCountsFromWhenItCame) {
  SimLoop loop;
  FakeClient api(loop);
  ObjectPtr lease = api.seed(
      object::resources::kLeases,
      R"({"metadata":{"name":"dhow","namespace":"kube-system"},"spec":{"holderIdentity":"a","leaseDurationSeconds":7}})");
  LeaderElector b(loop, api, {.name = "dhow", .identity = "b"});
  const TimePoint seen = loop.now();
  b.saw(lease);
  loop.advance(5s);
  b.start();
  ASSERT_TRUE(loop.runUntil([&] { return b.leading(); }, 60s));
  EXPECT_GE(loop.now() - seen, 7s);
  EXPECT_LT(loop.now() - seen, 8s);
  runOn(loop, b.stop());
}

TEST(LeadingClient, WritesOnlyWhileItsProcessLeads) {
  SimLoop loop;
  FakeClient api(loop);
  Candidate a(loop, api, "a");
  LeadingClient client(api, a.elector);
  json::object body{{"apiVersion", "v1"}, {"kind", "ConfigMap"}, {"metadata", {{"name", "one"}}}};
  auto early = runOn(loop, client.create(kConfigMaps, "default", body, "", ""));
  EXPECT_TRUE(early.error().is(Code::kFailedPrecondition));
  loop.advance(1s);
  EXPECT_TRUE(runOn(loop, client.create(kConfigMaps, "default", body, "", "")).ok());
  api.inject = [](const FakeClient::Action& action) -> std::optional<Error> {
    if (action.resource != object::resources::kLeases) return std::nullopt;
    return Error(Code::kUnavailable, "cut off");
  };
  loop.advance(11s);
  EXPECT_FALSE(a.elector.leading());
  EXPECT_TRUE(runOn(loop, client.remove(kConfigMaps, "default", "one", {})).error().is(Code::kFailedPrecondition));
  EXPECT_TRUE(runOn(loop, client.get(kConfigMaps, "default", "one")).ok());
  runOn(loop, a.elector.stop());
}

}  // namespace
}  // namespace dhow::client
