// A program's own certificate and the authority that it trusts, as files in PEM. They are read once, and block briefly.
#pragma once

#include "http/tls.h"

namespace dhow::http {

struct TlsFiles {
  std::string authority;
  std::string certificate, key;  // may be one file
};

Result<KeyPair> loadKeyPair(const std::string& certificateFile, const std::string& keyFile);
// Shows the certificate to servers that the authority vouches for.
Result<std::shared_ptr<TlsClient>> loadTlsClient(const TlsFiles& files, bool http2 = true);

}  // namespace dhow::http
