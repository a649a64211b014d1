#include "ingress_leave.h"

#include <gtest/gtest.h>

#include "client/fake_client.h"
#include "client/node_lease.h"
#include "fakes.h"
#include "object/labels.h"
#include "object/resource_names.h"

namespace dhow::node {
namespace {

namespace resources = object::resources;
using namespace std::chrono_literals;

class IngressLeaveTest : public ::testing::Test {
 protected:
  IngressLeaveTest() : api_(loop_), barrier_(loop_), leave_(loop_, api_, barrier_, "n1") {
    api_.seed(resources::kNodes, R"({"metadata":{"name":"n1"}})");
    api_.seed(
        resources::kEndpointSlices,
        {{"metadata",
          json::object{{"name", "dhow-ingress"},
                       {"namespace", "kube-system"},
                       {"labels", json::object{{object::kSliceManagedByLabel, object::kIngressSliceController}}}}},
         {"endpoints", both()}});
    leave_.onLeave = [this](bool leave) { told_.push_back(leave); };
    leave_.start();
    loop_.runReady();
  }
  ~IngressLeaveTest() override {
    barrier_.answer(client::Drained{});
    runOn(loop_, leave_.stop());
  }
  static json::array both() { return {json::object{{"nodeName", "n1"}}, json::object{{"nodeName", "n2"}}}; }
  void annotate(const char* since) {
    api_.change(resources::kNodes, "", "n1", [&](json::object& node) {
      node["metadata"].as_object()["annotations"] = json::object{{client::kIngressLeavesSince, since}};
    });
    loop_.runReady();
  }
  uint64_t list(json::array endpoints) {
    auto changed = api_.change(resources::kEndpointSlices, "kube-system", "dhow-ingress",
                               [&](json::object& slice) { slice["endpoints"] = std::move(endpoints); });
    loop_.runReady();
    return changed->resourceVersion();
  }

  SimLoop loop_;
  client::FakeClient api_;
  FakeBarrier barrier_;
  IngressLeave leave_;
  std::vector<bool> told_;
};

TEST_F(IngressLeaveTest, ClientsAreLetGoOnceEverybodyKnows) {
  annotate("2026-01-01T00:00:00Z");
  EXPECT_TRUE(barrier_.asked.empty());
  const uint64_t revision = list({json::object{{"nodeName", "n2"}}});
  ASSERT_EQ(barrier_.asked.size(), 1U);
  EXPECT_EQ(barrier_.asked[0].revision, revision);
  EXPECT_EQ(barrier_.asked[0].name, "");
  EXPECT_TRUE(told_.empty());
  barrier_.answer(client::Drained{});
  loop_.runReady();
  EXPECT_EQ(told_, std::vector<bool>{true});
  annotate("");
  EXPECT_EQ(told_, (std::vector<bool>{true, false}));
}

TEST_F(IngressLeaveTest, GoesOnWhereNobodyTakesItOffTheList) {
  barrier_.none = true;
  annotate("2026-01-01T00:00:00Z");
  loop_.advance(9s);
  EXPECT_TRUE(told_.empty());
  loop_.advance(2s);
  EXPECT_EQ(told_, std::vector<bool>{true});
}

TEST_F(IngressLeaveTest, StaysWhenItIsWantedAgain) {
  annotate("2026-01-01T00:00:00Z");
  annotate("");
  list({json::object{{"nodeName", "n2"}}});
  loop_.advance(20s);
  EXPECT_TRUE(told_.empty());
  EXPECT_TRUE(barrier_.asked.empty());
}

}  // namespace
}  // namespace dhow::node
