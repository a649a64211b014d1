// What the TLS streams need of their contexts. Private to this folder.
#pragma once

#include <openssl/ssl.h>

#include <memory>
#include <string>

#include "base/result.h"

namespace dhow::http::internal {

using ContextPtr = std::unique_ptr<SSL_CTX, decltype([](SSL_CTX* context) { SSL_CTX_free(context); })>;

class ServerContext {
 public:
  virtual ~ServerContext() = default;
  virtual SSL_CTX* context() = 0;
};

class ClientContext {
 public:
  virtual ~ClientContext() = default;
  virtual SSL_CTX* context() = 0;
  virtual bool verifies() const = 0;
  virtual SSL_SESSION* session(const std::string& host) = 0;
  bool http2 = true;
};

// The host that a client's connection goes to; empty on a server's.
std::string hostOf(SSL* ssl);

// With the first error of OpenSSL's queue, which is empty afterwards.
Error tlsError(std::string_view attempted, Code code);

}  // namespace dhow::http::internal
