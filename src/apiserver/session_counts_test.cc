// Agents over connections in memory, on the virtual clock.
#include "session_counts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/fake_client.h"
#include "client/fields.h"
#include "client/node_lease.h"
#include "http/fake_stream.h"
#include "http/server.h"
#include "settled.h"

namespace dhow::apiserver {
namespace {

using namespace std::chrono_literals;
using client::Held;
using object::resources::kLeases;
using object::resources::kNodes;
using object::resources::kPods;
using testing::ElementsAre;
using testing::IsEmpty;
namespace json = boost::json;

constexpr uint64_t kClock = 1'000'000;  // where the agents' numbers of changes begin

client::PodUse use(std::initializer_list<uint64_t> users, std::initializer_list<uint64_t> ended = {},
                   uint64_t connections = 0) {
  client::PodUse out;
  out.sticky = true;
  out.connections = connections;
  for (uint64_t user : users) out.users.add(user);
  for (uint64_t user : ended) out.ended.add(user);
  return out;
}

// Answers as an agent does (ingress/edge.cc).
class FakeAgent {
 public:
  FakeAgent(Loop& loop, std::string node, Tunnels& tunnels)
      : loop_(loop), node_(std::move(node)), tunnels_(tunnels), changed_(loop), gate_(loop) {}
  Task<> stop() {
    over_ = true;
    hangUp();
    if (server_) co_await server_->stop();
    co_await gate_.close();
  }
  void dialIn() {
    if (!server_)
      server_ = std::make_unique<http::Server>(
          loop_, http::Server::Options{}, [this](auto& request, auto& writer) { return serve(this, request, writer); });
    up_ = std::make_shared<http::FakePipe>(loop_);
    down_ = std::make_shared<http::FakePipe>(loop_);
    gate_.spawn(server_->serve(std::make_unique<http::FakeStream>(down_, up_), {}));
    tunnels_.add(node_, std::make_unique<http::FakeStream>(up_, down_));
  }
  void hangUp() {
    for (auto& pipe : {up_, down_})
      if (pipe) pipe->end();
    changed_.notify();
  }
  // What it counts from now on.
  void count(const std::string& pod, client::PodUse use) {
    report_.changed[pod] = {next(), std::move(use)};
    report_.all.insert(pod);
    changed_.notify();
  }
  void forget(const std::string& pod) {
    next();
    report_.changed.erase(pod);
    report_.all.erase(pod);
    changed_.notify();
  }
  // As a new process does whose clock says this.
  void beginAnew(uint64_t clock) {
    clock_ = clock;
    report_ = {};
  }
  void set(bool FakeAgent::* what, bool on) {
    this->*what = on;
    changed_.notify();
  }

  bool unable = false;                    // knows no such question
  bool mute = false;                      // never answers
  bool holdNews = false;                  // answers that wait for news stay on the way
  int fresh = 0, open = 0, mostOpen = 0;  // questions for fresh counts: all; at a time

 private:
  uint64_t next() { return report_.change = std::max(report_.change + 1, clock_); }
  static Task<> serve(FakeAgent* self, http::Request& request, http::ResponseWriter& writer) {
    const client::SessionQuestion question = client::sessionQuestion(request.query);
    const TimePoint end = self->loop_.now() + question.limit;
    if (question.fresh) {
      ++self->fresh;
      self->mostOpen = std::max(self->mostOpen, ++self->open);
    }
    while (!self->over_ && !writer.closed()) {
      const bool news = question.fresh || self->report_.change > question.seen || self->loop_.now() >= end;
      if (news && !self->mute) break;
      co_await self->changed_.waitFor(self->mute ? Duration(1h) : end - self->loop_.now());
    }
    http::Response response;
    client::SessionReport report = self->report_;
    std::erase_if(report.changed, [&](const auto& one) { return one.second.first <= question.seen; });
    response.body = client::encodeSessions(report);
    if (self->unable) response.status = 404;
    while (!self->over_ && !writer.closed() && self->holdNews && !question.fresh) co_await self->changed_.wait();
    if (question.fresh) --self->open;
    auto sent = co_await writer.send(std::move(response));
    (void)sent;
  }

  Loop& loop_;
  const std::string node_;
  Tunnels& tunnels_;
  std::unique_ptr<http::Server> server_;
  std::shared_ptr<http::FakePipe> up_, down_;
  uint64_t clock_ = kClock;
  client::SessionReport report_;
  bool over_ = false;
  Signal changed_;
  Gate gate_;
};

using Asked = Settled<Held>;

class SessionCountsTest : public testing::Test {
 protected:
  SessionCountsTest()
      : client_(loop_),
        tunnels_(loop_),
        nodes_(loop_, client_, tunnels_),
        counts_(loop_, client_, nodes_, tunnels_),
        one_(loop_, "n1", tunnels_),
        two_(loop_, "n2", tunnels_) {
    for (std::string name : {"n1", "n2"}) {
      client_.seed(kNodes,
                   {{"metadata", json::object{{"name", name}}},
                    {"status", json::object{{"conditions", json::array{json::object{{"type", client::kServesIngress},
                                                                                    {"status", "True"}}}}}}});
      client_.seed(kLeases, {{"metadata", json::object{{"name", name}, {"namespace", "kube-node-lease"}}},
                             {"spec", json::object{{"renewTime", "0"}}}});
    }
    client_.seed(kPods, json::object{{"metadata", json::object{{"name", "p"}, {"namespace", "d"}, {"uid", "u"}}},
                                     {"spec", json::object{{"nodeName", "n3"}}}});
    nodes_.start();
    counts_.start();
    one_.dialIn();
    two_.dialIn();
    loop_.runReady();
  }
  ~SessionCountsTest() override {
    runOn(loop_, one_.stop());
    runOn(loop_, two_.stop());
    tunnels_.close();
    nodes_.stop();
    runOn(loop_, counts_.stop());
  }
  // Time passes, and leases are renewed.
  void pass(Duration span, std::initializer_list<const char*> living = {"n1", "n2"}) {
    const TimePoint end = loop_.now() + span;
    while (loop_.now() < end) {
      for (const char* name : living)
        client_.change(kLeases, "kube-node-lease", name, [&](json::object& lease) {
          client::at(lease, {"spec"})["renewTime"] = std::to_string(++renewed_);
        });
      loop_.advance(std::min<Duration>(client::kRenewEvery, end - loop_.now()));
    }
  }
  Asked& ask(std::optional<std::pair<uint64_t, uint64_t>> known = std::nullopt) {
    asked_.push_back(std::make_unique<Asked>());
    spawn(loop_, settle(counts_.held({"d", "p", "u", known}), &loop_, asked_.back().get()));
    loop_.runReady();
    return *asked_.back();
  }
  static Held told(const Asked& asked) {
    EXPECT_TRUE(asked.result.has_value());
    if (!asked.result || !asked.result->ok()) return {.missing = {"no result"}};
    return **asked.result;
  }
  uint64_t sessions() const {
    auto all = counts_.all();
    return all.contains("u") ? all.at("u").sessions : 0;
  }
  bool counted() const { return counts_.all().contains("u"); }

  SimLoop loop_;
  client::FakeClient client_;
  Tunnels tunnels_;
  NodeConsumers nodes_;
  SessionCounts counts_;
  FakeAgent one_, two_;
  std::vector<std::unique_ptr<Asked>> asked_;
  int renewed_ = 0;
};

TEST_F(SessionCountsTest, UsersOfSeveralNodesAreCountedOnceAndThoseThatEndedNowhere) {
  one_.count("u", use({1, 2, 3}, {}, 4));
  two_.count("u", use({3, 4, 5}, {1, 5}, 1));
  one_.count("other", use({7}));
  const Held expected{.counted = true, .sticky = true, .sessions = 3, .connections = 5, .missing = {}};
  EXPECT_EQ(told(ask()), expected);
  EXPECT_EQ(counts_.all().at("u"), expected);
  EXPECT_EQ(counts_.all().at("other").sessions, 1U);
  EXPECT_EQ(counts_.cell(*client_.find(kPods, "d", "p")), "3");
  EXPECT_EQ(counts_.column()(*client_.find(kPods, "d", "p")), "3");
  EXPECT_EQ(counts_.metrics(),
            "# TYPE dhow_pod_sessions gauge\ndhow_pod_sessions{namespace=\"d\",pod=\"p\"} 3\n"
            "# TYPE dhow_pod_connections gauge\ndhow_pod_connections{namespace=\"d\",pod=\"p\"} 5\n");
  const auto objects = counts_.objects("d");
  ASSERT_EQ(objects.size(), 1U);
  EXPECT_EQ(client::number(objects[0]->root(), {"sessions"}), 3);
  EXPECT_EQ(client::number(objects[0]->root(), {"connections"}), 5);
  EXPECT_EQ(client::text(objects[0]->root(), {"node"}), "n3");
  EXPECT_TRUE(counts_.objects("elsewhere").empty());
}

TEST_F(SessionCountsTest, NewsComesByItselfAtMostOnceASecond) {
  one_.count("u", use({1}));
  loop_.runReady();
  EXPECT_EQ(sessions(), 1U);
  one_.count("u", use({1, 2}));
  loop_.advance(500ms);
  EXPECT_EQ(sessions(), 1U);
  loop_.advance(600ms);
  EXPECT_EQ(sessions(), 2U);
  EXPECT_EQ(one_.fresh, 0);
  one_.forget("u");
  pass(2s);
  EXPECT_FALSE(counted());
}

TEST_F(SessionCountsTest, NodeThatIsDeadByItsLeaseHoldsNothing) {
  one_.count("u", use({1}));
  two_.count("u", use({2}));
  pass(2s);
  EXPECT_EQ(sessions(), 2U);
  // Its tunnel is still there, as when a machine loses its power.
  two_.set(&FakeAgent::mute, true);
  pass(12s, {"n1"});
  EXPECT_EQ(sessions(), 1U);
  EXPECT_EQ(told(ask()), (Held{.counted = true, .sticky = true, .sessions = 1, .connections = 0, .missing = {}}));
}

TEST_F(SessionCountsTest, HeldWaitsForOtherCountsThanThoseThatAreKnown) {
  one_.count("u", use({1}));
  loop_.runReady();
  const TimePoint began = loop_.now();
  Asked& news = ask({{1, 0}});
  Asked& differs = ask({{2, 0}});
  EXPECT_EQ(told(differs).sessions, 1U);
  pass(3s);
  EXPECT_FALSE(news.result);
  // Others' news are none.
  two_.count("other", use({9}));
  pass(1s);
  EXPECT_FALSE(news.result);
  one_.count("u", use({1}, {}, 1));
  pass(1s);
  EXPECT_EQ(told(news).connections, 1U);
  EXPECT_LE(news.at - began, 5s);
  Asked& nothing = ask({{1, 1}});
  pass(client::kHeldLimit - 1s);
  EXPECT_FALSE(nothing.result);
  pass(1s);
  EXPECT_EQ(told(nothing).sessions, 1U);
  EXPECT_EQ(one_.fresh, 0);
}

TEST_F(SessionCountsTest, HeldTellsWhoIsMissing) {
  one_.count("u", use({1}));
  two_.count("u", use({2}));
  pass(1s);
  two_.set(&FakeAgent::mute, true);
  const TimePoint began = loop_.now();
  Asked& asked = ask();
  pass(3s);
  // What it told before still counts.
  EXPECT_EQ(told(asked), (Held{.counted = true, .sticky = true, .sessions = 2, .connections = 0, .missing = {"n2"}}));
  EXPECT_EQ(asked.at - began, 2s);
  two_.hangUp();
  loop_.runReady();
  EXPECT_THAT(told(ask({{0, 0}})).missing, ElementsAre("n2"));
  Asked& fresh = ask();
  pass(3s);
  EXPECT_THAT(told(fresh).missing, ElementsAre("n2"));
}

TEST_F(SessionCountsTest, NodeThatDialsInWhileCountsAreFreshenedIsAsked) {
  two_.hangUp();
  loop_.runReady();
  Asked& asked = ask();
  loop_.advance(500ms);
  two_.count("u", use({2}));
  two_.dialIn();
  pass(2s);
  EXPECT_EQ(told(asked).sessions, 1U);
  EXPECT_THAT(told(asked).missing, IsEmpty());
}

TEST_F(SessionCountsTest, QuestionOnAConnectionThatBreaksIsAskedAgainOnTheNext) {
  two_.set(&FakeAgent::mute, true);
  Asked& asked = ask();
  two_.hangUp();
  loop_.runReady();
  EXPECT_FALSE(asked.result);
  two_.set(&FakeAgent::mute, false);
  two_.count("u", use({2}));
  two_.dialIn();
  loop_.runReady();
  EXPECT_EQ(told(asked).sessions, 1U);
  EXPECT_THAT(told(asked).missing, IsEmpty());
}

TEST_F(SessionCountsTest, NodeThatWasForgottenWhileCountsAreFreshenedIsAskedForAllOfThem) {
  two_.count("u", use({2}));
  loop_.runReady();
  two_.hangUp();
  pass(client::kSilentAfter);
  EXPECT_TRUE(counted());
  Asked& asked = ask();
  pass(1500ms);
  EXPECT_FALSE(counted());
  EXPECT_FALSE(asked.result);
  two_.dialIn();
  loop_.runReady();
  EXPECT_EQ(told(asked).sessions, 1U);
}

TEST_F(SessionCountsTest, NodeWhoseConnectionBreaksIsForgottenUnlessItDialsInAgain) {
  two_.count("u", use({2}));
  loop_.runReady();
  two_.hangUp();
  pass(client::kSilentAfter - 2s);
  EXPECT_EQ(sessions(), 1U);
  two_.dialIn();
  pass(client::kSilentAfter * 2);
  EXPECT_EQ(sessions(), 1U);
  two_.hangUp();
  Asked& news = ask({{1, 0}});
  pass(client::kSilentAfter + 2s);
  EXPECT_FALSE(counted());
  EXPECT_FALSE(told(news).counted);
  EXPECT_THAT(told(news).missing, ElementsAre("n2"));
}

TEST_F(SessionCountsTest, AgentThatKnowsNoSuchQuestionCountsAsNone) {
  one_.count("u", use({1}));
  two_.count("u", use({2}));
  pass(1s);
  EXPECT_EQ(sessions(), 2U);
  // As after a way back to an earlier version.
  two_.hangUp();
  two_.unable = true;
  two_.dialIn();
  loop_.runReady();
  const Held expected{.counted = true, .sticky = true, .sessions = 1, .connections = 0, .missing = {}};
  EXPECT_EQ(told(ask()), expected);
  EXPECT_EQ(told(ask({{0, 0}})), expected);
  two_.hangUp();
  two_.unable = false;
  two_.dialIn();
  loop_.runReady();
  EXPECT_EQ(told(ask()).sessions, 2U);
}

TEST_F(SessionCountsTest, AnswersThatCrossAreOrdered) {
  one_.set(&FakeAgent::holdNews, true);
  one_.count("u", use({1}));
  loop_.runReady();
  // The news is on the way while the pod is counted no more, and another one is.
  one_.forget("u");
  one_.count("other", use({5}));
  EXPECT_FALSE(told(ask()).counted);
  one_.set(&FakeAgent::holdNews, false);
  loop_.runReady();
  EXPECT_FALSE(counted());
  EXPECT_EQ(counts_.all().at("other").sessions, 1U);
  // Nor does an older count take the place of a newer one.
  pass(2s);
  one_.set(&FakeAgent::holdNews, true);
  one_.count("u", use({1}));
  loop_.runReady();
  one_.count("u", use({1, 2}));
  EXPECT_EQ(told(ask()).sessions, 2U);
  one_.set(&FakeAgent::holdNews, false);
  loop_.runReady();
  EXPECT_EQ(sessions(), 2U);
}

TEST_F(SessionCountsTest, AgentWhoseClockHasGoneBackIsBelieved) {
  one_.count("u", use({1, 2}));
  pass(1s);
  one_.hangUp();
  one_.beginAnew(kClock / 2);
  one_.count("u", use({1}));
  one_.dialIn();
  pass(2s);
  EXPECT_EQ(sessions(), 1U);
  one_.count("u", use({1, 3, 4}));
  EXPECT_EQ(told(ask()).sessions, 3U);
}

TEST_F(SessionCountsTest, OneQuestionAtATimeServesManyPods) {
  for (FakeAgent* agent : {&one_, &two_}) agent->set(&FakeAgent::mute, true);
  for (int i = 0; i < 50; ++i) ask();
  for (FakeAgent* agent : {&one_, &two_}) {
    EXPECT_EQ(agent->fresh, 1);
    agent->set(&FakeAgent::mute, false);
  }
  pass(1s);
  for (const auto& asked : asked_) EXPECT_THAT(told(*asked).missing, IsEmpty());
  for (FakeAgent* agent : {&one_, &two_}) {
    EXPECT_EQ(agent->mostOpen, 1);
    EXPECT_EQ(agent->fresh, 2);
  }
}

TEST_F(SessionCountsTest, ServerThatStopsSaysSo) {
  Asked& news = ask({{0, 0}});
  one_.set(&FakeAgent::mute, true);
  Asked& fresh = ask();
  EXPECT_FALSE(news.result);
  EXPECT_FALSE(fresh.result);
  tunnels_.close();
  runOn(loop_, counts_.stop());
  loop_.runReady();
  ASSERT_TRUE(news.result && fresh.result);
  EXPECT_TRUE(news.result->error().is(Code::kUnavailable));
  EXPECT_TRUE(fresh.result->error().is(Code::kUnavailable));
}

}  // namespace
}  // namespace dhow::apiserver
