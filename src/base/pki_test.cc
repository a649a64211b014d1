#include "base/pki.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

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

TEST(Pki, AReissuedCertificateIsTheSameForAsLongAgain) {
  auto authority = createAuthority("dhow-ca", today(), hours(24 * 500)).value();
  CertificateSpec spec;
  spec.commonName = "server";
  spec.organizations = {"a", "b"};
  spec.dnsNames = {"a.local"};
  spec.ipAddresses = {"127.0.0.1"};
  spec.server = true;
  for (Duration life : {Duration(hours(24 * 365)), Duration(std::chrono::seconds(60))}) {
    spec.notBefore = today();
    spec.validity = life;
    auto first = issueCertificate(authority, spec).value();
    const WallTime later = today() + life;
    auto again = reissueCertificate(authority, first.certificatePem + first.privateKeyPem, later);
    ASSERT_TRUE(again.ok()) << again.error().message();
    auto before = inspectCertificate(first.certificatePem).value(),
         info = inspectCertificate(again->certificatePem).value();
    EXPECT_EQ(info.commonName, "server");
    EXPECT_EQ(info.organizations, spec.organizations);
    const WallTime end = std::min(later + life, inspectCertificate(authority.certificatePem)->notAfter);
    EXPECT_LE(std::chrono::abs(info.notAfter - end), std::chrono::seconds(2));
    EXPECT_NE(again->privateKeyPem, first.privateKeyPem);
    BIO* bio = BIO_new_mem_buf(again->certificatePem.data(), static_cast<int>(again->certificatePem.size()));
    X509* read = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
    BIO_free(bio);
    EXPECT_EQ(X509_check_host(read, "a.local", 0, 0, nullptr), 1);
    EXPECT_EQ(X509_check_ip_asc(read, "127.0.0.1", 0), 1);
    EXPECT_EQ(X509_get_extended_key_usage(read), static_cast<uint32_t>(XKU_SSL_SERVER));
    EXPECT_EQ(X509_get_key_usage(read), static_cast<uint32_t>(KU_DIGITAL_SIGNATURE));
    X509_free(read);
  }
  EXPECT_TRUE(reissueCertificate(authority, authority.certificatePem, today() + hours(24 * 501))
                  .error()
                  .is(Code::kFailedPrecondition));
}

TEST(CertificateRequests, AreSignedWithTheirNamesAndTheUsagesOfTheSigner) {
  auto authority = createAuthority("dhow-ca", today(), hours(24)).value();
  const std::string key = generatePrivateKey();
  CertificateSpec spec;
  spec.commonName = "system:node:" + std::string(100, 'n');  // longer than X.520's limit
  spec.organizations = {"system:nodes", "others"};
  spec.dnsNames = {"node.example", "a,IP:10.0.0.9"};  // no name is taken for several
  spec.ipAddresses = {"10.1.2.3", "fd00::1"};
  auto request = createCertificateRequest(key, spec);
  ASSERT_TRUE(request.ok()) << request.error().message();
  auto info = inspectCertificateRequest("text before\n" + *request);
  ASSERT_TRUE(info.ok()) << info.error().message();
  EXPECT_EQ(info->commonName, spec.commonName);
  EXPECT_EQ(info->organizations, spec.organizations);
  EXPECT_EQ(info->dnsNames, spec.dnsNames);
  EXPECT_EQ(info->ipAddresses, spec.ipAddresses);

  const WallTime now = today();
  auto signedPem = signCertificateRequest(authority, *request, {"digital signature", "client auth"}, now, hours(1));
  ASSERT_TRUE(signedPem.ok()) << signedPem.error().message();
  auto certificate = inspectCertificate(*signedPem).value();
  EXPECT_EQ(certificate.commonName, spec.commonName);
  EXPECT_EQ(certificate.organizations, spec.organizations);
  EXPECT_LE(certificate.notBefore, now);
  EXPECT_EQ(certificate.notAfter, std::chrono::floor<std::chrono::seconds>(now + hours(1)));
  BIO* bio = BIO_new_mem_buf(signedPem->data(), static_cast<int>(signedPem->size()));
  X509* read = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  EXPECT_EQ(X509_get_key_usage(read), static_cast<uint32_t>(KU_DIGITAL_SIGNATURE));
  EXPECT_EQ(X509_get_extended_key_usage(read), static_cast<uint32_t>(XKU_SSL_CLIENT));
  EXPECT_EQ(X509_check_ca(read), 0);
  EXPECT_EQ(X509_check_host(read, "node.example", 0, 0, nullptr), 1);
  EXPECT_EQ(X509_check_ip_asc(read, "10.1.2.3", 0), 1);
  EXPECT_EQ(X509_check_ip_asc(read, "10.0.0.9", 0), 0);
  X509_free(read);

  auto longer = signCertificateRequest(authority, *request, {"client auth"}, now, hours(24 * 365));
  EXPECT_EQ(inspectCertificate(*longer)->notAfter, inspectCertificate(authority.certificatePem)->notAfter);
  auto late = signCertificateRequest(authority, *request, {"client auth"}, now + hours(25), hours(1));
  EXPECT_TRUE(late.error().is(Code::kFailedPrecondition));
  EXPECT_TRUE(signCertificateRequest(authority, *request, {"cert sign"}, now, hours(1)).error().is(Code::kInvalid));
}

TEST(CertificateRequests, AreRefusedInKubernetesWords) {
  auto why = [](std::string_view pem) { return inspectCertificateRequest(pem).error().message(); };
  auto request = createCertificateRequest(generatePrivateKey(), {.commonName = "a"}).value();
  EXPECT_EQ(why(""), "PEM block type must be CERTIFICATE REQUEST");
  EXPECT_EQ(why("nonsense"), "PEM block type must be CERTIFICATE REQUEST");
  EXPECT_EQ(why(createAuthority("a", today(), hours(1))->certificatePem), "PEM block type must be CERTIFICATE REQUEST");
  EXPECT_EQ(why("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
            "asn1: structure error: not a certificate request");
  // The last bytes of the text are the signature's.
  auto tampered = request;
  auto at = tampered.rfind("\n-----END") - 8;
  tampered[at] = tampered[at] == 'A' ? 'B' : 'A';
  EXPECT_EQ(why(tampered), "x509: ECDSA verification failure");
  EXPECT_EQ(why(std::string(100'000, 'a')), "must be at most 65536 bytes long");
}

// Made with: openssl x509 -pubkey -noout | openssl pkey -pubin -outform der | sha256sum
TEST(Pki, APinIsTheDigestOfThePublicKeyWhateverTheCertificate) {
  constexpr auto kPem = R"(-----BEGIN CERTIFICATE-----
MIIBcjCCARegAwIBAgIUdTzYWGQHq/oLkyUjhLw7SFtNXswwCgYIKoZIzj0EAwIw
DjEMMAoGA1UEAwwDcGluMB4XDTI2MTEzMDAxMTQwMVoXDTM2MTEyNzAxMTQwMVow
DjEMMAoGA1UEAwwDcGluMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAElBSJFibe
e1gnWrIhtJZlajupqN5uKmMpzZG9v3NkMKhEMjOwDmtgkKhn0u2Uu2+D5QL2Y2qO
40EjMNaT96o8b6NTMFEwHQYDVR0OBBYEFKpgcSIXDOB9HOW++dJW9WMfOltFMB8G
A1UdIwQYMBaAFKpgcSIXDOB9HOW++dJW9WMfOltFMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDSQAwRgIhALexXZ1bgbxkpCz9486n5vEqdQamoebwUCQGbcS3
bDDtAiEA96xiueS6nVVi1T6H9+PWoubArTiCcB6XeaOgKg/SISg=
-----END CERTIFICATE-----
)";
  EXPECT_EQ(pinOf(kPem).value(), "sha256:69155783eec9d299bc39430a1b9ec8c5588cf66eed46a0b82712e8e9942df8c2");
  auto authority = createAuthority("a", std::chrono::system_clock::now(), std::chrono::hours(1));
  ASSERT_TRUE(authority.ok());
  EXPECT_NE(pinOf(authority->certificatePem).value(), pinOf(kPem).value());
  EXPECT_FALSE(pinOf("no certificate").ok());
}

TEST(Pki, ABundleIsTakenApart) {
  auto one = createAuthority("a", std::chrono::system_clock::now(), std::chrono::hours(1))->certificatePem;
  auto other = createAuthority("b", std::chrono::system_clock::now(), std::chrono::hours(1))->certificatePem;
  EXPECT_EQ(certificatesOf("# comment\n" + one + "between\n" + other), (std::vector<std::string>{one, other}));
  EXPECT_TRUE(certificatesOf("").empty());
  EXPECT_TRUE(certificatesOf(one.substr(0, one.size() - 10)).empty());
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
