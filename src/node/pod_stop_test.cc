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
