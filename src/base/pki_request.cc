// Certificate signing requests: made, read and signed.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>

#include "base/strings.h"
#include "openssl.h"

namespace dhow {

using namespace openssl;

namespace {

using RequestPtr = std::unique_ptr<X509_REQ, Deleter<X509_REQ_free>>;
using NamePtr = std::unique_ptr<GENERAL_NAME, Deleter<GENERAL_NAME_free>>;
using ExtensionsPtr = std::unique_ptr<STACK_OF(X509_EXTENSION), decltype([](STACK_OF(X509_EXTENSION) * stack) {
                                        sk_X509_EXTENSION_pop_free(stack, X509_EXTENSION_free);
                                      })>;
using ExtensionPtr = std::unique_ptr<X509_EXTENSION, Deleter<X509_EXTENSION_free>>;

constexpr size_t kMaxRequest = 64 << 10;

Error refused(std::string why) {
  ERR_clear_error();
  return Error(Code::kInvalid, std::move(why));
}

Result<RequestPtr> readRequest(std::string_view pem) {
  constexpr auto kWrongBlock = "PEM block type must be CERTIFICATE REQUEST";
  if (pem.size() > kMaxRequest) return refused(fmt::format("must be at most {} bytes long", kMaxRequest));
  auto bio = readerOf(pem);
  char* name = nullptr;
  char* header = nullptr;
  unsigned char* data = nullptr;
  long size = 0;
  if (PEM_read_bio(bio.get(), &name, &header, &data, &size) != 1) return refused(kWrongBlock);
  const bool rightBlock = std::string_view(name) == PEM_STRING_X509_REQ;
  const unsigned char* cursor = data;
  RequestPtr request(rightBlock ? d2i_X509_REQ(nullptr, &cursor, size) : nullptr);
  const bool whole = cursor == data + size;
  OPENSSL_free(name);
  OPENSSL_free(header);
  OPENSSL_free(data);
  if (!rightBlock) return refused(kWrongBlock);
  if (!request) return refused("asn1: structure error: not a certificate request");
  if (!whole) return refused("asn1: syntax error: trailing data");
  return request;
}

Result<> checkSignature(X509_REQ* request) {
  EVP_PKEY* key = X509_REQ_get0_pubkey(request);
  if (!key) return refused("x509: unsupported public key");
  if (X509_REQ_verify(request, key) == 1) {
    ERR_clear_error();
    return {};
  }
  switch (EVP_PKEY_get_base_id(key)) {
    case EVP_PKEY_EC: return refused("x509: ECDSA verification failure");
    case EVP_PKEY_ED25519: return refused("x509: Ed25519 verification failure");
    case EVP_PKEY_RSA: return refused("crypto/rsa: verification error");
    default: return refused("x509: cannot verify signature: algorithm unimplemented");
  }
}

std::string bytesOf(const ASN1_STRING* text) {
  return {reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)), static_cast<size_t>(ASN1_STRING_length(text))};
}

// The alternative names that a certificate may have: DNS names, addresses, mail addresses and URIs. Null: none.
Result<NamesPtr> alternativeNames(X509_REQ* request) {
  ExtensionsPtr extensions(X509_REQ_get_extensions(request));
  int found = -1;  // the extension is missing; other negative numbers: twice, or unreadable
  NamesPtr all(static_cast<GENERAL_NAMES*>(X509V3_get_d2i(extensions.get(), NID_subject_alt_name, &found, nullptr)));
  ERR_clear_error();
  if (!all && found != -1) return refused("x509: invalid subject alternative names");
  if (!all) return NamesPtr();
  NamesPtr kept(sk_GENERAL_NAME_new_null());
  for (int i = 0; i < sk_GENERAL_NAME_num(all.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(all.get(), i);
    if (name->type == GEN_DNS || name->type == GEN_IPADD || name->type == GEN_EMAIL || name->type == GEN_URI)
      sk_GENERAL_NAME_push(kept.get(), GENERAL_NAME_dup(name));
  }
  return kept;
}

Result<std::string> addressOf(const ASN1_OCTET_STRING* bytes) {
  char text[INET6_ADDRSTRLEN];
  const int size = ASN1_STRING_length(bytes);
  if (size != 4 && size != 16) return refused(fmt::format("x509: cannot parse IP address of length {}", size));
  ::inet_ntop(size == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(bytes), text, sizeof text);
  return std::string(text);
}

Result<> addAddress(GENERAL_NAMES* names, const std::string& address) {
  NamePtr name(GENERAL_NAME_new());
  ASN1_OCTET_STRING* bytes = a2i_IPADDRESS(address.c_str());
  if (!bytes) return refused(fmt::format("\"{}\" is no IP address", address));
  GENERAL_NAME_set0_value(name.get(), GEN_IPADD, bytes);
  sk_GENERAL_NAME_push(names, name.release());
  return {};
}

void addDnsName(GENERAL_NAMES* names, const std::string& text) {
  NamePtr name(GENERAL_NAME_new());
  ASN1_IA5STRING* value = ASN1_IA5STRING_new();
  ASN1_STRING_set(value, text.data(), static_cast<int>(text.size()));
  GENERAL_NAME_set0_value(name.get(), GEN_DNS, value);
  sk_GENERAL_NAME_push(names, name.release());
}

struct Usages {
  std::vector<std::string> key;
  std::vector<std::string> extended;
};

Result<Usages> usagesOf(const std::vector<std::string>& names) {
  Usages usages;
  for (const auto& name : names) {
    if (name == "digital signature")
      usages.key.emplace_back("digitalSignature");
    else if (name == "key encipherment")
      usages.key.emplace_back("keyEncipherment");
    else if (name == "server auth")
      usages.extended.emplace_back("serverAuth");
    else if (name == "client auth")
      usages.extended.emplace_back("clientAuth");
    else
      return refused(fmt::format("unrecognized usage values: [\"{}\"]", name));
  }
  return usages;
}

}  // namespace

Result<std::string> createCertificateRequest(std::string_view privateKeyPem, const CertificateSpec& spec) {
  ASSIGN_OR_RETURN(auto key, readKey(privateKeyPem));
  RequestPtr request(X509_REQ_new());
  auto* subject = X509_REQ_get_subject_name(request.get());
  for (const auto& organization : spec.organizations) addName(subject, "O", organization);
  addName(subject, "CN", spec.commonName);
  NamesPtr names(sk_GENERAL_NAME_new_null());
  for (const auto& name : spec.dnsNames) addDnsName(names.get(), name);
  for (const auto& address : spec.ipAddresses) RETURN_IF_ERROR(addAddress(names.get(), address));
  if (sk_GENERAL_NAME_num(names.get()) > 0) {
    ExtensionsPtr extensions(sk_X509_EXTENSION_new_null());
    sk_X509_EXTENSION_push(extensions.get(), X509V3_EXT_i2d(NID_subject_alt_name, 0, names.get()));
    if (X509_REQ_add_extensions(request.get(), extensions.get()) != 1)
      return openssl::error("add names to a certificate request");
  }
  if (X509_REQ_set_pubkey(request.get(), key.get()) != 1 || X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0)
    return openssl::error("sign a certificate request");
  BioPtr bio(BIO_new(BIO_s_mem()));
  if (PEM_write_bio_X509_REQ(bio.get(), request.get()) != 1) return openssl::error("write a certificate request");
  return textOf(bio.get());
}

Result<CertificateRequestInfo> inspectCertificateRequest(std::string_view pem) {
  ASSIGN_OR_RETURN(auto request, readRequest(pem));
  RETURN_IF_ERROR(checkSignature(request.get()));
  const auto* subject = X509_REQ_get_subject_name(request.get());
  CertificateRequestInfo info;
  auto common = nameEntries(subject, NID_commonName);
  if (!common.empty()) info.commonName = common.front();
  info.organizations = nameEntries(subject, NID_organizationName);
  ASSIGN_OR_RETURN(auto names, alternativeNames(request.get()));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    switch (name->type) {
      case GEN_DNS: info.dnsNames.push_back(bytesOf(name->d.dNSName)); break;
      case GEN_EMAIL: info.emailAddresses.push_back(bytesOf(name->d.rfc822Name)); break;
      case GEN_URI: info.uris.push_back(bytesOf(name->d.uniformResourceIdentifier)); break;
      default: {
        ASSIGN_OR_RETURN(auto address, addressOf(name->d.iPAddress));
        info.ipAddresses.push_back(std::move(address));
      }
    }
  }
  return info;
}

Result<std::string> signCertificateRequest(const Identity& authority, std::string_view requestPem,
                                           const std::vector<std::string>& usages, WallTime now, Duration validity) {
  ASSIGN_OR_RETURN(auto issuer, readCertificate(authority.certificatePem));
  ASSIGN_OR_RETURN(auto issuerKey, readKey(authority.privateKeyPem));
  const WallTime last = timeOf(X509_get0_notAfter(issuer.get()));
  if (last <= now) return Error(Code::kFailedPrecondition, "the authority's certificate has expired");
  ASSIGN_OR_RETURN(auto request, readRequest(requestPem));
  RETURN_IF_ERROR(checkSignature(request.get()));
  ASSIGN_OR_RETURN(auto wanted, usagesOf(usages));
  ASSIGN_OR_RETURN(auto names, alternativeNames(request.get()));
  ASSIGN_OR_RETURN(auto certificate, blankCertificate(X509_REQ_get0_pubkey(request.get()), now,
                                                      std::min<Duration>(validity, last - now)));
  const auto* subject = X509_REQ_get_subject_name(request.get());
  X509_set_subject_name(certificate.get(), subject);
  X509_set_issuer_name(certificate.get(), X509_get_subject_name(issuer.get()));
  auto add = [&](int nid, const std::string& value) {
    return addExtension(certificate.get(), issuer.get(), nid, value);
  };
  RETURN_IF_ERROR(add(NID_basic_constraints, "critical,CA:FALSE"));
  if (!wanted.key.empty()) RETURN_IF_ERROR(add(NID_key_usage, "critical," + join(wanted.key, ",")));
  if (!wanted.extended.empty()) RETURN_IF_ERROR(add(NID_ext_key_usage, join(wanted.extended, ",")));
  RETURN_IF_ERROR(add(NID_authority_key_identifier, "keyid"));
  if (names && sk_GENERAL_NAME_num(names.get()) > 0) {
    // It stands for the subject where that is empty, and is then critical (RFC 5280, section 4.2.1.6).
    ExtensionPtr extension(
        X509V3_EXT_i2d(NID_subject_alt_name, X509_NAME_entry_count(subject) == 0 ? 1 : 0, names.get()));
    if (!extension || X509_add_ext(certificate.get(), extension.get(), -1) != 1)
      return openssl::error("add names to a certificate");
  }
  if (X509_sign(certificate.get(), issuerKey.get(), EVP_sha256()) == 0) return openssl::error("sign a certificate");
  return writeCertificate(certificate.get());
}

}  // namespace dhow
