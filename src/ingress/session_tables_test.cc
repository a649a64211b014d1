#include "session_tables.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dhow::ingress {
namespace {

using testing::ElementsAre;
using User = SessionTables::User;

constexpr std::string_view kShown = R"(# table: t, type: string, size:102400, used:3
0x55bd9335f680: key=ann use=0 exp=299817 server_id=2 gpt0=1000 server_key=s1
0x55bd9335f770: key=bob use=1 exp=299844 server_id=1 gpt0=900 server_key=s0
0x55bd9335eac0: key=cid use=0 exp=299831 server_id=1 gpt0=0 server_key=s0
0x55bd9335eac8: key=nobody use=0 exp=299831 server_id=0 gpt0=1000 server_key=-
)";

TEST(SessionTables, AreReadAsHaproxyShowsThem) {
  const auto table = SessionTables::parse(kShown, 1010);
  EXPECT_EQ(table.size(), 3U);
  EXPECT_EQ(table.at("ann"), (User{2, 1000}));
  EXPECT_EQ(table.at("bob"), (User{1, 1010}));  // its request is under way
  EXPECT_EQ(table.at("cid"), (User{1, 0}));
  std::map<std::string, std::map<std::string, uint64_t>> connections;
  SessionTables::addConnections("# pxname,svname,qcur,qmax,scur,smax\nweb,s0,0,0,2,9\nweb,s1,0,0,0,1\n\n", connections);
  SessionTables::addConnections("web,s0,0,0,1,9\n", connections);
  EXPECT_EQ(connections["web"]["s0"], 3U);
  EXPECT_EQ(connections["web"]["s1"], 0U);
}

TEST(SessionTables, ANewWorkerIsToldWhatItDoesNotKnow) {
  SessionTables tables;
  EXPECT_TRUE(tables.update("t", {SessionTables::parse(kShown, 1010)}, 300, 1010).empty());
  EXPECT_EQ(tables.users("t").at(1).there.count(), 1U);
  EXPECT_EQ(tables.users("t").at(2).there.count(), 1U);
  // A reload: ann is still with the old worker, and comes to the new one as another pod's user.
  EXPECT_THAT(tables.update("t", {{{"ann", {3, 1020}}}, {{"ann", {2, 1000}}}}, 300, 1020),
              ElementsAre("set table t key bob data.server_id 1 data.gpt0 1010"));
  EXPECT_EQ(tables.users("t").count(2), 0U);
  EXPECT_EQ(tables.users("t").at(3).there.count(), 1U);
  // They leave after the idle limit, at once when the application says so, and with their server.
  EXPECT_TRUE(tables.update("t", {{{"ann", {3, 0}}}, {{"ann", {2, 1000}}}}, 300, 1310).empty());
  EXPECT_EQ(tables.users("t").at(3).there.count(), 0U);
  EXPECT_EQ(tables.users("t").at(3).ended.count(), 1U);  // other nodes do not know
  EXPECT_EQ(tables.users("t").size(), 1U);
  (void)tables.update("t", {{}}, 300, 1310);
  EXPECT_TRUE(tables.users("t").empty());
  (void)tables.update("t", {{{"dan", {4, 1310}}}}, 300, 1310);
  tables.forgetServer("t", 4);
  EXPECT_TRUE(tables.users("t").empty());
}

}  // namespace
}  // namespace dhow::ingress
