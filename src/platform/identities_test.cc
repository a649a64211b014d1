#include "platform/identities.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace dhow::platform {
namespace {

TEST(Identities, AreMadeOnceAndRenewedInTheLastThirdOfTheirLife) {
  auto dir = makeTempDir("/tmp", "dhow-pki-");
  ASSERT_TRUE(dir.ok());
  ClusterRequest request;
  request.dataDir = *dir;
  request.masters = 3;
  auto config = configFor(request, 0);
  auto now = WallTime(std::chrono::system_clock::now());
  ASSERT_TRUE(ensureIdentities(config, now).ok());
  auto admin = loadIdentity(config.paths(), kAdmin);
  ASSERT_TRUE(ensureIdentities(config, now).ok());
  EXPECT_EQ(loadIdentity(config.paths(), kAdmin)->certificatePem, admin->certificatePem);
  auto authority = loadAuthorityCertificate(config.paths());
  ASSERT_TRUE(ensureIdentities(config, now + std::chrono::hours(24 * 300)).ok());
  EXPECT_NE(loadIdentity(config.paths(), kAdmin)->certificatePem, admin->certificatePem);
  EXPECT_EQ(*loadAuthorityCertificate(config.paths()), *authority);
  auto node = ensureNodeIdentity(config, "n1", now);
  ASSERT_TRUE(node.ok());
  EXPECT_EQ(inspectCertificate(node->certificatePem)->commonName, "system:node:n1");
  auto plan = config.masterPlans()[0];
  ASSERT_TRUE(ensureMasterIdentities(config, plan, now).ok());
  auto server = readIdentity(config.paths().master(plan.name) + "/" + kServer);
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(inspectCertificate(server->certificatePem)->organizations, std::vector<std::string>{kMasterGroup});
  EXPECT_TRUE(readIdentity(config.paths().master(plan.name) + "/" + kMember).ok());
  ASSERT_TRUE(removeTree(*dir).ok());
}

}  // namespace
}  // namespace dhow::platform
