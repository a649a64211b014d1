#include "master_keys.h"

#include <gtest/gtest.h>

#include "base/digest.h"
#include "base/seal.h"
#include "client/fake_client.h"

namespace dhow::host {
namespace {

MasterKeys sample() {
  MasterKeys keys;
  keys.files = {{"ca.crt", "certificate"}, {"ca.key", "key"}, {"sa.key", "signing"}};
  keys.port = 6443;
  keys.settings.restricted = true;
  keys.settings.snapshotEvery = 3600;
  keys.settings.certificateSeconds = 45;
  keys.settings.peers = {{"a", "10.0.0.1"}};
  return keys;
}

TEST(MasterKeys, AreOpenedByTheirKeyAlone) {
  const std::string key = randomBytes(kSealKeySize);
  auto sealed = sealKeys(sample(), key);
  auto opened = unsealKeys(sealed, key);
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  EXPECT_EQ(opened->files, sample().files);
  EXPECT_EQ(opened->port, 6443);
  EXPECT_TRUE(opened->settings.restricted);
  EXPECT_EQ(opened->settings.certificateSeconds, 45);
  EXPECT_EQ(opened->settings.peers, sample().settings.peers);
  EXPECT_EQ(unsealKeys(sealed, randomBytes(kSealKeySize)).error().code(), Code::kUnauthenticated);
  // One cannot be passed off as another.
  sealed["ca.key"] = sealed["sa.key"];
  EXPECT_FALSE(unsealKeys(sealed, key).ok());
}

TEST(MasterKeys, OnlyTheirOwnFilesAreTaken) {
  const std::string key = randomBytes(kSealKeySize);
  auto keys = sample();
  keys.files["../../etc/passwd"] = "x";
  auto opened = unsealKeys(sealKeys(keys, key), key);
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->files, sample().files);
  keys.files.erase("ca.key");
  EXPECT_FALSE(unsealKeys(sealKeys(keys, key), key).ok());
}

TEST(MasterKeys, GoThroughTheApi) {
  SimLoop loop;
  client::FakeClient api(loop);
  auto token = api.seed(object::resources::kSecrets,
                        R"({"metadata":{"name":"bootstrap-token-abcdef","namespace":"kube-system"}})");
  auto key = runOn(loop, putUp(api, sample(), token));
  ASSERT_TRUE(key.ok());
  auto fetched = runOn(loop, fetchMasterKeys(api, *key));
  ASSERT_TRUE(fetched.ok()) << fetched.error().message();
  EXPECT_EQ(fetched->files, sample().files);
  // Another token's replace them.
  auto other = runOn(loop, putUp(api, sample(), token));
  EXPECT_EQ(runOn(loop, fetchMasterKeys(api, *key)).error().code(), Code::kUnauthenticated);
  EXPECT_TRUE(runOn(loop, fetchMasterKeys(api, *other)).ok());
  EXPECT_EQ(runOn(loop, fetchMasterKeys(api, "short")).error().code(), Code::kInvalid);
}

}  // namespace
}  // namespace dhow::host
