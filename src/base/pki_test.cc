#include "base/pki.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>

namespace dhow {
namespace {

using std::chrono::hours;

WallTime today() {
  return WallTime(std::chrono::system_clock::now());
}

TEST(Pki, IssuedCertificateNamesItsHolderAndVerifiesAgainstItsAuthorityOnly) {
  auto authority = createAuthority("dhow-ca", today(), hours(24));
  auto other = createAuthority("dhow-ca", today(), hours(24));
  ASSERT_TRUE(authority.ok() && other.ok());
  CertificateSpec spec;
  spec.commonName = "system:node:a";
  spec.organizations = {"system:nodes"};
  spec.dnsNames = {"a.local"};
  spec.ipAddresses = {"127.0.0.1"};
  spec.client = spec.server = true;
  spec.notBefore = today();
  auto issued = issueCertificate(*authority, spec);
  ASSERT_TRUE(issued.ok()) << issued.error().message();
  auto info = inspectCertificate(issued->certificatePem);
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->commonName, "system:node:a");
  EXPECT_EQ(info->organizations, std::vector<std::string>{"system:nodes"});

  auto verifies = [&](const Identity& root) {
    auto read = [](const std::string& pem) {
      BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
      X509* certificate = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
      BIO_free(bio);
      return certificate;
    };
    X509* ca = read(root.certificatePem);
    X509* leaf = read(issued->certificatePem);
    X509_STORE* store = X509_STORE_new();
    X509_STORE_add_cert(store, ca);
    X509_STORE_CTX* context = X509_STORE_CTX_new();
    X509_STORE_CTX_init(context, store, leaf, nullptr);
    bool ok = X509_verify_cert(context) == 1;
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    X509_free(ca);
    X509_free(leaf);
    return ok;
  };
  EXPECT_TRUE(verifies(*authority));
  EXPECT_FALSE(verifies(*other));
}

TEST(Jwt, HoldsForItsKeyAndForNothingElse) {
  auto key = generatePrivateKey();
  auto stranger = generatePrivateKey();
  auto token = signJwt(key, {{"sub", "system:serviceaccount:default:default"}});
  ASSERT_TRUE(token.ok());
  auto publicKey = publicKeyOf(key);
  ASSERT_TRUE(publicKey.ok());
  auto claims = verifyJwt(*token, {stranger, *publicKey});
  ASSERT_TRUE(claims.ok());
  EXPECT_EQ(claims->at("sub"), "system:serviceaccount:default:default");
  EXPECT_FALSE(verifyJwt(*token, {stranger}).ok());
  std::string forged = *token;
  forged[forged.find('.') + 3] ^= 1;
  EXPECT_FALSE(verifyJwt(forged, {key}).ok());
  for (std::string bad : {"", ".", "a.b.c", "..", "eyJhbGciOiJub25lIn0.e30."})
    EXPECT_FALSE(verifyJwt(bad, {key}).ok()) << bad;
}

}  // namespace
}  // namespace dhow
