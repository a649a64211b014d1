#include "base/strings.h"
#include "body.h"
#include "client_wire.h"
#include "http2_session.h"

namespace dhow::http::internal {

namespace {

constexpr size_t kRefusalLimit = 64 << 10;

// A response's body; destroying it early resets the stream.
class ResponseBody final : public BodyReader {
 public:
  ResponseBody(std::shared_ptr<Http2Session> session, H2StreamPtr stream)
      : session_(std::move(session)), stream_(std::move(stream)) {}
  ~ResponseBody() override {
    session_->discardInput(stream_);
    session_->reset(stream_, NGHTTP2_CANCEL);
  }
  Task<Result<size_t>> read(std::span<char> into) override { return Http2Session::read(session_, stream_, into); }
  const Headers* trailers() const override {
    return stream_->remoteEnd && !stream_->trailers.all().empty() ? &stream_->trailers : nullptr;
  }

 private:
  std::shared_ptr<Http2Session> session_;
  H2StreamPtr stream_;
};

Task<> sendBody(std::shared_ptr<Http2Session> session, H2StreamPtr stream, std::unique_ptr<BodyReader> body) {
  std::vector<char> buffer(32 << 10);
  while (true) {
    auto n = co_await body->read(buffer);
    if (!n.ok()) {
      session->reset(stream, NGHTTP2_CANCEL);
      co_return;
    }
    if (*n == 0) break;
    auto written = co_await Http2Session::write(session, stream, {buffer.data(), *n});
    if (!written.ok()) co_return;
  }
  session->finish(stream);
}

using Fields = std::vector<std::pair<std::string, std::string>>;

Fields fieldsOf(const Outgoing& request) {
  Fields out;
  std::string_view host = request.headers.get("Host");
  out.emplace_back(":method", request.method);
  out.emplace_back(":scheme", request.scheme);
  out.emplace_back(":authority", host.empty() ? request.authority : std::string(host));
  out.emplace_back(":path", request.target);
  for (const auto& [name, value] : request.headers.all()) {
    if (isConnectionField(name)) continue;
    if (equalsIgnoreCase(name, "te") && !equalsIgnoreCase(value, "trailers")) continue;
    if (equalsIgnoreCase(name, "content-length") && !request.stream) continue;
    out.emplace_back(toLower(name), value);
  }
  if (request.whole) out.emplace_back("content-length", std::to_string(request.whole->size()));
  return out;
}

Task<Result<>> waitForHead(std::shared_ptr<Http2Session> session, H2StreamPtr stream) {
  while (!stream->headDone) {
    if (stream->closed || session->ended()) co_return session->streamError(*stream);
    co_await stream->readable.wait();
  }
  co_return Result<>();
}

class Http2ClientImpl final : public Http2Client {
 public:
  explicit Http2ClientImpl(std::shared_ptr<Http2Session> session) : session_(std::move(session)) {}
  ~Http2ClientImpl() override { session_->onChange = nullptr; }
  bool usable() const override { return !session_->draining(); }
  size_t streams() const override { return session_->streams(); }
  void close() override { session_->terminate(); }
  void keepAlive(Duration after, Duration timeout) override { session_->keepAlive(after, timeout); }

  Task<Result<StreamingResponse>> exchange(Outgoing& request, bool& untouched) override {
    return exchangeOn(session_, &request, &untouched);
  }
  Task<Result<Client::Upgraded>> upgrade(Outgoing& request) override { return upgradeOn(session_, &request); }

 private:
  static Task<Result<StreamingResponse>> exchangeOn(std::shared_ptr<Http2Session> session, Outgoing* request,
                                                    bool* untouched) {
    bool body = request->stream || (request->whole && !request->whole->empty());
    auto submitted = session->submitRequest(fieldsOf(*request), body, request->whole ? *request->whole : std::string());
    if (!submitted.ok()) {
      *untouched = true;
      co_return std::move(submitted).error();
    }
    H2StreamPtr stream = *submitted;
    auto reader = std::make_unique<ResponseBody>(session, stream);
    if (request->stream) spawn(stream->loop, sendBody(session, stream, std::move(request->stream)));
    auto head = co_await waitForHead(session, stream);
    if (!head.ok()) {
      *untouched = stream->errorCode == NGHTTP2_REFUSED_STREAM;
      co_return std::move(head).error();
    }
    StreamingResponse out;
    out.status = stream->status;
    out.headers = std::move(stream->headers);
    out.body = std::move(reader);
    co_return out;
  }

  static Task<Result<Client::Upgraded>> upgradeOn(std::shared_ptr<Http2Session> session, Outgoing* request) {
    if (request->stream || (request->whole && !request->whole->empty())) {
      co_return Error(Code::kBadRequest, "an upgrade over HTTP/2 carries no body");
    }
    request->whole = nullptr;
    // Our side stays open after the head.
    auto submitted = session->submitRequest(fieldsOf(*request), true, std::string());
    if (!submitted.ok()) co_return std::move(submitted).error();
    H2StreamPtr stream = *submitted;
    auto raw = duplexStream(session, stream);
    auto head = co_await waitForHead(session, stream);
    if (!head.ok()) co_return std::move(head).error();
    if (stream->status != 200) {
      ResponseBody body(session, stream);
      auto text = co_await readAll(body, kRefusalLimit);
      co_return refused(stream->status, text.ok() ? std::move(*text) : std::string());
    }
    Client::Upgraded out;
    out.status = stream->status;
    out.headers = std::move(stream->headers);
    out.stream = std::move(raw);
    co_return out;
  }

  std::shared_ptr<Http2Session> session_;
};

}  // namespace

std::shared_ptr<Http2Client> Http2Client::start(Loop& loop, std::shared_ptr<Input> input,
                                                std::function<void()> changed) {
  auto session = Http2Session::create(loop, std::move(input), false);
  session->onChange = std::move(changed);
  spawn(loop, Http2Session::run(session));
  return std::make_shared<Http2ClientImpl>(std::move(session));
}

}  // namespace dhow::http::internal
