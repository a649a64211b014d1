// Three API servers over real etcd members.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include <set>

#include "apiserver/server.h"
#include "base/gate.h"
#include "client/fields.h"
#include "store/etcd_testing.h"

namespace dhow::apiserver {
namespace {

using namespace std::chrono_literals;
namespace resources = object::resources;

struct Master {
  std::unique_ptr<store::EtcdStore> store;
  std::unique_ptr<ApiServer> server;
  std::unique_ptr<client::Client> client;
};

class EtcdServers : public testing::Test {
 protected:
  void SetUp() override {
    if (!store::haveEtcd()) GTEST_SKIP() << "etcd is not installed";
    etcd_ = std::make_unique<store::TestEtcd>(3, true);
    ASSERT_TRUE(etcd_->waitReady(loop_));
    for (size_t i = 0; i < 3; ++i) {
      auto options = etcd_->options("/dhow/test");
      // Each asks a member of its own first.
      std::rotate(options.endpoints.begin(), options.endpoints.begin() + static_cast<long>(i), options.endpoints.end());
      auto opened = runOn(loop_, store::EtcdStore::open(loop_, std::move(options)));
      ASSERT_TRUE(opened.ok()) << opened.error().message();
      Master& master = masters_.emplace_back();
      master.store = std::move(*opened);
      ServerOptions server;
      server.advertiseAddress = fmt::format("10.0.0.{}", i + 1);
      server.sharedStore = true;
      master.server = std::make_unique<ApiServer>(loop_, *master.store, object::Kinds::builtin(), server);
      master.client = master.server->clientFor("tester");
    }
    Gate gate(loop_);
    for (auto& master : masters_) gate.spawn(start(&master));
    runOn(loop_, gate.close());
  }
  void TearDown() override {
    for (auto& master : masters_) {
      runOn(loop_, master.server->stop());
      runOn(loop_, master.store->close());
    }
    masters_.clear();
    etcd_.reset();
  }
  static Task<> start(Master* master) {
    auto done = co_await master->server->start();
    EXPECT_TRUE(done.ok()) << done.error().message();
  }
  static Task<> createService(Master* master, int number, std::vector<Result<ObjectPtr>>* out) {
    auto body = json::parse(
        fmt::format(R"({{"metadata":{{"name":"s{}"}},"spec":{{"type":"NodePort","ports":[{{"port":80}}]}}}})", number));
    auto made = co_await master->client->create(resources::kServices, "default", std::move(body.as_object()), "", "");
    out->push_back(std::move(made));
  }

  RealLoop loop_;
  std::unique_ptr<store::TestEtcd> etcd_;
  std::vector<Master> masters_;
};

TEST_F(EtcdServers, ShareOneTruthAndOutliveAMember) {
  std::vector<Result<ObjectPtr>> made;
  {
    Gate gate(loop_);
    for (int i = 0; i < 60; ++i) gate.spawn(createService(&masters_[static_cast<size_t>(i) % 3], i, &made));
    runOn(loop_, gate.close());
  }
  std::set<std::string> addresses;
  for (const auto& one : made) {
    ASSERT_TRUE(one.ok()) << one.error().message();
    EXPECT_TRUE(addresses.emplace(client::text((*one)->root(), {"spec", "clusterIP"})).second);
  }
  for (auto& master : masters_) {
    auto listed = runOn(loop_, master.client->list(resources::kServices, {.ns = "default"}));
    ASSERT_TRUE(listed.ok());
    EXPECT_EQ(listed->items.size(), 61u) << "and the service kubernetes";
  }
  etcd_->kill(1);
  for (int round = 0; round < 9; ++round) {
    auto& writer = masters_[static_cast<size_t>(round) % 3];
    auto& reader = masters_[static_cast<size_t>(round + 1) % 3];
    std::string name = fmt::format("c{}", round);
    json::object body{{"metadata", json::object{{"name", name}}}};
    auto written = runOn(loop_, writer.client->create(resources::kConfigMaps, "default", std::move(body), "", ""));
    ASSERT_TRUE(written.ok()) << written.error().message();
    auto read = runOn(loop_, reader.client->get(resources::kConfigMaps, "default", name));
    ASSERT_TRUE(read.ok()) << read.error().message();
    EXPECT_EQ((*read)->resourceVersion(), (*written)->resourceVersion());
  }
}

}  // namespace
}  // namespace dhow::apiserver
