#include "services.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "client/fake_client.h"
#include "fakes.h"

namespace dhow::node {
namespace {

using namespace std::chrono_literals;
using object::resources::kEndpointSlices;
using object::resources::kServices;

class FakeSink final : public ServiceSink {
 public:
  Result<> applyAll(std::vector<ServicePort> ports, ServiceProxy::Snapshot) override {
    return update(std::move(ports), {});
  }
  Result<> update(std::vector<ServicePort> changed, std::vector<std::string>) override {
    if (!error.empty()) return Error(Code::kUnavailable, error);
    ++updates;
    for (const ServicePort& port : changed) endpoints = port.endpoints.size();
    return {};
  }
  void setDns(const ClusterDns::Service&) override {}
  void removeDns(const std::string&, const std::string&) override {}
  void setHealth(const std::string&, const std::string& name, ServiceHealth health) override { healths[name] = health; }
  std::map<std::string, ServiceHealth> healths;
  std::string error;
  int updates = 0;
  size_t endpoints = 0;
};

// Work that takes until the test lets it end.
class HeldOffload final : public Offload {
 public:
  explicit HeldOffload(Loop& loop) : changed_(loop) {}
  Task<> run(std::function<void()> work) override {
    while (held) co_await changed_.wait();
    work();
  }
  void release() {
    held = false;
    changed_.notify();
  }
  bool held = false;

 private:
  Signal changed_;
};

Task<> waitInto(ServiceFeed* feed, uint64_t revision, Duration limit, std::optional<uint64_t>* into) {
  *into = co_await feed->untilApplied(revision, limit);
}

class ServiceFeedTest : public ::testing::Test {
 protected:
  ServiceFeedTest()
      : client_(loop_),
        offload_(loop_),
        feed_(loop_, client_.of(kServices), client_.of(kEndpointSlices), sink_, offload_, {"n1", "z1", {}}, "") {
    client_.seed(kServices, R"({"metadata":{"name":"web","namespace":"default"},
      "spec":{"clusterIP":"10.96.0.20","selector":{"app":"web"},"ports":[{"port":80,"protocol":"TCP"}]}})");
    client_.seed(kEndpointSlices, R"({"metadata":{"name":"web-1","namespace":"default",
      "labels":{"kubernetes.io/service-name":"web"}},"endpoints":[],"ports":[{"name":"","port":80,"protocol":"TCP"}]})");
    feed_.start();
    loop_.runReady();
  }
  ~ServiceFeedTest() override {
    offload_.release();
    runOn(loop_, feed_.stop());
  }
  uint64_t change(int endpoints) {
    auto changed = client_.change(kEndpointSlices, "default", "web-1", [&](json::object& slice) {
      json::array all;
      for (int i = 0; i < endpoints; ++i)
        all.push_back(json::object{{"addresses", json::array{fmt::format("10.244.1.{}", i + 2)}}});
      slice["endpoints"] = std::move(all);
    });
    return changed->resourceVersion();
  }
  void wait(uint64_t revision, Duration limit, std::optional<uint64_t>& into) {
    spawn(loop_, waitInto(&feed_, revision, limit, &into));
    loop_.runReady();
  }

  SimLoop loop_;
  client::FakeClient client_;
  FakeSink sink_;
  HeldOffload offload_;
  ServiceFeed feed_;
};

TEST_F(ServiceFeedTest, RevisionIsAppliedWhenItsChangesAreInForce) {
  EXPECT_EQ(feed_.applied(), client_.of(kEndpointSlices).revision());
  offload_.held = true;
  const uint64_t first = change(1);
  EXPECT_LT(feed_.applied(), first);
  std::optional<uint64_t> one, two;
  wait(first, 10s, one);
  // While the first is being written, the second is not part of it.
  const uint64_t second = change(2);
  wait(second, 10s, two);
  EXPECT_FALSE(one || two);
  offload_.release();
  loop_.runReady();
  EXPECT_EQ(sink_.endpoints, 2U);
  EXPECT_GE(one.value_or(0), first);
  EXPECT_GE(two.value_or(0), second);
  EXPECT_EQ(feed_.applied(), second);
}

TEST_F(ServiceFeedTest, RevisionThatHasNotBeenSeenIsWaitedForWithinTheLimit) {
  std::optional<uint64_t> early, late;
  const uint64_t before = feed_.applied();
  wait(before + 1, 2s, early);
  loop_.advance(3s);
  EXPECT_EQ(early, before);
  wait(before + 1, 2s, late);
  const uint64_t revision = change(1);
  loop_.runReady();
  EXPECT_EQ(late, revision);
}

TEST_F(ServiceFeedTest, RemovalOfASliceIsAChangeLikeAnother) {
  client_.drop(kEndpointSlices, "default", "web-1");
  EXPECT_LT(feed_.applied(), client_.of(kEndpointSlices).revision());
  loop_.runReady();
  EXPECT_EQ(feed_.applied(), client_.of(kEndpointSlices).revision());
}

TEST_F(ServiceFeedTest, HealthCountsReadyEndpointsOfThisNodeWhileThePolicyIsLocal) {
  auto setSpec = [&](std::string_view policy) {
    client_.change(kServices, "default", "web", [&](json::object& service) {
      auto& spec = service["spec"].as_object();
      spec["type"] = "LoadBalancer";
      spec["externalTrafficPolicy"] = policy;
      spec["healthCheckNodePort"] = 31500;
    });
    loop_.runReady();
  };
  client_.change(kEndpointSlices, "default", "web-1", [](json::object& slice) {
    slice["endpoints"] = boost::json::parse(R"([{"addresses":["10.244.1.2"],"nodeName":"n1"},
      {"addresses":["10.244.1.3"],"nodeName":"n1","conditions":{"ready":false}},
      {"addresses":["10.244.2.2"],"nodeName":"n2"}])");
  });
  setSpec("Local");
  EXPECT_EQ(sink_.healths["web"].port, 31500);
  EXPECT_EQ(sink_.healths["web"].localEndpoints, 1U);
  setSpec("Cluster");
  EXPECT_EQ(sink_.healths["web"].port, 0);
  setSpec("Local");
  EXPECT_EQ(sink_.healths["web"].port, 31500);
  client_.drop(kServices, "default", "web");
  loop_.runReady();
  EXPECT_EQ(sink_.healths["web"].port, 0);
}

TEST_F(ServiceFeedTest, AnotherZoneOfTheNodeChoosesOtherEndpoints) {
  client_.change(kEndpointSlices, "default", "web-1", [](json::object& slice) {
    slice["endpoints"] = boost::json::parse(R"([{"addresses":["10.244.1.2"],"hints":{"forZones":[{"name":"z1"}]}},
      {"addresses":["10.244.1.3"],"hints":{"forZones":[{"name":"z2"}]}},
      {"addresses":["10.244.1.4"],"hints":{"forZones":[{"name":"z2"}]}}])");
  });
  loop_.runReady();
  EXPECT_EQ(sink_.endpoints, 1U);
  feed_.setZone("z2");
  loop_.runReady();
  EXPECT_EQ(sink_.endpoints, 2U);
  feed_.setZone("");
  loop_.runReady();
  EXPECT_EQ(sink_.endpoints, 3U) << "nobody is nearer than another";
}

TEST_F(ServiceFeedTest, WhatCouldNotBeWrittenIsNotApplied) {
  sink_.error = "no memory";
  const uint64_t revision = change(1);
  loop_.runReady();
  EXPECT_EQ(feed_.applied(), 0U);
  std::optional<uint64_t> applied;
  wait(revision, 10s, applied);
  sink_.error.clear();
  loop_.advance(2s);
  EXPECT_EQ(applied, revision);
}

}  // namespace
}  // namespace dhow::node
