#include "apiserver/drain_barrier.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "client/fake_client.h"
#include "client/fields.h"
#include "node_consumers.h"
#include "settled.h"

namespace dhow::apiserver {
namespace {

using namespace std::chrono_literals;
using client::Drained;
using object::resources::kEndpointSlices;
using object::resources::kLeases;
using object::resources::kNodes;
using object::resources::kPods;
using object::resources::kServices;
namespace json = boost::json;

// Consumers that apply when the test says so.
class FakeConsumers final : public EndpointConsumers {
 public:
  explicit FakeConsumers(Loop& loop) : loop_(loop), changed_(loop) {}
  std::vector<std::string> living() const override { return names; }
  Task<Result<uint64_t>> applied(std::string name, uint64_t revision, Duration limit) override {
    asked.emplace_back(name, revision);
    ++open[name];
    mostOpen = std::max(mostOpen, open[name]);
    const TimePoint end = loop_.now() + limit;
    while (!broken.contains(name) && (mute.contains(name) || at[name] < revision)) {
      if (!mute.contains(name) && loop_.now() >= end) break;
      co_await changed_.waitFor(mute.contains(name) ? Duration(1h) : end - loop_.now());
    }
    --open[name];
    if (broken.contains(name)) co_return Error(broken[name], "broken");
    co_return at[name];
  }
  void apply(const std::string& name, uint64_t revision) {
    at[name] = revision;
    changed_.notify();
  }
  void wake() { changed_.notify(); }

  std::vector<std::string> names;
  std::map<std::string, uint64_t> at;
  std::set<std::string> mute;
  std::map<std::string, Code> broken;
  std::vector<std::pair<std::string, uint64_t>> asked;
  std::map<std::string, int> open;
  int mostOpen = 0;

 private:
  Loop& loop_;
  Signal changed_;
};

using Passing = Settled<Drained>;

class DrainBarrierTest : public ::testing::Test {
 protected:
  DrainBarrierTest() : client_(loop_), consumers_(loop_) {
    client_.seed(kServices, R"({"metadata":{"name":"web","namespace":"default"},"spec":{"selector":{"app":"web"}}})");
    consumers_.names = {"n1", "n2"};
    barrier_ = std::make_unique<DrainBarrier>(loop_, client_);
    barrier_->add(consumers_);
    barrier_->start();
  }
  ~DrainBarrierTest() override {
    for (const std::string& name : consumers_.names) consumers_.broken[name] = Code::kCancelled;
    consumers_.wake();
    runOn(loop_, barrier_->stop());
  }

  client::DrainQuestion pod(const std::string& name, const char* app = "web", bool deleting = true) {
    json::object metadata{
        {"name", name}, {"namespace", "default"}, {"uid", "uid-" + name}, {"labels", json::object{{"app", app}}}};
    if (deleting) metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z";
    client_.seed(kPods, {{"metadata", std::move(metadata)},
                         {"spec", json::object{{"nodeName", "n1"}}},
                         {"status", json::object{{"phase", "Running"}, {"podIP", "10.244.1.2"}}}});
    return {"default", name, "uid-" + name, 0};
  }
  // The controller's slice of `service`: pods and whether each is shown as terminating. Gives its revision.
  uint64_t slice(std::vector<std::pair<std::string, bool>> pods, const std::string& service = "web") {
    json::array endpoints;
    for (const auto& [name, terminating] : pods) {
      endpoints.push_back(json::object{
          {"targetRef", json::object{{"kind", "Pod"}, {"name", name}, {"uid", "uid-" + name}}},
          {"conditions", json::object{{"ready", !terminating}, {"serving", true}, {"terminating", terminating}}}});
    }
    const std::string name = service + "-1";
    if (client_.find(kEndpointSlices, "default", name)) {
      auto changed = client_.change(kEndpointSlices, "default", name,
                                    [&](json::object& document) { document["endpoints"] = std::move(endpoints); });
      return changed->resourceVersion();
    }
    return client_
        .seed(kEndpointSlices,
              {{"metadata", json::object{{"name", name},
                                         {"namespace", "default"},
                                         {"labels", json::object{{"kubernetes.io/service-name", service},
                                                                 {"endpointslice.kubernetes.io/managed-by",
                                                                  "endpointslice-controller.k8s.io"}}}}},
               {"endpoints", std::move(endpoints)}})
        ->resourceVersion();
  }
  Passing& pass(client::DrainQuestion question) {
    passings_.push_back(std::make_unique<Passing>());
    spawn(loop_, settle(barrier_->pass(std::move(question)), &loop_, passings_.back().get()));
    loop_.runReady();
    return *passings_.back();
  }
  void applyEverywhere(uint64_t revision) {
    for (const std::string& name : consumers_.names) consumers_.apply(name, revision);
    loop_.runReady();
  }
  static Drained drained(const Passing& passing) {
    EXPECT_TRUE(passing.result.has_value());
    if (!passing.result || !passing.result->ok()) return {false, {"no result"}};
    return **passing.result;
  }

  SimLoop loop_;
  client::FakeClient client_;
  FakeConsumers consumers_;
  std::unique_ptr<DrainBarrier> barrier_;
  std::vector<std::unique_ptr<Passing>> passings_;
};

TEST_F(DrainBarrierTest, PassesWhenTheSlicesTellAndEveryConsumerHasAppliedThem) {
  slice({{"a", false}, {"b", false}});
  Passing& a = pass(pod("a"));
  EXPECT_FALSE(a.result);
  EXPECT_TRUE(consumers_.asked.empty());
  const uint64_t revision = slice({{"a", true}, {"b", false}});
  loop_.runReady();
  EXPECT_EQ(consumers_.asked.size(), 2U);
  consumers_.apply("n1", revision);
  consumers_.apply("n2", revision - 1);
  loop_.runReady();
  EXPECT_FALSE(a.result);
  consumers_.apply("n2", revision + 5);
  loop_.runReady();
  EXPECT_EQ(drained(a).complaint(), "");
}

TEST_F(DrainBarrierTest, PodThatNoServiceSelectsPassesAtOnce) {
  slice({{"a", false}});
  loop_.advance(1min);
  EXPECT_EQ(drained(pass(pod("other", "other"))).complaint(), "");
  EXPECT_TRUE(consumers_.asked.empty());
}

// As when a service has just been turned to other pods: those who send may not know that yet.
TEST_F(DrainBarrierTest, PodThatHasJustLeftTheSlicesIsConfirmedToo) {
  slice({{"a", false}});
  loop_.advance(1min);
  auto question = pod("a", "blue");
  client_.change(kServices, "default", "web",
                 [](json::object& service) { service["spec"] = json::parse(R"({"selector":{"app":"green"}})"); });
  const uint64_t revision = slice({});
  Passing& a = pass(question);
  EXPECT_FALSE(a.result);
  applyEverywhere(revision);
  EXPECT_EQ(drained(a).complaint(), "");
}

TEST_F(DrainBarrierTest, PodThatIsNotInTheSlicesYetWaitsUntilItIsThereAsTerminating) {
  const uint64_t before = slice({});
  applyEverywhere(before);
  Passing& a = pass(pod("a"));
  EXPECT_FALSE(a.result);
  // The controller puts it there as it was before its deletion, then as it is.
  applyEverywhere(slice({{"a", false}}));
  EXPECT_FALSE(a.result);
  applyEverywhere(slice({{"a", true}}));
  EXPECT_EQ(drained(a).complaint(), "");
}

TEST_F(DrainBarrierTest, SlicesOfEveryServiceThatSelectsThePodAreWaitedFor) {
  client_.seed(kServices, R"({"metadata":{"name":"more","namespace":"default"},"spec":{"selector":{"app":"web"}}})");
  slice({{"a", true}});
  slice({{"a", false}}, "more");
  Passing& a = pass(pod("a"));
  applyEverywhere(slice({{"a", true}, {"b", false}}));
  EXPECT_FALSE(a.result);
  // One that is deleted tells nothing any more.
  client_.drop(kServices, "default", "more");
  loop_.runReady();
  EXPECT_EQ(drained(a).complaint(), "");
}

TEST_F(DrainBarrierTest, ControllerThatIsAwayIsWaitedForWithinTheBound) {
  slice({{"a", false}});
  const TimePoint began = loop_.now();
  Passing& late = pass(pod("a"));
  Passing& never = pass(pod("b"));
  // As when the leader dies and another leads after three seconds.
  loop_.advance(3s);
  EXPECT_FALSE(late.result);
  applyEverywhere(slice({{"a", true}}));
  EXPECT_EQ(drained(late).complaint(), "");
  loop_.advance(3s);
  EXPECT_FALSE(drained(never).told);
  EXPECT_EQ(never.at - began, 5s);
}

TEST_F(DrainBarrierTest, ConsumerThatIsMuteIsLeftAfterTheBoundAndTold) {
  consumers_.mute.insert("n2");
  const uint64_t revision = slice({{"a", true}});
  const TimePoint began = loop_.now();
  Passing& a = pass(pod("a"));
  consumers_.apply("n1", revision);
  loop_.advance(10s);
  EXPECT_EQ(drained(a).missing, std::vector<std::string>{"n2"});
  EXPECT_EQ(drained(a).complaint(), "not confirmed by n2");
  EXPECT_EQ(a.at - began, 2s);
}

TEST_F(DrainBarrierTest, ConsumerThatIsSlowIsWaitedFor) {
  const uint64_t revision = slice({{"a", true}});
  Passing& a = pass(pod("a"));
  consumers_.apply("n1", revision);
  loop_.advance(1900ms);
  EXPECT_FALSE(a.result);
  consumers_.apply("n2", revision);
  loop_.runReady();
  EXPECT_EQ(drained(a).complaint(), "");
}

TEST_F(DrainBarrierTest, ConsumerThatTellsThatItIsBehindIsWaitedForLonger) {
  const uint64_t revision = slice({{"a", true}});
  consumers_.at["n2"] = revision - 1;
  Passing& a = pass(pod("a"));
  consumers_.apply("n1", revision + 1);
  loop_.advance(8s);
  EXPECT_FALSE(a.result);
  consumers_.apply("n2", revision);
  loop_.advance(10ms);
  EXPECT_EQ(drained(a).complaint(), "");
  consumers_.at["n1"] = slice({{"a", true}, {"b", true}});
  const TimePoint began = loop_.now();
  Passing& never = pass(pod("b"));
  loop_.advance(30s);
  EXPECT_EQ(drained(never).missing, std::vector<std::string>{"n2"});
  EXPECT_EQ(never.at - began, 10s);
}

TEST_F(DrainBarrierTest, ConsumerWhoseConnectionIsMadeAnewIsAskedAgain) {
  consumers_.broken["n2"] = Code::kUnavailable;
  const uint64_t revision = slice({{"a", true}});
  Passing& a = pass(pod("a"));
  applyEverywhere(revision);
  EXPECT_FALSE(a.result);
  consumers_.broken.clear();
  loop_.advance(1s);
  EXPECT_EQ(drained(a).complaint(), "");
}

TEST_F(DrainBarrierTest, ConsumerThatCannotTellIsNotWaitedFor) {
  consumers_.broken["n2"] = Code::kUnimplemented;
  consumers_.at["n1"] = slice({{"a", true}});
  EXPECT_EQ(drained(pass(pod("a"))).missing, std::vector<std::string>{"n2"});
}

TEST_F(DrainBarrierTest, SlicesAloneAreWaitedForWithoutAPod) {
  const uint64_t revision = slice({{"a", false}});
  Passing& slices = pass({"", "", "", revision});
  EXPECT_FALSE(slices.result);
  applyEverywhere(revision);
  EXPECT_EQ(drained(slices).complaint(), "");
}

TEST_F(DrainBarrierTest, DeadConsumersAreNotAsked) {
  consumers_.names.clear();
  slice({{"a", true}});
  EXPECT_EQ(drained(pass(pod("a"))).complaint(), "");
}

TEST_F(DrainBarrierTest, OneQuestionAtATimeServesManyPods) {
  std::vector<std::pair<std::string, bool>> shown;
  for (int i = 0; i < 50; ++i) shown.emplace_back(fmt::format("p{}", i), false);
  slice(shown);
  for (int i = 0; i < 50; ++i) pass(pod(fmt::format("p{}", i)));
  uint64_t revision = 0;
  for (auto& [name, terminating] : shown) {
    terminating = true;
    revision = slice(shown);
    loop_.runReady();
  }
  EXPECT_EQ(consumers_.mostOpen, 1);
  applyEverywhere(revision);
  for (const auto& passing : passings_) EXPECT_EQ(drained(*passing).complaint(), "");
  EXPECT_LE(consumers_.asked.size(), 4U);
}

TEST_F(DrainBarrierTest, ServerThatStopsSaysSo) {
  slice({{"a", false}});
  Passing& a = pass(pod("a"));
  runOn(loop_, barrier_->stop());
  loop_.runReady();
  ASSERT_TRUE(a.result);
  EXPECT_TRUE(a.result->error().is(Code::kUnavailable));
}

TEST(NodeConsumersTest, NodesLiveWhileTheyAreReadyAndTheirLeasesAreRenewed) {
  SimLoop loop;
  client::FakeClient client(loop);
  Tunnels tunnels(loop);
  NodeConsumers nodes(loop, client, tunnels);
  nodes.start();
  for (std::string name : {"n1", "n2", "n3"}) {
    client.seed(kNodes,
                {{"metadata", json::object{{"name", name}}},
                 {"status", json::object{{"conditions",
                                          json::array{json::object{{"type", "Ready"},
                                                                   {"status", name == "n3" ? "Unknown" : "True"}}}}}}});
    client.seed(kLeases, {{"metadata", json::object{{"name", name}, {"namespace", "kube-node-lease"}}},
                          {"spec", json::object{{"renewTime", "1"}}}});
  }
  EXPECT_EQ(nodes.living(), (std::vector<std::string>{"n1", "n2"}));
  loop.advance(5s);
  client.change(kLeases, "kube-node-lease", "n1",
                [](json::object& lease) { client::at(lease, {"spec"})["renewTime"] = "2"; });
  loop.advance(4s);
  EXPECT_EQ(nodes.living(), std::vector<std::string>{"n1"});
  EXPECT_TRUE(runOn(loop, nodes.applied("n1", 1, 1s)).error().is(Code::kUnavailable));
  nodes.stop();
}

}  // namespace
}  // namespace dhow::apiserver
