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
  auto server = readIdentityFile(config.paths().master(plan.name) + "/server.pem");
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(inspectCertificate(server->certificatePem)->organizations, std::vector<std::string>{kMasterGroup});
  EXPECT_TRUE(readIdentityFile(config.paths().master(plan.name) + "/etcd.pem").ok());
  ASSERT_TRUE(removeTree(*dir).ok());
}

TEST(Identities, AreKeptByTheProcessesThatUseThem) {
  auto dir = makeTempDir("/tmp", "dhow-pki-").value();
  ClusterRequest request;
  request.dataDir = dir;
  request.certificateSeconds = 30;
  auto config = configFor(request, 0);
  RealLoop loop;
  BlockingPool pool(1);
  ASSERT_TRUE(ensureIdentities(config, loop.wallNow() - std::chrono::seconds(18)).ok());
  auto before = loadIdentity(config.paths(), kRegion).value();
  const std::string authority = config.paths().pki(kAuthority);
  std::optional<Identity> used;
  Signal renewed(loop);
  auto keeper = keepLocally(loop, pool,
                            {"the test", config.paths().pki("region.pem"), authority + ".crt", authority + ".key",
                             [&](const Identity& identity) -> Result<> {
                               used = identity;
                               renewed.notify();
                               return {};
                             }});
  ASSERT_TRUE(keeper.ok()) << keeper.error().message();
  EXPECT_TRUE(runOn(loop, renewed.waitFor(std::chrono::seconds(30))));
  ASSERT_TRUE(used);
  auto stored = loadIdentity(config.paths(), kRegion).value();
  EXPECT_EQ(stored.certificatePem, used->certificatePem);
  EXPECT_EQ(stored.privateKeyPem, used->privateKeyPem);
  EXPECT_NE(stored.certificatePem, before.certificatePem);
  auto info = inspectCertificate(stored.certificatePem).value();
  EXPECT_EQ(info.commonName, "system:kube-proxy");
  EXPECT_LE(info.notAfter - loop.wallNow(), std::chrono::seconds(31));
  runOn(loop, (*keeper)->stop());
  EXPECT_GT(authorityLeft(config.paths().pki(), loop.wallNow()).value(), std::chrono::hours(24 * 3600));
  EXPECT_TRUE(removeTree(dir).ok());
}

}  // namespace
}  // namespace dhow::platform
