#include "http/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <map>

#include "tls_stream.h"

namespace dhow::http {

namespace internal {

Error tlsError(std::string_view attempted, Code code) {
  std::string text(attempted);
  char buffer[256];
  bool first = true;
  while (unsigned long number = ERR_get_error()) {
    if (!first) continue;
    ERR_error_string_n(number, buffer, sizeof buffer);
    const char* reason = ERR_reason_error_string(number);
    text += fmt::format(": {}", reason ? reason : buffer);
    first = false;
  }
  return Error(code, std::move(text));
}

namespace {

using BioPtr = std::unique_ptr<BIO, decltype([](BIO* bio) { BIO_free(bio); })>;
using X509Ptr = std::unique_ptr<X509, decltype([](X509* x) { X509_free(x); })>;
using KeyPtr = std::unique_ptr<EVP_PKEY, decltype([](EVP_PKEY* key) { EVP_PKEY_free(key); })>;

BioPtr bioOf(std::string_view text) {
  return BioPtr(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::vector<X509Ptr> readCertificates(std::string_view pem) {
  std::vector<X509Ptr> out;
  auto bio = bioOf(pem);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) out.emplace_back(certificate);
  ERR_clear_error();
  return out;
}

Result<> useKeyPair(SSL_CTX* context, const KeyPair& pair) {
  auto chain = readCertificates(pair.certificatePem);
  if (chain.empty()) return Error(Code::kInvalid, "no certificate in the PEM text");
  if (SSL_CTX_use_certificate(context, chain[0].get()) != 1) return tlsError("use certificate", Code::kInvalid);
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) return tlsError("use certificate chain", Code::kInvalid);
  }
  auto bio = bioOf(pair.privateKeyPem);
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  if (!key) return tlsError("read private key", Code::kInvalid);
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1) return tlsError("use private key", Code::kInvalid);
  return {};
}

Result<> trust(SSL_CTX* context, std::string_view pem, bool askFor) {
  auto roots = readCertificates(pem);
  if (roots.empty()) return Error(Code::kInvalid, "no CA certificate in the PEM text");
  for (const auto& root : roots) {
    if (X509_STORE_add_cert(SSL_CTX_get_cert_store(context), root.get()) != 1) return tlsError("trust", Code::kInvalid);
    if (askFor) SSL_CTX_add_client_CA(context, root.get());
  }
  return {};
}

Result<ContextPtr> newContext(const SSL_METHOD* method) {
  ContextPtr context(SSL_CTX_new(method));
  if (!context) return tlsError("make a TLS context", Code::kInternal);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  return context;
}

constexpr std::string_view kBoth("\x02h2\x08http/1.1", 12);
constexpr std::string_view kHttp1("\x08http/1.1", 9);

int chooseProtocol(SSL*, const unsigned char** out, unsigned char* outSize, const unsigned char* offered, unsigned size,
                   void* argument) {
  std::string_view ours = argument ? kBoth : kHttp1;
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, outSize, reinterpret_cast<const unsigned char*>(ours.data()),
                            static_cast<unsigned>(ours.size()), offered, size) != OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_NOACK;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Result<ContextPtr> serverContext(const TlsServer::Options& options) {
  ASSIGN_OR_RETURN(ContextPtr context, newContext(TLS_server_method()));
  RETURN_IF_ERROR(useKeyPair(context.get(), options.keyPair));
  static constexpr unsigned char kSessionId[] = "dhow";
  SSL_CTX_set_session_id_context(context.get(), kSessionId, sizeof kSessionId - 1);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);  // tickets need no cache
  SSL_CTX_set_num_tickets(context.get(), 1);
  if (!options.clientCaPem.empty()) {
    RETURN_IF_ERROR(trust(context.get(), options.clientCaPem, true));
    // A certificate that does not verify makes a peer without a name (acceptTls), as in Kubernetes: who needs one is
    // told so in HTTP, which people can read, and not by an alert.
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, [](int, X509_STORE_CTX*) { return 1; });
  }
  SSL_CTX_set_alpn_select_cb(context.get(), chooseProtocol, options.http2 ? context.get() : nullptr);
  return context;
}

class TlsServerImpl final : public TlsServer, public ServerContext {
 public:
  TlsServerImpl(Options options, ContextPtr context) : options_(std::move(options)), context_(std::move(context)) {}
  Result<> replace(KeyPair keyPair) override {
    Options next = options_;
    next.keyPair = std::move(keyPair);
    return take(std::move(next));
  }
  Result<> replaceClientCa(std::string clientCaPem) override {
    Options next = options_;
    next.clientCaPem = std::move(clientCaPem);
    return take(std::move(next));
  }
  SSL_CTX* context() override { return context_.get(); }

 private:
  Result<> take(Options next) {
    ASSIGN_OR_RETURN(context_, serverContext(next));
    options_ = std::move(next);
    return {};
  }

  Options options_;
  ContextPtr context_;
};

Result<ContextPtr> clientContext(const TlsClient::Options& options) {
  ASSIGN_OR_RETURN(auto context, newContext(TLS_client_method()));
  if (!options.caPem.empty()) {
    RETURN_IF_ERROR(trust(context.get(), options.caPem, false));
  } else if (!options.insecureSkipVerify && SSL_CTX_set_default_verify_paths(context.get()) != 1) {
    return tlsError("load the system's roots", Code::kInternal);
  }
  if (options.keyPair) RETURN_IF_ERROR(useKeyPair(context.get(), *options.keyPair));
  SSL_CTX_set_verify(context.get(), options.insecureSkipVerify ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, nullptr);
  return context;
}

// Keeps the last session ticket of each host, so that the next connection is resumed. Its connections keep it.
class TlsClientImpl final : public TlsClient, public ClientContext {
 public:
  TlsClientImpl(Options options, ContextPtr context) : options_(std::move(options)) {
    http2 = options_.http2;
    use(std::move(context));
  }
  Result<> replace(KeyPair keyPair) override {
    Options next = options_;
    next.keyPair = std::move(keyPair);
    return take(std::move(next));
  }
  Result<> replaceCa(std::string caPem) override {
    Options next = options_;
    next.caPem = std::move(caPem);
    return take(std::move(next));
  }
  SSL_CTX* context() override { return context_.get(); }
  bool verifies() const override { return !options_.insecureSkipVerify; }
  SSL_SESSION* session(const std::string& host) override {
    auto found = sessions_.find(host);
    return found == sessions_.end() ? nullptr : found->second.get();
  }

 private:
  Result<> take(Options next) {
    ASSIGN_OR_RETURN(auto context, clientContext(next));
    options_ = std::move(next);
    sessions_.clear();
    use(std::move(context));
    return {};
  }
  void use(ContextPtr context) {
    context_ = std::move(context);
    SSL_CTX_set_session_cache_mode(context_.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_set_app_data(context_.get(), this);
    SSL_CTX_sess_set_new_cb(context_.get(), [](SSL* ssl, SSL_SESSION* session) {
      SSL_CTX* context = SSL_get_SSL_CTX(ssl);
      auto* self = static_cast<TlsClientImpl*>(SSL_CTX_get_app_data(context));
      // Tickets that still come on connections of a replaced identity are not for new ones.
      return context == self->context() ? self->keep(hostOf(ssl), session) : 0;
    });
  }
  int keep(const std::string& host, SSL_SESSION* session) {
    if (host.empty()) return 0;
    if (sessions_.size() >= 256 && !sessions_.contains(host)) sessions_.erase(sessions_.begin());
    sessions_[host].reset(session);
    return 1;  // the reference is ours now
  }
  Options options_;
  std::map<std::string, std::unique_ptr<SSL_SESSION, decltype([](SSL_SESSION* s) { SSL_SESSION_free(s); })>> sessions_;
  ContextPtr context_;
};

}  // namespace
}  // namespace internal

Result<std::shared_ptr<TlsServer>> TlsServer::create(Options options) {
  ASSIGN_OR_RETURN(auto context, internal::serverContext(options));
  return std::shared_ptr<TlsServer>(std::make_shared<internal::TlsServerImpl>(std::move(options), std::move(context)));
}

Result<std::shared_ptr<TlsClient>> TlsClient::create(Options options) {
  ASSIGN_OR_RETURN(auto context, internal::clientContext(options));
  return std::shared_ptr<TlsClient>(std::make_shared<internal::TlsClientImpl>(std::move(options), std::move(context)));
}

}  // namespace dhow::http
