// TLS contexts. Certificates and authorities can be replaced while connections live: new handshakes take the new ones,
// living connections go on. A replacement that cannot be read changes nothing. All on the loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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
    std::string clientCaPem;  // non-empty: a client certificate is asked for; one that does not verify counts as none
    bool http2 = true;
  };
  static Result<std::shared_ptr<TlsServer>> create(Options options);
  virtual Result<> replace(KeyPair keyPair) = 0;
  // The key pair stays.
  virtual Result<> replaceClientCa(std::string clientCaPem) = 0;
};

class TlsClient {
 public:
  virtual ~TlsClient() = default;
  struct Options {
    std::string caPem;               // trusted roots; empty: the system's
    std::optional<KeyPair> keyPair;  // client certificate
    bool insecureSkipVerify = false;
    bool http2 = true;
  };
  static Result<std::shared_ptr<TlsClient>> create(Options options);
  // No session of the old identity is resumed.
  virtual Result<> replace(KeyPair keyPair) = 0;
  virtual Result<> replaceCa(std::string caPem) = 0;
};

// The handshakes, over any stream. An Error is kUnauthenticated when a certificate did not verify, kDeadlineExceeded
// after `timeout`, else kUnavailable.
struct TlsAccepted {
  std::unique_ptr<Stream> stream;
  bool http2 = false;
  std::string certificateCommonName;
  std::vector<std::string> certificateOrganizations;
};
Task<Result<TlsAccepted>> acceptTls(Loop& loop, std::shared_ptr<TlsServer> tls, std::unique_ptr<Stream> lower,
                                    Duration timeout);

struct TlsConnected {
  std::unique_ptr<Stream> stream;
  bool http2 = false;
};
// `host` is what the server's certificate must be for: a name or an IP address. `http2` false: HTTP/1.1 only.
Task<Result<TlsConnected>> connectTls(Loop& loop, std::shared_ptr<TlsClient> tls, std::unique_ptr<Stream> lower,
                                      std::string host, bool http2, Duration timeout);

}  // namespace dhow::http
