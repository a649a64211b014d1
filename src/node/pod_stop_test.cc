#include "worker_fixture.h"

namespace dhow::node {
namespace {

using namespace std::chrono_literals;

using PodStopTest = PodWorkerTest;

TEST_F(PodStopTest, WaitsForSidecarsLastWhenStopped) {
  start(R"({"initContainers":[{"name":"side","image":"web:1","restartPolicy":"Always"}],
            "containers":[{"name":"web","image":"web:1"}]})");
  runtime_.deaf.insert("web");
  remove(10);
  loop_.advance(5s);
  EXPECT_NE(runtime_.running("side"), nullptr);
  EXPECT_EQ(runtime_.running("web")->signals, std::vector<int>{SIGTERM});
  EXPECT_TRUE(happened("Killing", "Stopping container web"));
  loop_.advance(6s);
  EXPECT_TRUE(over_);
  EXPECT_EQ(client_.find(kPods, "default", "web"), nullptr);
  EXPECT_TRUE(runtime_.sandboxes_.empty());
}

TEST_F(PodStopTest, ShorterGraceBringsTheEndNearer) {
  start(kWeb);
  runtime_.deaf.insert("web");
  remove(300);
  loop_.advance(5s);
  EXPECT_FALSE(over_);
  json::object sooner = client_.find(kPods, "default", "web")->root();
  client::metadataOf(sooner)["deletionGracePeriodSeconds"] = 1;
  worker_->update(Object::make(std::move(sooner)));
  loop_.advance(2s);
  EXPECT_TRUE(over_);
}

TEST_F(PodStopTest, StopsWhatTheApiHasForgotten) {
  start(kWeb);
  client_.drop(kPods, "default", "web");
  loop_.runReady();
  EXPECT_TRUE(over_);
  EXPECT_TRUE(runtime_.sandboxes_.empty());
}

TEST_F(PodStopTest, RunsThePreStopHookBeforeTheSignal) {
  start(R"({"containers":[{"name":"web","image":"web:1","lifecycle":{"preStop":{"sleep":{"seconds":4}}}}]})");
  remove(30);
  loop_.advance(3s);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  loop_.advance(2s);
  EXPECT_TRUE(over_);
}

TEST_F(PodStopTest, StopSignalAndHookWaitForTheBarrier) {
  context_.barrier = &barrier_;
  start(R"({"nodeName":"n1","containers":[{"name":"web","image":"web:1",
    "lifecycle":{"preStop":{"exec":{"command":["/bye"]}}}}]})");
  remove(30);
  ASSERT_EQ(barrier_.asked.size(), 1U);
  EXPECT_EQ(barrier_.asked[0].uid, "u1");
  EXPECT_GT(barrier_.asked[0].revision, 0U);
  loop_.advance(3s);
  EXPECT_TRUE(runtime_.execs.empty());
  ASSERT_NE(runtime_.running("web"), nullptr);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  barrier_.answer(client::Drained());
  loop_.runReady();
  EXPECT_EQ(runtime_.execs.size(), 1U);
  EXPECT_TRUE(over_);
  EXPECT_FALSE(happened("Undrained"));
}

TEST_F(PodStopTest, UsersKeepThePodUntilTheyHaveLeft) {
  context_.barrier = &barrier_;
  start(kWeb);
  barrier_.hold({true, true, 2, 1, {}});
  remove(30);
  barrier_.answer(client::Drained());
  loop_.advance(15s);
  ASSERT_NE(runtime_.running("web"), nullptr);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  EXPECT_TRUE(happened("DrainingSessions", "2 sessions and 1 connection held until"));
  EXPECT_EQ(condition(client::kSessionsHeldCondition), "True");
  EXPECT_EQ(condition("Ready"), "True");
  barrier_.hold({true, true, 0, 0, {"n2"}});
  loop_.advance(500ms);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());  // one of the nodes does not tell
  barrier_.hold({true, true, 0, 0, {}});
  loop_.advance(1s);
  // Those who come back are sent elsewhere first.
  ASSERT_EQ(barrier_.asked.size(), 2U);
  EXPECT_TRUE(barrier_.asked[1].over);
  EXPECT_EQ(condition("Ready"), "False");
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  barrier_.answer(client::Drained());
  loop_.runReady();
  EXPECT_TRUE(over_);
  EXPECT_TRUE(happened("SessionsEnded"));
}

TEST_F(PodStopTest, TheDeadlineCutsUsersAndLeavesTheContainersTime) {
  context_.barrier = &barrier_;
  runtime_.deaf.insert("web");
  start(kWeb);
  barrier_.hold({true, false, 0, 1, {}});
  remove(10);
  barrier_.answer(client::Drained());
  loop_.advance(7900ms);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  loop_.advance(200ms);
  EXPECT_EQ(runtime_.running("web")->signals, std::vector<int>{SIGTERM});
  EXPECT_TRUE(happened("SessionsCut", "1 connection cut after 8 s: the deadline has passed"));
  EXPECT_EQ(barrier_.asked.size(), 1U);  // without cookies nobody comes back
  loop_.advance(2s);
  EXPECT_TRUE(over_);
}

TEST_F(PodStopTest, ADeadlineOfItsOwnOutlastsTheGracePeriodWhichFollows) {
  context_.barrier = &barrier_;
  runtime_.deaf.insert("web");
  ObjectPtr pod = seed(R"({"terminationGracePeriodSeconds":5,"containers":[{"name":"web","image":"web:1"}]})");
  run(client_.change(kPods, "default", "web", [](json::object& o) {
    client::objectAt(client::metadataOf(o), "annotations")[client::kSessionDeadlineAnnotation] = "1h";
  }));
  barrier_.hold({true, false, 0, 1, {}});
  remove(5);
  barrier_.answer(client::Drained());
  loop_.advance(59min);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  // The agent is another one meanwhile, and no master answers: what was held is held.
  stopWorker();
  barrier_.none = true;
  run(client_.find(kPods, "default", "web"), true);
  loop_.advance(40s);  // ten seconds have passed until the question of the one before was over
  ASSERT_NE(runtime_.running("web"), nullptr);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  barrier_.none = false;
  loop_.advance(10s);
  EXPECT_EQ(runtime_.running("web")->signals, std::vector<int>{SIGTERM});
  EXPECT_TRUE(happened("SessionsCut", "the deadline has passed"));
  EXPECT_FALSE(over_);
  loop_.advance(6s);
  EXPECT_TRUE(over_);
  barrier_.answer(client::Drained());  // to whom it was too late
}

TEST_F(PodStopTest, ADeletionAtOnceCutsUsers) {
  context_.barrier = &barrier_;
  start(kWeb);
  barrier_.hold({true, true, 3, 0, {}});
  remove(30);
  barrier_.answer(client::Drained());
  loop_.advance(1s);
  EXPECT_FALSE(over_);
  client_.drop(kPods, "default", "web");
  loop_.runReady();
  EXPECT_TRUE(over_);
  EXPECT_TRUE(happened("SessionsCut", "3 sessions cut after 1 s: the pod was deleted at once"));
}

TEST_F(PodStopTest, BarrierTakesAtMostHalfOfTheGracePeriodAndIsPartOfIt) {
  context_.barrier = &barrier_;
  runtime_.deaf = {"web"};
  start(kWeb);
  remove(10);
  loop_.advance(4900ms);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  loop_.advance(200ms);
  EXPECT_EQ(runtime_.running("web")->signals, std::vector<int>{SIGTERM});
  loop_.advance(5s);
  EXPECT_TRUE(over_);
  barrier_.answer(client::Drained());
}

TEST_F(PodStopTest, TellsWhoHasNotConfirmed) {
  context_.barrier = &barrier_;
  start(kWeb);
  remove(30);
  barrier_.answer(client::Drained{true, {"n7"}});
  loop_.advance(1s);
  EXPECT_TRUE(over_);
  EXPECT_TRUE(happened("Undrained", "not confirmed by n7"));
}

TEST_F(PodStopTest, AsksAnotherMasterAndGoesOnWithoutAny) {
  context_.barrier = &barrier_;
  start(kWeb);
  remove(30);
  barrier_.answer(Error(Code::kUnavailable, "connection refused"));
  loop_.advance(500ms);
  EXPECT_EQ(barrier_.asked.size(), 2U);
  EXPECT_TRUE(runtime_.running("web")->signals.empty());
  barrier_.none = true;
  barrier_.answer(Error(Code::kUnavailable, "connection refused"));
  loop_.advance(2s);
  EXPECT_NE(runtime_.running("web"), nullptr);
  loop_.advance(2s);
  EXPECT_TRUE(over_);
}

TEST_F(PodStopTest, MasterThatKnowsNoBarrierIsNotAskedAgain) {
  context_.barrier = &barrier_;
  start(kWeb);
  remove(30);
  barrier_.answer(Error(Code::kNotFound, "the server could not find the requested resource"));
  loop_.runReady();
  EXPECT_TRUE(over_);
  EXPECT_EQ(barrier_.asked.size(), 1U);
}

TEST_F(PodStopTest, FencingForcedDeletionAndShorterGraceDoNotWaitForTheBarrier) {
  context_.barrier = &barrier_;
  start(kWeb);
  remove(30);
  worker_->fence();
  loop_.advance(1s);
  EXPECT_EQ(runtime_.running("web"), nullptr);
  barrier_.answer(client::Drained());
  stopWorker();
  client_.drop(kPods, "default", "web");

  start(kWeb);
  client_.drop(kPods, "default", "web");
  loop_.runReady();
  EXPECT_EQ(runtime_.running("web"), nullptr);
  barrier_.answer(client::Drained());
  stopWorker();

  runtime_.deaf = {"web"};
  start(kWeb);
  remove(300);
  loop_.advance(1s);
  json::object sooner = client_.find(kPods, "default", "web")->root();
  client::metadataOf(sooner)["deletionGracePeriodSeconds"] = 2;
  worker_->update(Object::make(std::move(sooner)));
  loop_.advance(2500ms);
  EXPECT_EQ(runtime_.running("web"), nullptr);
  barrier_.answer(client::Drained());
}

TEST_F(PodStopTest, PodWithoutRunningContainersAsksNobody) {
  context_.barrier = &barrier_;
  images_.here.clear();
  start(kWeb);
  remove(30);
  loop_.advance(1s);
  EXPECT_TRUE(over_);
  EXPECT_TRUE(barrier_.asked.empty());
}

}  // namespace
}  // namespace dhow::node
