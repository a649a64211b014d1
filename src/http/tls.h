// TLS contexts. Certificates can be replaced while connections live: new handshakes take the new ones.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "http/stream.h"

namespace dhow::http {

struct KeyPair {
  std::string certificatePem;  // chain, leaf first
  std::string privateKeyPem;
};

class TlsServer {
 public:
  virtual ~TlsServer() = default;
  struct Options {
    KeyPair keyPair;
    std::string clientCaPem;  // non-empty: a client certificate is asked for, and must verify when given
    bool http2 = true;
  };
  static Result<std::shared_ptr<TlsServer>> create(Options options);
  virtual Result<> replace(KeyPair keyPair) = 0;
};

class TlsClient {
 public:
  virtual ~TlsClient() = default;
  struct Options {
    std::string caPem;                 // trusted roots; empty: the system's
    std::optional<KeyPair> keyPair;    // client certificate
    bool insecureSkipVerify = false;
    bool http2 = true;
  };
  static Result<std::shared_ptr<TlsClient>> create(Options options);
};

}  // namespace dhow::http
