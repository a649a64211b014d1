// Regions, zones, node pools and machines as a user meets them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <boost/json/parse.hpp>

#include "apiserver/server.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

using ::testing::HasSubstr;
namespace kinds = dhow::object::resources;

struct PlatformKinds : testing::Test {
  PlatformKinds() {
    CHECK(runOn(loop, server.start()).ok());
    admin = server.clientFor("admin");
    EXPECT_TRUE(create(kinds::kRegions, R"({"metadata":{"name":"local-east"}})").ok());
    for (std::string zone : {"a", "b", "c"}) EXPECT_TRUE(create(kinds::kZones, zoneText(zone)).ok());
  }
  ~PlatformKinds() override { runOn(loop, server.stop()); }
  static std::string zoneText(std::string name) {
    return fmt::format(R"({{"metadata":{{"name":"{}"}},"spec":{{"region":"local-east"}}}})", name);
  }
  Result<ObjectPtr> create(const Resource& resource, std::string_view text) {
    json::object body = json::parse(text).as_object();
    return runOn(loop, admin->create(resource, "", std::move(body)));
  }
  Result<ObjectPtr> pool(std::string_view spec) {
    return create(kinds::kNodePools, fmt::format(R"({{"metadata":{{"name":"p"}},"spec":{}}})", spec));
  }
  std::string refusal(std::string_view spec) {
    Result<ObjectPtr> made = pool(spec);
    if (made.ok()) return "it was taken";
    EXPECT_TRUE(made.error().is(Code::kInvalid)) << made.error().message();
    return made.error().message();
  }

  SimLoop loop;
  store::MemoryStore store{loop, {}};
  ApiServer server{loop, store, object::Kinds::builtin(), {}};
  std::unique_ptr<client::Client> admin;
};

TEST_F(PlatformKinds, PoolIsDefaultedAndScales) {
  Result<ObjectPtr> made = pool(R"({"zones":["a","b"]})");
  ASSERT_TRUE(made.ok()) << made.error().message();
  const json::object& root = (*made)->root();
  EXPECT_EQ(client::number(root, {"spec", "count"}), 1);
  EXPECT_EQ(client::number(root, {"spec", "surge"}), 1);
  EXPECT_EQ(client::number(root, {"spec", "drainDeadlineSeconds"}), 1800);
  EXPECT_EQ(client::number(root, {"metadata", "generation"}), 1);
  auto scaled = runOn(loop, admin->patch(kinds::kNodePools, "", "p", "scale", client::PatchType::kMerge,
                                         json::object{{"spec", json::object{{"replicas", 5}}}}));
  ASSERT_TRUE(scaled.ok()) << scaled.error().message();
  ObjectPtr now = server.caches().of(kinds::kNodePools).get("", "p");
  EXPECT_EQ(client::number(now->root(), {"spec", "count"}), 5);
  EXPECT_EQ(client::number(now->root(), {"metadata", "generation"}), 2);
}

TEST_F(PlatformKinds, ImpossiblePoolsAreRefusedWithWhatToDo) {
  EXPECT_THAT(refusal(R"({"zones":[]})"), HasSubstr("name at least one zone"));
  EXPECT_THAT(refusal(R"({"zones":["a","moon"]})"),
              HasSubstr("no such zone; there are a, b, c: choose one of them, or create it first"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"min":5,"max":2})"), HasSubstr("must not be above max, which is 2"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"min":1})"), HasSubstr("a range has both min and max"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"count":9,"min":1,"max":3})"), HasSubstr("must be from 1 to 3"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"count":-1})"), HasSubstr("spec.count"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"surge":0})"), HasSubstr("must be at least 1"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"template":{"size":{"memory":"1Ki"}}})"), HasSubstr("at least 128Mi"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"template":{"labels":{"topology.kubernetes.io/zone":"b"}}})"),
              HasSubstr("is set by the platform"));
  EXPECT_THAT(refusal(R"({"zones":["a"],"template":{"taints":[{"key":"k","effect":"Sometimes"}]}})"),
              HasSubstr("NoSchedule"));
  EXPECT_EQ(server.caches().of(kinds::kNodePools).list().size(), 0u);
}

TEST_F(PlatformKinds, RangeWithoutCountBeginsAtItsLowerEnd) {
  Result<ObjectPtr> made = pool(R"({"zones":["a"],"min":3,"max":9})");
  ASSERT_TRUE(made.ok()) << made.error().message();
  EXPECT_EQ(client::number((*made)->root(), {"spec", "count"}), 3);
}

TEST_F(PlatformKinds, WhatIsNamedIsNotDeleted) {
  ASSERT_TRUE(pool(R"({"zones":["a"]})").ok());
  Result<> zone = runOn(loop, admin->remove(kinds::kZones, "", "a", {}));
  ASSERT_FALSE(zone.ok());
  EXPECT_THAT(zone.error().message(), HasSubstr("nodepools p is still in it"));
  EXPECT_FALSE(runOn(loop, admin->remove(kinds::kRegions, "", "local-east", {})).ok());
  EXPECT_TRUE(runOn(loop, admin->remove(kinds::kZones, "", "b", {})).ok());
}

TEST_F(PlatformKinds, MachineNamesItsNodeAndWaitsForItsEnd) {
  ASSERT_TRUE(pool(R"({"zones":["a"]})").ok());
  EXPECT_FALSE(create(kinds::kMachines, R"({"metadata":{"name":"m"},"spec":{"pool":"q","zone":"a"}})").ok());
  EXPECT_FALSE(
      create(kinds::kMachines,
             R"({"metadata":{"name":"m"},"spec":{"pool":"p","zone":"a","standInFor":{"machine":"x","zone":"a"}}})")
          .ok());
  Result<ObjectPtr> made = create(kinds::kMachines, R"({"metadata":{"name":"m"},"spec":{"pool":"p","zone":"a"}})");
  ASSERT_TRUE(made.ok()) << made.error().message();
  EXPECT_EQ(client::text((*made)->root(), {"spec", "nodeName"}), "m");
  ASSERT_TRUE(runOn(loop, admin->remove(kinds::kMachines, "", "m", {})).ok());
  ObjectPtr there = server.caches().of(kinds::kMachines).get("", "m");
  ASSERT_NE(there, nullptr);
  EXPECT_TRUE(there->deleting());
}

}  // namespace
}  // namespace dhow::apiserver
