#include "client/node_lease.h"

#include <gtest/gtest.h>

#include "client/fake_client.h"
#include "object/resource_names.h"

namespace dhow::client {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

class IngressClients : public ::testing::Test {
 protected:
  void serves(const char* status, const char* reason) {
    const json::array conditions{json::object{{"type", kServesIngress}, {"status", status}, {"reason", reason}}};
    if (!api_.find(object::resources::kNodes, "", "n1"))
      api_.seed(object::resources::kNodes,
                {{"metadata", json::object{{"name", "n1"}}}, {"status", json::object{{"conditions", conditions}}}});
    else
      api_.change(object::resources::kNodes, "", "n1",
                  [&](json::object& node) { node["status"].as_object()["conditions"] = conditions; });
    loop_.runReady();
  }
  void begin(Duration limit) {
    spawn(loop_, [](IngressClients* self, Duration time) -> Task<> {
      auto done = co_await letIngressClientsGo(self->loop_, self->api_, "n1", time);
      self->told_ = done.ok() ? "gone" : done.error().message();
    }(this, limit));
    loop_.runReady();
  }
  bool asked() { return !api_.find(object::resources::kNodes, "", "n1")->annotation(kIngressLeavesSince).empty(); }

  SimLoop loop_;
  FakeClient api_{loop_};
  std::string told_;
};

TEST_F(IngressClients, AreWaitedFor) {
  serves("True", "Serving");
  begin(5min);
  EXPECT_TRUE(asked());
  serves("True", kIngressLeaves);
  loop_.advance(1min);
  EXPECT_EQ(told_, "");
  serves("False", "Left");
  EXPECT_EQ(told_, "gone");
  // Who comes again stays.
  bool kept = false;
  spawn(loop_, [](FakeClient* api, bool* done) -> Task<> {
    auto stays = co_await keepIngressClients(*api, "n1");
    *done = stays.ok();
  }(&api_, &kept));
  loop_.runReady();
  EXPECT_TRUE(kept);
  EXPECT_FALSE(asked());
}

TEST_F(IngressClients, AreNotWaitedForForever) {
  serves("True", "Serving");
  begin(5min);
  loop_.advance(kIngressLeaveHeard);
  EXPECT_EQ(told_, "node n1 does not let the clients of its Ingresses go");
  begin(1min);
  serves("True", kIngressLeaves);
  loop_.advance(1min);
  EXPECT_EQ(told_, "clients of Ingresses have connections to node n1");
  begin(1min);
  api_.drop(object::resources::kNodes, "", "n1");
  loop_.runReady();
  EXPECT_EQ(told_, "node n1 is deleted");
}

TEST_F(IngressClients, OfANodeThatServesNoneAreNone) {
  begin(5min);
  EXPECT_EQ(told_, "gone");
  serves("False", "");
  told_ = "";
  begin(5min);
  EXPECT_EQ(told_, "gone");
  EXPECT_FALSE(asked());
}

}  // namespace
}  // namespace dhow::client
