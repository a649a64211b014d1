#include "fence.h"

#include <gtest/gtest.h>

#include "base/files.h"
#include "client/fake_client.h"
#include "client/node_lease.h"
#include "fakes.h"
#include "node_status.h"
#include "pod_manager.h"

namespace dhow::node {
namespace {

using namespace std::chrono_literals;
using dhow::object::resources::kLeases;
using dhow::object::resources::kPods;

class FenceTest : public ::testing::Test {
 protected:
  FenceTest()
      : dir_(*makeTempDir(::testing::TempDir(), "fence")),
        client_(loop_),
        events_(loop_, client_, {.component = "kubelet", .host = "n1"}),
        runtime_(loop_),
        tokens_(loop_),
        context_{loop_,      runtime_, images_, network_, tokens_, objects_, services_,
                 connector_, offload_, client_, events_,  {},      {},       {}} {
    context_.node.name = "n1";
    context_.node.addresses = {"10.0.0.5"};
    context_.node.cgroupParent = "/pods";
    context_.node.dnsAddress = "10.96.0.10";
    context_.node.domain = "cluster.local";
    context_.paths.data = dir_;
    context_.paths.run = dir_ + "/run";
  }
  ~FenceTest() override {
    if (pods_) runOn(loop_, pods_->stop());
    runOn(loop_, events_.stop());
    (void)removeTree(dir_);
  }
  void manage(Fence& fence) {
    pods_ = std::make_unique<PodManager>(context_, client_.of(kPods), 110);
    pods_->fenceBy(fence);
    ASSERT_TRUE(runOn(loop_, pods_->recover()).ok());
    pods_->start();
  }
  void pod(std::string name, bool identity) {
    json::object metadata{{"name", name}, {"namespace", "default"}, {"uid", "uid-" + name}};
    if (identity) metadata["annotations"] = json::object{{"dhow.io/exclusive", "true"}};
    client_.seed(kPods, {{"apiVersion", "v1"},
                         {"kind", "Pod"},
                         {"metadata", std::move(metadata)},
                         {"spec",
                          {{"nodeName", "n1"},
                           {"restartPolicy", "Always"},
                           {"terminationGracePeriodSeconds", 30},
                           {"containers", json::array{{{"name", "c"}, {"image", "web:1"}}}}}}});
  }
  std::string phase(std::string name) {
    ObjectPtr found = client_.find(kPods, "default", name);
    return found ? std::string(text(found->root(), {"status", "phase"})) : "";
  }
  size_t running() {
    size_t out = 0;
    for (PodWorker* worker : pods_->workers()) {
      for (const ContainerRecord& record : worker->containers())
        out += record.state == ContainerRecord::State::kRunning;
    }
    return out;
  }

  SimLoop loop_;
  std::string dir_;
  client::FakeClient client_;
  client::EventRecorder events_;
  FakeRuntime runtime_;
  FakeImages images_;
  FakeNetwork network_;
  FakeTokens tokens_;
  FakeObjects objects_;
  FakeServices services_;
  FakeConnector connector_;
  InlineOffload offload_;
  WorkerContext context_;
  std::unique_ptr<PodManager> pods_;
};

TEST_F(FenceTest, HoldsFromTheMomentOfAskingAndIsKnownToTheNextAgent) {
  Fence fence(loop_, dir_ + "/lease");
  int lost = 0, held = 0;
  fence.onLost = [&] { ++lost; };
  fence.onHeld = [&] { ++held; };
  EXPECT_FALSE(fence.holds());
  const TimePoint sent = loop_.now();
  loop_.advance(2s);
  fence.renewed(sent);
  EXPECT_TRUE(fence.holds());
  EXPECT_EQ(held, 1);
  EXPECT_TRUE(Fence(loop_, dir_ + "/lease").holds());
  loop_.advance(client::kSelfFenceAfter - 2s);
  EXPECT_FALSE(fence.holds());
  EXPECT_EQ(lost, 1);
  EXPECT_FALSE(Fence(loop_, dir_ + "/lease").holds());
  fence.renewed(loop_.now());
  EXPECT_EQ(held, 2);
}

TEST_F(FenceTest, PodsWithAnIdentityEndWithoutGraceWhenTheLeaseIsLostAndOthersGoOn) {
  Fence fence(loop_, dir_ + "/lease");
  manage(fence);
  fence.renewed(loop_.now());
  pod("db", true);
  pod("web", false);
  loop_.advance(2s);
  ASSERT_EQ(running(), 2u);
  loop_.advance(client::kSelfFencedBy - 2s);
  EXPECT_EQ(running(), 1u);
  EXPECT_EQ(phase("db"), "Failed");
  EXPECT_EQ(phase("web"), "Running");
}

TEST_F(FenceTest, PodsWithAnIdentityWaitForTheLease) {
  Fence fence(loop_, dir_ + "/lease");
  manage(fence);
  pod("db", true);
  pod("web", false);
  loop_.advance(5s);
  EXPECT_EQ(running(), 1u);
  fence.renewed(loop_.now());
  loop_.advance(2s);
  EXPECT_EQ(running(), 2u);
}

TEST_F(FenceTest, MastersThatAllRefuseAreAsGoodAsARenewal) {
  NodeOptions options;
  options.name = "n1";
  options.servers = {"https://a", "https://b"};
  options.dataDir = dir_;
  NodeStatus status(loop_, client_, client_, options, MachineFacts{}, images_);
  std::vector<TimePoint> renewed;
  status.onRenewed = [&](TimePoint sent) { renewed.push_back(sent); };
  int refused = ECONNREFUSED;
  client_.inject = [&](const client::FakeClient::Action&) -> std::optional<Error> {
    return Error(Code::kUnavailable, "connect", refused);
  };
  status.start();
  loop_.advance(5s);
  EXPECT_GT(renewed.size(), 1u);
  renewed.clear();
  refused = EHOSTUNREACH;
  loop_.advance(5s);
  EXPECT_LE(renewed.size(), 1u);
  renewed.clear();
  loop_.advance(5s);
  EXPECT_TRUE(renewed.empty());
  client_.inject = nullptr;
  loop_.advance(5s);
  EXPECT_FALSE(renewed.empty());
  EXPECT_NE(client_.find(kLeases, "kube-node-lease", "n1"), nullptr);
  runOn(loop_, status.stop());
}

}  // namespace
}  // namespace dhow::node
