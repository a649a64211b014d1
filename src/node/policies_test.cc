#include "node/policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "client/fake_client.h"
#include "fakes.h"
#include "policy_feed.h"

namespace dhow::node {
namespace {

using namespace std::chrono_literals;
namespace kinds = dhow::object::resources;
using testing::ElementsAre;
using testing::Pair;

constexpr Protocol kTcp = Protocol::kTcp, kUdp = Protocol::kUdp;

IpAddress ip(const char* text) {
  return IpAddress::parse(text).value();
}
ObjectPtr parse(std::string_view text) {
  return Object::make(json::parse(text).get_object());
}
ObjectPtr pod(std::string_view ns, std::string_view name, std::string_view labels, std::string_view address) {
  return parse(fmt::format(
      R"({{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{1}","namespace":"{0}","uid":"{0}-{1}","labels":{2}}},
          "spec":{{"containers":[{{"name":"c","ports":[{{"name":"http","containerPort":8080}}]}}]}},
          "status":{{"phase":"Running","podIP":"{3}","hostIP":"10.89.1.2"}}}})",
      ns, name, labels, address));
}
ObjectPtr policy(std::string_view ns, std::string_view name, std::string_view spec) {
  return parse(fmt::format(
      R"({{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{{"name":"{1}","namespace":"{0}"}},"spec":{2}}})",
      ns, name, spec));
}
ObjectPtr space(std::string_view name, std::string_view labels = "{}") {
  return parse(
      fmt::format(R"({{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{}","labels":{}}}}})", name, labels));
}

class PolicyModelTest : public testing::Test {
 protected:
  PolicyModelTest() {
    model_.setNamespace(space("a", R"({"team":"red"})"));
    model_.setNamespace(space("b", R"({"team":"blue"})"));
  }
  bool allowed(const ObjectPtr& from, const ObjectPtr& to, Protocol protocol = kTcp, uint16_t port = 8080) {
    return judge(model_, end(from), end(to), protocol, port).allowed();
  }
  bool allowed(const char* from, const ObjectPtr& to, uint16_t port = 8080) {
    return judge(model_, {nullptr, ip(from)}, end(to), kTcp, port).allowed();
  }
  static PolicyEnd end(const ObjectPtr& pod) { return {pod, podAddresses(*pod).front()}; }

  PolicyModel model_{false};
  const ObjectPtr web_ = pod("a", "web", R"({"app":"web"})", "10.244.1.2");
  const ObjectPtr client_ = pod("a", "client", R"({"app":"client"})", "10.244.1.3");
  const ObjectPtr other_ = pod("b", "client", R"({"app":"client"})", "10.244.2.3");
};

TEST_F(PolicyModelTest, PodsAreOpenUntilAPolicySelectsThemAndThenInThatDirectionOnly) {
  EXPECT_TRUE(allowed(other_, web_));
  model_.set(policy("a", "deny", R"({"podSelector":{},"policyTypes":["Ingress"]})"));
  EXPECT_FALSE(allowed(other_, web_));
  EXPECT_FALSE(allowed(client_, web_));
  EXPECT_TRUE(allowed(web_, other_));
  EXPECT_TRUE(allowed(web_, web_));
  EXPECT_TRUE(allowed("10.89.1.2", web_));  // its node
  EXPECT_FALSE(allowed("10.89.1.3", web_));
  model_.remove("a/deny");
  model_.set(policy("a", "quiet", R"({"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Egress"]})"));
  EXPECT_TRUE(allowed(other_, web_));
  EXPECT_FALSE(allowed(web_, other_));
  EXPECT_TRUE(allowed(client_, other_));
}

TEST_F(PolicyModelTest, WhatAnyPolicyAllowsIsAllowed) {
  model_.set(policy("a", "deny", R"({"podSelector":{},"policyTypes":["Ingress"]})"));
  model_.set(policy(
      "a", "own",
      R"({"podSelector":{},"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"client"}}}]}],"policyTypes":["Ingress"]})"));
  EXPECT_TRUE(allowed(client_, web_));
  EXPECT_FALSE(allowed(other_, web_));  // of another namespace
  model_.set(policy("a", "blue", R"({"podSelector":{},"policyTypes":["Ingress"],
      "ingress":[{"from":[{"namespaceSelector":{"matchLabels":{"team":"blue"}},"podSelector":{"matchLabels":{"app":"no"}}},
                          {"namespaceSelector":{"matchLabels":{"team":"blue"}}}],"ports":[{"port":"http"}]}]})"));
  EXPECT_TRUE(allowed(other_, web_));
  EXPECT_FALSE(allowed(other_, web_, kTcp, 80));
  EXPECT_FALSE(allowed(other_, web_, kUdp, 8080));
  const Verdict verdict = judge(model_, end(other_), end(web_), kTcp, 8080);
  ASSERT_TRUE(verdict.ingress.rule);
  const auto& source = verdict.ingress.isolation.sources[*verdict.ingress.rule];
  EXPECT_EQ(source.policy->object->key(), "a/blue");
  EXPECT_EQ(source.index, 0U);
  model_.setNamespace(space("b", R"({"team":"green"})"));
  EXPECT_FALSE(allowed(other_, web_));
}

TEST_F(PolicyModelTest, SelectorsOfOnePeerMustBothMatchAndSeveralPeersAreAlternatives) {
  model_.set(policy("a", "both", R"({"podSelector":{},"policyTypes":["Ingress"],
      "ingress":[{"from":[{"namespaceSelector":{},"podSelector":{"matchExpressions":[{"key":"app","operator":"NotIn","values":["client"]}]}},
                          {"ipBlock":{"cidr":"192.168.0.0/16","except":["192.168.7.0/24"]}}]}]})"));
  EXPECT_FALSE(allowed(other_, web_));
  EXPECT_TRUE(allowed(pod("b", "x", "{}", "10.244.2.9"), web_));
  EXPECT_TRUE(allowed("192.168.8.1", web_));
  EXPECT_FALSE(allowed("192.168.7.1", web_));
}

TEST_F(PolicyModelTest, PortsMayBeRangesAndNamesOfTheDestination) {
  model_.set(policy("a", "out", R"({"podSelector":{},"policyTypes":["Egress"],
      "egress":[{"ports":[{"port":"http"},{"port":30000,"endPort":30010,"protocol":"UDP"},{"protocol":"SCTP"}]}]})"));
  EXPECT_TRUE(allowed(web_, other_, kTcp, 8080));
  EXPECT_FALSE(allowed(web_, other_, kTcp, 8081));
  EXPECT_TRUE(allowed(web_, other_, kUdp, 30010));
  EXPECT_FALSE(allowed(web_, other_, kUdp, 30011));
  EXPECT_TRUE(allowed(web_, other_, Protocol::kSctp, 1));
}

TEST_F(PolicyModelTest, ARestrictedClusterIsolatesAllButItsOwn) {
  model_ = PolicyModel(true);
  model_.setNamespace(space("a"));
  model_.setNamespace(space("kube-system"));
  EXPECT_TRUE(model_.matters());
  EXPECT_FALSE(allowed(client_, web_));
  const ObjectPtr system = pod("kube-system", "x", "{}", "10.244.2.2");
  EXPECT_TRUE(allowed(system, pod("kube-system", "y", "{}", "10.244.2.4")));
  EXPECT_FALSE(allowed(system, web_));
  model_.set(
      policy("a", "open", R"({"podSelector":{},"policyTypes":["Ingress","Egress"],"ingress":[{}],"egress":[{}]})"));
  EXPECT_TRUE(allowed(client_, web_));
}

class RecordingSink final : public PolicySink {
 public:
  Result<> apply(PolicyTable::Subjects now, PolicyTable::Peers changed) override {
    ++calls;
    if (!error.empty()) return Error(Code::kUnavailable, error);
    subjects = std::move(now);
    last = changed;
    for (auto& [address, peer] : changed) peers[address] = peer;
    return {};
  }
  PolicyTable::Subjects subjects;
  PolicyTable::Peers peers, last;
  std::string error;
  int calls = 0;
};

class PolicyFeedTest : public testing::Test {
 protected:
  PolicyFeedTest() : dir_(*makeTempDir(testing::TempDir(), "policies")) {}
  ~PolicyFeedTest() override {
    end();
    (void)removeTree(dir_);
  }
  void begin(bool isolate = false, client::Cache* policies = nullptr) {
    feed_ = std::make_unique<PolicyFeed>(
        loop_, api_, policies ? *policies : api_.of(kinds::kNetworkPolicies), sink_, offload_,
        PolicyFeed::Options{isolate, dir_ + "/policies.jsonl", [this](const Object& pod) { closed_ += pod.name(); }});
  }
  void end() {
    if (feed_) runOn(loop_, feed_->stop());
    feed_.reset();
  }
  void seed(const ObjectPtr& object, const Resource& resource) { api_.seed(resource, object->root()); }
  // Whether the pod may run by now.
  std::optional<Result<>> protect(const ObjectPtr& pod, const char* address) {
    auto out = std::make_shared<std::optional<Result<>>>();
    spawn(loop_, wait(feed_.get(), pod, address, out));
    loop_.advance(500ms);
    return *out;
  }
  static Task<> wait(PolicyFeed* feed, ObjectPtr pod, std::string address,
                     std::shared_ptr<std::optional<Result<>>> out) {
    auto done = co_await feed->protect(std::move(pod), {std::move(address)});
    *out = std::move(done);
  }

  std::string dir_;
  SimLoop loop_;
  client::FakeClient api_{loop_};
  RecordingSink sink_;
  InlineOffload offload_;
  std::unique_ptr<PolicyFeed> feed_;
  std::string closed_;
  const ObjectPtr web_ = pod("a", "web", R"({"app":"web"})", "10.244.1.2");
  const ObjectPtr client_ = pod("a", "client", R"({"app":"client"})", "10.244.2.3");
  const ObjectPtr allow_ =
      policy("a", "allow", R"({"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Ingress"],
      "ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"client"}}}]}]})");
};

TEST_F(PolicyFeedTest, APodStartsWhenItsPoliciesAreInForce) {
  seed(space("a"), kinds::kNamespaces);
  seed(client_, kinds::kPods);
  seed(allow_, kinds::kNetworkPolicies);
  begin();
  feed_->start();
  auto started = protect(web_, "10.244.1.2");
  ASSERT_TRUE(started && started->ok());
  ASSERT_TRUE(sink_.subjects.contains(ip("10.244.1.2")));
  const auto& rules = *sink_.subjects[ip("10.244.1.2")].ingress;
  EXPECT_TRUE(allowingRule(rules, ip("10.244.2.3"), &*sink_.peers[ip("10.244.2.3")], kTcp, 1));
  // A change of a label is one peer's change; a pod that is gone is nobody.
  api_.change(kinds::kPods, "a", "client",
              [](json::object& pod) { pod["metadata"].get_object()["labels"] = json::object(); });
  loop_.advance(10ms);
  EXPECT_THAT(sink_.last, ElementsAre(Pair(ip("10.244.2.3"), PolicyPeer{})));
  api_.drop(kinds::kPods, "a", "client");
  loop_.advance(10ms);
  EXPECT_THAT(sink_.last, ElementsAre(Pair(ip("10.244.2.3"), std::nullopt)));
  feed_->release("a-web");
  loop_.advance(10ms);
  EXPECT_TRUE(sink_.subjects.empty());
}

TEST_F(PolicyFeedTest, APodDoesNotStartWithoutItsPolicies) {
  seed(allow_, kinds::kNetworkPolicies);
  begin();
  sink_.error = "no memory";
  auto early = protect(web_, "10.244.1.2");
  EXPECT_FALSE(early);  // nothing is known yet
  feed_->start();
  auto refused = protect(web_, "10.244.1.2");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->error().message(), "no memory");
  // One that no policy selects is not held.
  auto other = protect(client_, "10.244.1.3");
  EXPECT_TRUE(other && other->ok());
  sink_.error.clear();
  auto again = protect(web_, "10.244.1.2");
  EXPECT_TRUE(again && again->ok());
}

TEST_F(PolicyFeedTest, InARestrictedClusterAPodThatNothingOpensIsTold) {
  seed(space("a"), kinds::kNamespaces);
  seed(allow_, kinds::kNetworkPolicies);
  begin(true);
  feed_->start();
  ASSERT_TRUE(protect(web_, "10.244.1.2"));
  ASSERT_TRUE(protect(client_, "10.244.1.3"));
  EXPECT_EQ(closed_, "client");
  EXPECT_TRUE(sink_.subjects[ip("10.244.1.3")].egress);
  EXPECT_TRUE(sink_.subjects[ip("10.244.1.2")].egress->empty());
}

TEST_F(PolicyFeedTest, NothingIsWatchedWhileNothingIsIsolated) {
  begin();
  feed_->start();
  loop_.advance(100ms);
  EXPECT_EQ(api_.openWatches(), 0U);
  seed(allow_, kinds::kNetworkPolicies);
  loop_.advance(100ms);
  EXPECT_EQ(api_.openWatches(), 2U);
  api_.drop(kinds::kNetworkPolicies, "a", "allow");
  loop_.advance(100ms);
  EXPECT_EQ(api_.openWatches(), 0U);
}

TEST_F(PolicyFeedTest, WithoutAMasterTheLastKnownPoliciesHold) {
  seed(space("a"), kinds::kNamespaces);
  seed(client_, kinds::kPods);
  seed(allow_, kinds::kNetworkPolicies);
  begin();
  feed_->start();
  loop_.advance(10s);
  end();
  sink_ = RecordingSink();
  // Nobody answers any more.
  api_.injectRead = [](std::string_view, const Resource&) { return Error(Code::kUnavailable, "no master"); };
  client::MemoryCache policies(loop_);
  begin(false, &policies);
  feed_->adopt(web_, {"10.244.1.2"});
  feed_->start();
  loop_.advance(1s);
  ASSERT_TRUE(sink_.subjects.contains(ip("10.244.1.2")));
  const auto& rules = *sink_.subjects[ip("10.244.1.2")].ingress;
  EXPECT_TRUE(allowingRule(rules, ip("10.244.2.3"), &*sink_.peers[ip("10.244.2.3")], kTcp, 1));
  auto second = protect(pod("a", "web2", R"({"app":"web"})", "10.244.1.9"), "10.244.1.9");
  EXPECT_TRUE(second && second->ok());
  EXPECT_TRUE(sink_.subjects.contains(ip("10.244.1.9")));
  policies.close();
  end();
}

TEST_F(PolicyFeedTest, WithoutKnowledgeTheKernelKeepsWhatItHas) {
  client::MemoryCache policies(loop_);
  begin(true, &policies);
  feed_->adopt(web_, {"10.244.1.2"});
  feed_->start();
  loop_.advance(10s);
  EXPECT_EQ(sink_.calls, 0);
  policies.close();
  end();
}

}  // namespace
}  // namespace dhow::node
