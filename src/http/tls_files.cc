#include "http/tls_files.h"

#include "base/files.h"

namespace dhow::http {

namespace {
constexpr size_t kMaxFile = 1 << 20;
}

Result<KeyPair> loadKeyPair(const std::string& certificateFile, const std::string& keyFile) {
  KeyPair pair;
  ASSIGN_OR_RETURN(pair.certificatePem, readFile(certificateFile, kMaxFile));
  ASSIGN_OR_RETURN(pair.privateKeyPem, readFile(keyFile, kMaxFile));
  return pair;
}

Result<std::shared_ptr<TlsClient>> loadTlsClient(const TlsFiles& files, bool http2) {
  TlsClient::Options options;
  ASSIGN_OR_RETURN(options.caPem, readFile(files.authority, kMaxFile));
  ASSIGN_OR_RETURN(options.keyPair, loadKeyPair(files.certificate, files.key));
  options.http2 = http2;
  return TlsClient::create(std::move(options));
}

}  // namespace dhow::http
