#include "tls_stream.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>

#include <cstring>

#include "base/gate.h"
#include "body.h"
#include "http/tls.h"

namespace dhow::http {

namespace internal {
namespace {

constexpr size_t kSmall = 2048;
constexpr size_t kLarge = 32 << 10;
constexpr size_t kPiece = 64 << 10;  // plain bytes encrypted before they are written out

// One TLS connection over a stream. OpenSSL reads its ciphertext from `in` and leaves what it wants sent in `out`.
struct TlsState {
  TlsState(Loop& loop, std::unique_ptr<Stream> stream) : lower(std::move(stream)), flushed(loop) {}
  ~TlsState() {
    // Without this OpenSSL takes the session for broken and would not resume it.
    if (ssl && !SSL_in_init(ssl)) SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(ssl);
  }

  std::unique_ptr<Stream> lower;
  std::shared_ptr<TlsClient> client;  // whose sessions this connection adds to
  SSL* ssl = nullptr;
  std::string host;  // of a client's connection
  std::unique_ptr<char[]> in;
  size_t inCapacity = 0, inBegin = 0, inEnd = 0;
  bool much = false;
  bool lowerEnded = false;
  std::string out;
  std::string sending;
  bool flushing = false;
  Signal flushed;
  std::optional<Error> failed;
  bool closed = false;
};

TlsState& stateOf(BIO* bio) {
  return *static_cast<TlsState*>(BIO_get_data(bio));
}

int bioWrite(BIO* bio, const char* bytes, size_t size, size_t* written) {
  stateOf(bio).out.append(bytes, size);
  *written = size;
  return 1;
}

int bioRead(BIO* bio, char* into, size_t size, size_t* read) {
  TlsState& state = stateOf(bio);
  BIO_clear_retry_flags(bio);
  size_t n = std::min(size, state.inEnd - state.inBegin);
  if (n == 0) {
    *read = 0;
    if (state.lowerEnded) return 0;
    BIO_set_retry_read(bio);
    return 0;
  }
  std::memcpy(into, state.in.get() + state.inBegin, n);
  state.inBegin += n;
  *read = n;
  return 1;
}

long bioControl(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_FLUSH) return 1;
  if (command == BIO_CTRL_EOF) return stateOf(bio).lowerEnded && stateOf(bio).inBegin == stateOf(bio).inEnd;
  return 0;
}

int bioCreate(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

const BIO_METHOD* bioMethod() {
  static const BIO_METHOD* const kMethod = [] {
    BIO_METHOD* method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "dhow stream");
    BIO_meth_set_write_ex(method, bioWrite);
    BIO_meth_set_read_ex(method, bioRead);
    BIO_meth_set_ctrl(method, bioControl);
    BIO_meth_set_create(method, bioCreate);
    return method;
  }();
  return kMethod;
}

std::shared_ptr<TlsState> newState(Loop& loop, std::unique_ptr<Stream> lower, SSL_CTX* context) {
  auto state = std::make_shared<TlsState>(loop, std::move(lower));
  state->ssl = SSL_new(context);
  BIO* bio = BIO_new(bioMethod());
  BIO_set_data(bio, state.get());
  SSL_set_bio(state->ssl, bio, bio);
  SSL_set_app_data(state->ssl, state.get());
  return state;
}

Error failure(const std::shared_ptr<TlsState>& state, std::string_view attempted) {
  if (state->closed) return cancelled();
  long verified = SSL_get_verify_result(state->ssl);
  if (verified != X509_V_OK) {
    ERR_clear_error();
    return Error(Code::kUnauthenticated,
                 fmt::format("{}: certificate: {}", attempted, X509_verify_cert_error_string(verified)));
  }
  if (ERR_peek_error() == 0) return Error(Code::kUnavailable, fmt::format("{}: the connection ended", attempted));
  return tlsError(attempted, Code::kUnavailable);
}

// Sends what OpenSSL has left in `out`; returns when it is gone.
Task<Result<>> flush(std::shared_ptr<TlsState> state) {
  while (!state->out.empty() || state->flushing) {
    if (state->failed) co_return *state->failed;
    if (state->flushing) {
      co_await state->flushed.wait();
      continue;
    }
    state->flushing = true;
    state->sending.clear();
    std::swap(state->out, state->sending);
    auto written = co_await state->lower->write(state->sending);
    state->flushing = false;
    if (state->sending.capacity() > 4096) state->sending = std::string();
    if (!written.ok()) state->failed = written.error();
    state->flushed.notify();
  }
  if (state->failed) co_return *state->failed;
  co_return Result<>();
}

// Takes more ciphertext in.
Task<Result<>> receive(std::shared_ptr<TlsState> state) {
  size_t want = state->much ? kLarge : kSmall;
  if (state->inBegin == state->inEnd) {
    if (state->inCapacity != want) {
      state->in = std::make_unique_for_overwrite<char[]>(want);
      state->inCapacity = want;
    }
    state->inBegin = state->inEnd = 0;
  }
  std::span<char> into(state->in.get() + state->inEnd, state->inCapacity - state->inEnd);
  auto n = co_await state->lower->read(into);
  if (!n.ok()) co_return std::move(n).error();
  if (*n == 0) state->lowerEnded = true;
  state->much = *n == into.size() || *n > kSmall;
  state->inEnd += *n;
  co_return Result<>();
}

Task<Result<size_t>> readTls(std::shared_ptr<TlsState> state, std::span<char> into) {
  while (true) {
    if (state->closed) co_return cancelled();
    ERR_clear_error();
    int n = SSL_read(state->ssl, into.data(), static_cast<int>(std::min<size_t>(into.size(), 1 << 30)));
    int reason = n > 0 ? SSL_ERROR_NONE : SSL_get_error(state->ssl, n);
    if (!state->out.empty() && !state->flushing) {
      auto flushed = co_await flush(state);
      if (!flushed.ok() && n <= 0) co_return std::move(flushed).error();
    }
    if (n > 0) co_return static_cast<size_t>(n);
    if (reason == SSL_ERROR_ZERO_RETURN) co_return size_t{0};
    if (reason != SSL_ERROR_WANT_READ) {
      if (state->lowerEnded) co_return Error(Code::kUnavailable, "the connection ended without a TLS close");
      co_return failure(state, "TLS read");
    }
    auto received = co_await receive(state);
    if (!received.ok()) co_return std::move(received).error();
  }
}

Task<Result<>> writeTls(std::shared_ptr<TlsState> state, std::string_view bytes) {
  while (!bytes.empty()) {
    if (state->closed) co_return cancelled();
    std::string_view piece = bytes.substr(0, kPiece);
    bytes.remove_prefix(piece.size());
    ERR_clear_error();
    int n = SSL_write(state->ssl, piece.data(), static_cast<int>(piece.size()));
    if (n != static_cast<int>(piece.size())) co_return failure(state, "TLS write");
    auto flushed = co_await flush(state);
    if (!flushed.ok()) co_return std::move(flushed).error();
  }
  co_return Result<>();
}

Task<> shutdownTls(std::shared_ptr<TlsState> state) {
  if (state->closed || state->failed || (SSL_get_shutdown(state->ssl) & SSL_SENT_SHUTDOWN)) co_return;
  ERR_clear_error();
  SSL_shutdown(state->ssl);
  ERR_clear_error();
  auto flushed = co_await flush(state);
  if (!flushed.ok()) co_return;
}

class TlsStream final : public Stream {
 public:
  explicit TlsStream(std::shared_ptr<TlsState> state) : state_(std::move(state)) {}
  ~TlsStream() override { close(); }
  Task<Result<size_t>> read(std::span<char> into) override { return readTls(state_, into); }
  Task<Result<>> write(std::string_view bytes) override { return writeTls(state_, bytes); }
  Task<> shutdownWrite() override { return shutdownTls(state_); }
  void close() override {
    if (state_->closed) return;
    state_->closed = true;
    if (!state_->failed) state_->failed = cancelled();
    state_->lower->close();
    state_->flushed.notify();
  }

 private:
  std::shared_ptr<TlsState> state_;
};

Task<Result<>> handshake(Loop& loop, std::shared_ptr<TlsState> state, Duration timeout) {
  bool late = false;
  Timer timer = loop.after(timeout, [&late, state] {
    late = true;
    state->lower->close();
  });
  while (true) {
    ERR_clear_error();
    int done = SSL_do_handshake(state->ssl);
    int reason = done == 1 ? SSL_ERROR_NONE : SSL_get_error(state->ssl, done);
    std::optional<Error> failed;
    if (reason != SSL_ERROR_NONE && reason != SSL_ERROR_WANT_READ) failed = failure(state, "TLS handshake");
    // The alert that tells the peer why goes out too.
    auto flushed = co_await flush(state);
    if (late) co_return Error(Code::kDeadlineExceeded, "TLS handshake: timed out");
    if (failed) co_return std::move(*failed);
    if (!flushed.ok()) co_return flushed.error().wrap("TLS handshake");
    if (done == 1) co_return Result<>();
    auto received = co_await receive(state);
    if (late) co_return Error(Code::kDeadlineExceeded, "TLS handshake: timed out");
    if (!received.ok()) co_return received.error().wrap("TLS handshake");
  }
}

bool negotiatedHttp2(SSL* ssl) {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl, &name, &size);
  return size == 2 && std::memcmp(name, "h2", 2) == 0;
}

std::vector<std::string> subjectParts(X509* certificate, int kind) {
  std::vector<std::string> out;
  X509_NAME* subject = X509_get_subject_name(certificate);
  for (int i = -1; (i = X509_NAME_get_index_by_NID(subject, kind, i)) >= 0;) {
    unsigned char* text = nullptr;
    int size = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, i)));
    if (size < 0) continue;
    out.emplace_back(reinterpret_cast<char*>(text), static_cast<size_t>(size));
    OPENSSL_free(text);
  }
  return out;
}

Result<> expectHost(SSL* ssl, const std::string& host) {
  unsigned char address[16];
  X509_VERIFY_PARAM* parameters = SSL_get0_param(ssl);
  if (::inet_pton(AF_INET, host.c_str(), address) == 1 || ::inet_pton(AF_INET6, host.c_str(), address) == 1) {
    if (X509_VERIFY_PARAM_set1_ip_asc(parameters, host.c_str()) != 1) return tlsError("check address", Code::kInternal);
    return {};
  }
  X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  if (X509_VERIFY_PARAM_set1_host(parameters, host.c_str(), host.size()) != 1)
    return tlsError("check host", Code::kInternal);
  if (SSL_set_tlsext_host_name(ssl, host.c_str()) != 1) return tlsError("name the host", Code::kInternal);
  return {};
}

}  // namespace

std::string hostOf(SSL* ssl) {
  auto* state = static_cast<TlsState*>(SSL_get_app_data(ssl));
  return state ? state->host : std::string();
}

}  // namespace internal

using namespace internal;

Task<Result<TlsAccepted>> acceptTls(Loop& loop, std::shared_ptr<TlsServer> tls, std::unique_ptr<Stream> lower,
                                    Duration timeout) {
  auto* context = dynamic_cast<ServerContext*>(tls.get());
  CHECK(context, "a TlsServer that is not ours");
  auto state = newState(loop, std::move(lower), context->context());
  SSL_set_accept_state(state->ssl);
  TlsAccepted out;
  out.stream = std::make_unique<TlsStream>(state);
  auto done = co_await handshake(loop, state, timeout);
  if (!done.ok()) co_return std::move(done).error();
  out.http2 = negotiatedHttp2(state->ssl);
  X509* certificate = SSL_get1_peer_certificate(state->ssl);
  if (certificate && SSL_get_verify_result(state->ssl) == X509_V_OK) {
    auto names = subjectParts(certificate, NID_commonName);
    if (!names.empty()) out.certificateCommonName = std::move(names.front());
    out.certificateOrganizations = subjectParts(certificate, NID_organizationName);
  }
  X509_free(certificate);
  co_return out;
}

Task<Result<TlsConnected>> connectTls(Loop& loop, std::shared_ptr<TlsClient> tls, std::unique_ptr<Stream> lower,
                                      std::string host, bool http2, Duration timeout) {
  auto* context = dynamic_cast<ClientContext*>(tls.get());
  CHECK(context, "a TlsClient that is not ours");
  auto state = newState(loop, std::move(lower), context->context());
  state->host = host;
  state->client = tls;
  SSL_set_connect_state(state->ssl);
  TlsConnected out;
  out.stream = std::make_unique<TlsStream>(state);
  if (context->verifies()) {
    auto expected = expectHost(state->ssl, host);
    if (!expected.ok()) co_return std::move(expected).error();
  } else if (!host.empty() && host.find(':') == std::string::npos) {
    SSL_set_tlsext_host_name(state->ssl, host.c_str());
  }
  std::string_view protocols =
      http2 && context->http2 ? std::string_view("\x02h2\x08http/1.1", 12) : std::string_view("\x08http/1.1", 9);
  SSL_set_alpn_protos(state->ssl, reinterpret_cast<const unsigned char*>(protocols.data()),
                      static_cast<unsigned>(protocols.size()));
  if (SSL_SESSION* session = context->session(host)) SSL_set_session(state->ssl, session);
  auto done = co_await handshake(loop, state, timeout);
  if (!done.ok()) co_return std::move(done).error().wrap(host);
  out.http2 = negotiatedHttp2(state->ssl);
  co_return out;
}

}  // namespace dhow::http
