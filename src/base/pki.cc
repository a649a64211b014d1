#include "base/pki.h"

#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/digest.h"
#include "base/strings.h"
#include "openssl.h"

namespace dhow {

namespace json = boost::json;
using namespace openssl;

namespace {

using DigestPtr = std::unique_ptr<EVP_MD_CTX, Deleter<EVP_MD_CTX_free>>;
using SignaturePtr = std::unique_ptr<ECDSA_SIG, Deleter<ECDSA_SIG_free>>;

constexpr int kCoordinateSize = 32;  // P-256

time_t secondsOf(WallTime time) {
  return std::chrono::system_clock::to_time_t(std::chrono::time_point_cast<std::chrono::system_clock::duration>(time));
}

}  // namespace

namespace openssl {

Error error(std::string_view attempted) {
  char text[256] = "unknown error";
  if (auto code = ERR_get_error()) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return Error(Code::kInternal, std::string(attempted) + ": " + text);
}

std::string textOf(BIO* bio) {
  char* data = nullptr;
  long size = BIO_get_mem_data(bio, &data);
  return std::string(data, static_cast<size_t>(size));
}

BioPtr readerOf(std::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

Result<KeyPtr> readKey(std::string_view pem) {
  auto bio = readerOf(pem);
  const bool isPublic = pem.find("PUBLIC KEY") != std::string_view::npos;
  KeyPtr key(isPublic ? PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr)
                      : PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (!key) return openssl::error("read a key");
  return key;
}

Result<CertificatePtr> readCertificate(std::string_view pem) {
  auto bio = readerOf(pem);
  CertificatePtr certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  if (!certificate) return openssl::error("read a certificate");
  return certificate;
}

Result<std::string> writeKey(EVP_PKEY* key) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return openssl::error("write a private key");
  return textOf(bio.get());
}

Result<std::string> writePublicDer(EVP_PKEY* key) {
  unsigned char* der = nullptr;
  int size = i2d_PUBKEY(key, &der);
  if (size <= 0) return openssl::error("write a public key");
  std::string out(reinterpret_cast<char*>(der), static_cast<size_t>(size));
  OPENSSL_free(der);
  return out;
}

// As UTF-8 it has no limit of length: names of nodes may be longer than X.520's 64 characters.
void addName(X509_NAME* name, const char* field, const std::string& value) {
  X509_NAME_add_entry_by_txt(name, field, V_ASN1_UTF8STRING, reinterpret_cast<const unsigned char*>(value.data()),
                             static_cast<int>(value.size()), -1, 0);
}

Result<> addExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  std::unique_ptr<X509_EXTENSION, Deleter<X509_EXTENSION_free>> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1)
    return openssl::error("add certificate extension " + value);
  return {};
}

Result<CertificatePtr> blankCertificate(EVP_PKEY* key, WallTime notBefore, Duration validity) {
  CertificatePtr certificate(X509_new());
  X509_set_version(certificate.get(), X509_VERSION_3);
  unsigned char serial[16];
  RAND_bytes(serial, sizeof serial);
  serial[0] &= 0x7f;
  std::unique_ptr<BIGNUM, Deleter<BN_free>> number(BN_bin2bn(serial, sizeof serial, nullptr));
  BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate.get()));
  time_t from = secondsOf(notBefore - std::min<Duration>(std::chrono::minutes(5), validity / 10));
  time_t until = secondsOf(notBefore + validity);
  if (!ASN1_TIME_set(X509_getm_notBefore(certificate.get()), from) ||
      !ASN1_TIME_set(X509_getm_notAfter(certificate.get()), until) || X509_set_pubkey(certificate.get(), key) != 1)
    return openssl::error("make a certificate");
  return certificate;
}

Result<std::string> writeCertificate(X509* certificate) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509(bio.get(), certificate) != 1) return openssl::error("write a certificate");
  return textOf(bio.get());
}

WallTime timeOf(const ASN1_TIME* time) {
  std::tm parts{};
  ASN1_TIME_to_tm(time, &parts);
  return WallTime(std::chrono::seconds(::timegm(&parts)));
}

std::vector<std::string> nameEntries(const X509_NAME* name, int nid) {
  std::vector<std::string> values;
  for (int at = -1; (at = X509_NAME_get_index_by_NID(name, nid, at)) >= 0;) {
    unsigned char* text = nullptr;
    int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
    if (size < 0) continue;
    values.emplace_back(reinterpret_cast<char*>(text), static_cast<size_t>(size));
    OPENSSL_free(text);
  }
  return values;
}

}  // namespace openssl

namespace {

Result<Identity> finish(X509* certificate, EVP_PKEY* key, EVP_PKEY* issuerKey) {
  if (X509_sign(certificate, issuerKey, EVP_sha256()) == 0) return openssl::error("sign a certificate");
  ASSIGN_OR_RETURN(auto certificatePem, writeCertificate(certificate));
  ASSIGN_OR_RETURN(auto keyPem, writeKey(key));
  return Identity{std::move(certificatePem), std::move(keyPem)};
}

}  // namespace

std::string generatePrivateKey() {
  KeyPtr key(EVP_EC_gen("P-256"));
  CHECK(key != nullptr, "no EC key");
  auto pem = writeKey(key.get());
  CHECK(pem.ok());
  return *pem;
}

Result<std::string> publicKeyOf(std::string_view privateKeyPem) {
  ASSIGN_OR_RETURN(auto key, readKey(privateKeyPem));
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_PUBKEY(bio.get(), key.get()) != 1) return openssl::error("write a public key");
  return textOf(bio.get());
}

Result<Identity> createAuthority(const std::string& name, WallTime notBefore, Duration validity) {
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return openssl::error("make a key");
  ASSIGN_OR_RETURN(auto certificate, blankCertificate(key.get(), notBefore, validity));
  addName(X509_get_subject_name(certificate.get()), "CN", name);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(certificate.get()));
  RETURN_IF_ERROR(addExtension(certificate.get(), certificate.get(), NID_basic_constraints, "critical,CA:TRUE"));
  RETURN_IF_ERROR(addExtension(certificate.get(), certificate.get(), NID_key_usage,
                               "critical,keyCertSign,cRLSign,digitalSignature"));
  RETURN_IF_ERROR(addExtension(certificate.get(), certificate.get(), NID_subject_key_identifier, "hash"));
  return finish(certificate.get(), key.get(), key.get());
}

Result<Identity> issueCertificate(const Identity& authority, const CertificateSpec& spec) {
  ASSIGN_OR_RETURN(auto issuer, readCertificate(authority.certificatePem));
  ASSIGN_OR_RETURN(auto issuerKey, readKey(authority.privateKeyPem));
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return openssl::error("make a key");
  ASSIGN_OR_RETURN(auto certificate, blankCertificate(key.get(), spec.notBefore, spec.validity));
  auto* subject = X509_get_subject_name(certificate.get());
  for (const auto& organization : spec.organizations) addName(subject, "O", organization);
  addName(subject, "CN", spec.commonName);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get()));
  auto add = [&](int nid, const std::string& value) {
    return addExtension(certificate.get(), issuer.get(), nid, value);
  };
  RETURN_IF_ERROR(add(NID_basic_constraints, "critical,CA:FALSE"));
  RETURN_IF_ERROR(add(NID_key_usage, "critical,digitalSignature"));
  std::vector<std::string> usages;
  if (spec.server) usages.push_back("serverAuth");
  if (spec.client) usages.push_back("clientAuth");
  if (!usages.empty()) RETURN_IF_ERROR(add(NID_ext_key_usage, join(usages, ",")));
  RETURN_IF_ERROR(add(NID_authority_key_identifier, "keyid"));
  std::vector<std::string> names;
  for (const auto& name : spec.dnsNames) names.push_back("DNS:" + name);
  for (const auto& address : spec.ipAddresses) names.push_back("IP:" + address);
  if (!names.empty()) RETURN_IF_ERROR(add(NID_subject_alt_name, join(names, ",")));
  return finish(certificate.get(), key.get(), issuerKey.get());
}

Result<Identity> reissueCertificate(const Identity& authority, std::string_view certificatePem, WallTime now) {
  ASSIGN_OR_RETURN(auto issuer, readCertificate(authority.certificatePem));
  ASSIGN_OR_RETURN(auto issuerKey, readKey(authority.privateKeyPem));
  ASSIGN_OR_RETURN(auto old, readCertificate(certificatePem));
  const WallTime last = timeOf(X509_get0_notAfter(issuer.get()));
  if (last <= now) return Error(Code::kFailedPrecondition, "the authority's certificate has expired");
  // What it was dated back by is not lived.
  Duration life = timeOf(X509_get0_notAfter(old.get())) - timeOf(X509_get0_notBefore(old.get()));
  life -= std::min<Duration>(std::chrono::minutes(5), life / 11);
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return openssl::error("make a key");
  ASSIGN_OR_RETURN(auto certificate, blankCertificate(key.get(), now, std::min<Duration>(life, last - now)));
  X509_set_subject_name(certificate.get(), X509_get_subject_name(old.get()));
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get()));
  for (int nid : {NID_basic_constraints, NID_key_usage, NID_ext_key_usage, NID_subject_alt_name}) {
    const int at = X509_get_ext_by_NID(old.get(), nid, -1);
    if (at >= 0 && X509_add_ext(certificate.get(), X509_get_ext(old.get(), at), -1) != 1)
      return openssl::error("copy a certificate's extension");
  }
  RETURN_IF_ERROR(addExtension(certificate.get(), issuer.get(), NID_authority_key_identifier, "keyid"));
  return finish(certificate.get(), key.get(), issuerKey.get());
}

Result<CertificateInfo> inspectCertificate(std::string_view pem) {
  ASSIGN_OR_RETURN(auto certificate, readCertificate(pem));
  auto* subject = X509_get_subject_name(certificate.get());
  CertificateInfo info;
  auto names = nameEntries(subject, NID_commonName);
  if (!names.empty()) info.commonName = names.front();
  info.organizations = nameEntries(subject, NID_organizationName);
  info.notBefore = timeOf(X509_get0_notBefore(certificate.get()));
  info.notAfter = timeOf(X509_get0_notAfter(certificate.get()));
  return info;
}

std::vector<std::string> certificatesOf(std::string_view bundle) {
  constexpr std::string_view kBegin = "-----BEGIN CERTIFICATE-----", kEnd = "-----END CERTIFICATE-----";
  std::vector<std::string> out;
  while (true) {
    const size_t begin = bundle.find(kBegin);
    const size_t end = begin == bundle.npos ? begin : bundle.find(kEnd, begin);
    if (end == bundle.npos) return out;
    out.push_back(std::string(bundle.substr(begin, end + kEnd.size() - begin)) + "\n");
    bundle.remove_prefix(end + kEnd.size());
  }
}

Result<std::string> pinOf(std::string_view certificatePem) {
  ASSIGN_OR_RETURN(auto certificate, readCertificate(certificatePem));
  auto* key = X509_get0_pubkey(certificate.get());
  if (!key) return openssl::error("read a certificate's public key");
  ASSIGN_OR_RETURN(auto der, writePublicDer(key));
  return "sha256:" + sha256Hex(der);
}

Result<std::string> keyIdOf(std::string_view keyPem) {
  ASSIGN_OR_RETURN(auto key, readKey(keyPem));
  ASSIGN_OR_RETURN(auto der, writePublicDer(key.get()));
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_Digest(der.data(), der.size(), digest, &size, EVP_sha256(), nullptr) != 1)
    return openssl::error("digest a key");
  return toBase64Url({reinterpret_cast<char*>(digest), size});
}

Result<std::string> signJwt(std::string_view privateKeyPem, const json::object& claims) {
  ASSIGN_OR_RETURN(auto key, readKey(privateKeyPem));
  ASSIGN_OR_RETURN(auto kid, keyIdOf(privateKeyPem));
  json::object header{{"alg", "ES256"}, {"typ", "JWT"}, {"kid", kid}};
  std::string signedPart = toBase64Url(json::serialize(header)) + "." + toBase64Url(json::serialize(claims));
  DigestPtr context(EVP_MD_CTX_new());
  size_t size = 0;
  auto* data = reinterpret_cast<const unsigned char*>(signedPart.data());
  if (EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size, data, signedPart.size()) != 1)
    return openssl::error("sign a token");
  std::string der(size, '\0');
  if (EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(der.data()), &size, data, signedPart.size()) != 1)
    return openssl::error("sign a token");
  // JWS wants r and s side by side (RFC 7518, section 3.4), not DER.
  auto* cursor = reinterpret_cast<const unsigned char*>(der.data());
  SignaturePtr signature(d2i_ECDSA_SIG(nullptr, &cursor, static_cast<long>(size)));
  if (!signature) return openssl::error("sign a token");
  std::string raw(2 * kCoordinateSize, '\0');
  auto* out = reinterpret_cast<unsigned char*>(raw.data());
  if (BN_bn2binpad(ECDSA_SIG_get0_r(signature.get()), out, kCoordinateSize) < 0 ||
      BN_bn2binpad(ECDSA_SIG_get0_s(signature.get()), out + kCoordinateSize, kCoordinateSize) < 0)
    return openssl::error("sign a token");
  return signedPart + "." + toBase64Url(raw);
}

namespace {

Result<bool> signatureHolds(EVP_PKEY* key, std::string_view signedPart, const std::string& raw) {
  auto* in = reinterpret_cast<const unsigned char*>(raw.data());
  SignaturePtr signature(ECDSA_SIG_new());
  ECDSA_SIG_set0(signature.get(), BN_bin2bn(in, kCoordinateSize, nullptr),
                 BN_bin2bn(in + kCoordinateSize, kCoordinateSize, nullptr));
  unsigned char* der = nullptr;
  int size = i2d_ECDSA_SIG(signature.get(), &der);
  if (size <= 0) return openssl::error("read a signature");
  DigestPtr context(EVP_MD_CTX_new());
  bool holds = EVP_DigestVerifyInit(context.get(), nullptr, EVP_sha256(), nullptr, key) == 1 &&
               EVP_DigestVerify(context.get(), der, static_cast<size_t>(size),
                                reinterpret_cast<const unsigned char*>(signedPart.data()), signedPart.size()) == 1;
  OPENSSL_free(der);
  ERR_clear_error();
  return holds;
}

Result<json::object> parsePart(std::string_view part) {
  auto decoded = fromBase64(part);
  boost::system::error_code error;
  auto value = decoded ? json::parse(*decoded, error) : json::value();
  if (!decoded || error || !value.is_object()) return Error(Code::kUnauthenticated, "invalid bearer token");
  return std::move(value.as_object());
}

}  // namespace

Result<json::object> verifyJwt(std::string_view token, const std::vector<std::string>& keysPem) {
  const Error invalid(Code::kUnauthenticated, "invalid bearer token");
  if (token.size() > 16384) return invalid;
  auto first = token.find('.');
  auto last = token.rfind('.');
  if (first == std::string_view::npos || last == first) return invalid;
  ASSIGN_OR_RETURN(auto header, parsePart(token.substr(0, first)));
  auto* algorithm = header.if_contains("alg");
  if (!algorithm || *algorithm != "ES256") return invalid;
  auto raw = fromBase64(token.substr(last + 1));
  if (!raw || raw->size() != 2 * kCoordinateSize) return invalid;
  for (const auto& pem : keysPem) {
    ASSIGN_OR_RETURN(auto key, readKey(pem));
    ASSIGN_OR_RETURN(bool holds, signatureHolds(key.get(), token.substr(0, last), *raw));
    if (holds) return parsePart(token.substr(first + 1, last - first - 1));
  }
  return invalid;
}

Result<json::object> jsonWebKeyOf(std::string_view keyPem) {
  ASSIGN_OR_RETURN(auto key, readKey(keyPem));
  ASSIGN_OR_RETURN(auto kid, keyIdOf(keyPem));
  auto coordinate = [&](const char* name) {
    BIGNUM* number = nullptr;
    std::string bytes(kCoordinateSize, '\0');
    if (EVP_PKEY_get_bn_param(key.get(), name, &number) == 1)
      BN_bn2binpad(number, reinterpret_cast<unsigned char*>(bytes.data()), kCoordinateSize);
    BN_free(number);
    return toBase64Url(bytes);
  };
  return json::object{{"kty", "EC"},
                      {"use", "sig"},
                      {"alg", "ES256"},
                      {"crv", "P-256"},
                      {"kid", kid},
                      {"x", coordinate(OSSL_PKEY_PARAM_EC_PUB_X)},
                      {"y", coordinate(OSSL_PKEY_PARAM_EC_PUB_Y)}};
}

}  // namespace dhow
