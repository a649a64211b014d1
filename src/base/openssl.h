// What the files that use OpenSSL's X.509 share. Private to this folder.
#pragma once

#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "base/pki.h"
#include "base/result.h"

namespace dhow::openssl {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using KeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY_free>>;
using CertificatePtr = std::unique_ptr<X509, Deleter<X509_free>>;
using BioPtr = std::unique_ptr<BIO, Deleter<BIO_free_all>>;
using NamesPtr = std::unique_ptr<GENERAL_NAMES, Deleter<GENERAL_NAMES_free>>;

// kInternal with the first error of OpenSSL's queue, which is empty afterwards.
Error error(std::string_view attempted);

BioPtr readerOf(std::string_view text);
std::string textOf(BIO* bio);
Result<KeyPtr> readKey(std::string_view pem);
Result<CertificatePtr> readCertificate(std::string_view pem);
Result<std::string> writeCertificate(X509* certificate);
Result<std::string> writeKey(EVP_PKEY* key);

// Without issuer and extensions. Dated back as CertificateSpec says.
Result<CertificatePtr> blankCertificate(EVP_PKEY* key, WallTime notBefore, Duration validity);
Result<> addExtension(X509* certificate, X509* issuer, int nid, const std::string& value);
void addName(X509_NAME* name, const char* field, const std::string& value);
std::vector<std::string> nameEntries(const X509_NAME* name, int nid);
WallTime timeOf(const ASN1_TIME* time);

}  // namespace dhow::openssl
