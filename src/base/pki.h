// X.509 certificates (EC P-256) for the authorities and identities that a cluster makes itself, and JSON Web Tokens
// (RFC 7519, ES256) signed with such keys.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "base/result.h"

namespace dhow {

struct Identity {
  std::string certificatePem;
  std::string privateKeyPem;  // PKCS#8
};

struct CertificateSpec {
  std::string commonName;
  std::vector<std::string> organizations;
  std::vector<std::string> dnsNames;
  std::vector<std::string> ipAddresses;
  bool server = false;
  bool client = false;
  WallTime notBefore;  // dated back by five minutes, a tenth of its life at most, for clocks that differ
  Duration validity = std::chrono::hours(24 * 365);
};

struct CertificateInfo {
  std::string commonName;
  std::vector<std::string> organizations;
  WallTime notBefore;
  WallTime notAfter;
};

Result<Identity> createAuthority(const std::string& name, WallTime notBefore, Duration validity);
Result<Identity> issueCertificate(const Identity& authority, const CertificateSpec& spec);
Result<CertificateInfo> inspectCertificate(std::string_view pem);
// The same subject, names and usages for as long again, with a new key. It ends with its authority at the latest.
Result<Identity> reissueCertificate(const Identity& authority, std::string_view certificatePem, WallTime now);

// A certificate signing request (PKCS #10, RFC 2986), as its parts that a signer looks at.
struct CertificateRequestInfo {
  std::string commonName;
  std::vector<std::string> organizations;
  std::vector<std::string> dnsNames;
  std::vector<std::string> ipAddresses;
  std::vector<std::string> emailAddresses;
  std::vector<std::string> uris;
};

// PEM. Of `spec` only the names count.
Result<std::string> createCertificateRequest(std::string_view privateKeyPem, const CertificateSpec& spec);
// kInvalid when it cannot be read or is not signed by its own key, in the words of Kubernetes where it has some.
Result<CertificateRequestInfo> inspectCertificateRequest(std::string_view pem);
// A certificate for the key, the subject and the alternative names of a request; what else it asks for is not looked
// at. `usages` as certificates.k8s.io names them: digital signature, key encipherment, client auth, server auth; others
// are kInvalid. It ends with its authority at the latest.
Result<std::string> signCertificateRequest(const Identity& authority, std::string_view requestPem,
                                           const std::vector<std::string>& usages, WallTime now, Duration validity);

// The PEM blocks of a bundle, one by one; what is no certificate is left out.
std::vector<std::string> certificatesOf(std::string_view bundle);
// "sha256:<hex>" of a certificate's public key (DER SubjectPublicKeyInfo, RFC 7469 section 2.4): what an authority is
// pinned by.
Result<std::string> pinOf(std::string_view certificatePem);
// A new EC P-256 private key, PKCS#8 PEM, and the public half of one.
std::string generatePrivateKey();
Result<std::string> publicKeyOf(std::string_view privateKeyPem);

// `kid` of a key: the base64url SHA-256 of its public half (DER).
Result<std::string> keyIdOf(std::string_view keyPem);
Result<std::string> signJwt(std::string_view privateKeyPem, const boost::json::object& claims);
// The claims of a token that one of the keys (public or private PEM) has signed. kUnauthenticated otherwise. Does not
// judge times, issuer or audience: claims do.
Result<boost::json::object> verifyJwt(std::string_view token, const std::vector<std::string>& keysPem);
// The public half as a JSON Web Key.
Result<boost::json::object> jsonWebKeyOf(std::string_view keyPem);

}  // namespace dhow
