#include <array>

#include "base/strings.h"
#include "body.h"
#include "client_wire.h"
#include "http1.h"

namespace dhow::http::internal {

namespace {

constexpr size_t kCoalesce = 64 << 10;
constexpr size_t kRefusalLimit = 64 << 10;

struct Sending {
  bool done = false;
  bool failed = false;
};

std::string requestHead(const Outgoing& request, bool upgrade, bool& chunked) {
  std::string out = fmt::format("{} {} HTTP/1.1\r\n", request.method, request.target);
  if (!request.headers.has("Host")) appendField(out, "Host", request.authority);
  bool hasLength = false;
  for (const auto& [name, value] : request.headers.all()) {
    if (equalsIgnoreCase(name, "transfer-encoding")) continue;
    if (equalsIgnoreCase(name, "content-length")) {
      if (!request.stream) continue;
      hasLength = true;
    }
    appendField(out, name, value);
  }
  if (upgrade && !request.headers.has("Connection")) out += "Connection: Upgrade\r\n";
  chunked = request.stream && !hasLength;
  if (chunked) {
    out += "Transfer-Encoding: chunked\r\n";
  } else if (request.whole ||
             ((request.method == "POST" || request.method == "PUT" || request.method == "PATCH") && !hasLength)) {
    fmt::format_to(std::back_inserter(out), "Content-Length: {}\r\n", request.whole ? request.whole->size() : 0);
  }
  out += "\r\n";
  return out;
}

Task<> sendWhole(std::shared_ptr<Input> input, std::string head, std::shared_ptr<const std::string> body,
                 std::shared_ptr<Sending> sending) {
  auto written = co_await input->stream().write(head);
  if (written.ok()) written = co_await input->stream().write(*body);
  sending->done = true;
  sending->failed = !written.ok();
}

Task<> sendStream(std::shared_ptr<Input> input, std::unique_ptr<BodyReader> body, bool chunked,
                  std::shared_ptr<Sending> sending) {
  std::vector<char> buffer(32 << 10);
  std::string out;
  while (true) {
    auto n = co_await body->read(buffer);
    if (!n.ok()) {
      // The peer must not take the part for the whole.
      input->close();
      break;
    }
    if (*n == 0) {
      if (!chunked) {
        sending->done = true;
        co_return;
      }
      auto ended = co_await input->stream().write("0\r\n\r\n");
      sending->done = ended.ok();
      sending->failed = !ended.ok();
      co_return;
    }
    out.clear();
    if (chunked) fmt::format_to(std::back_inserter(out), "{:x}\r\n", *n);
    out.append(buffer.data(), *n);
    if (chunked) out += "\r\n";
    auto written = co_await input->stream().write(out);
    if (!written.ok()) break;
  }
  sending->failed = true;
}

// Starts sending; the request's small parts have gone out when it returns.
Task<Result<>> begin(std::shared_ptr<Input> input, Outgoing& request, bool upgrade, std::shared_ptr<Sending> sending) {
  bool chunked = false;
  std::string head = requestHead(request, upgrade, chunked);
  if (request.whole && request.whole->size() > kCoalesce) {
    // A server may answer before it has read all, so this goes on beside the reading.
    spawn(input->loop(), sendWhole(input, std::move(head), request.whole, sending));
    co_return Result<>();
  }
  if (request.whole) head += *request.whole;
  auto written = co_await input->stream().write(head);
  if (!written.ok()) co_return written;
  if (request.stream) {
    spawn(input->loop(), sendStream(input, std::move(request.stream), chunked, sending));
  } else {
    sending->done = true;
  }
  co_return Result<>();
}

// The next head that is not an interim one.
Task<Result<ResponseHead>> readResponseHead(std::shared_ptr<Input> input) {
  while (true) {
    auto raw = co_await readHead(*input);
    if (!raw.ok()) co_return std::move(raw).error();
    if (!*raw) co_return Error(Code::kUnavailable, "the server closed the connection");
    auto head = parseResponseHead((*raw)->text);
    input->consume((*raw)->size);
    if (!head.ok()) co_return Error(Code::kUnavailable, head.error().message());
    if (head->status >= 200 || head->status == 101) co_return head;
  }
}

class ResponseBody final : public BodyReader {
 public:
  ResponseBody(std::shared_ptr<Input> input, Framing framing, bool keepAlive, std::shared_ptr<Sending> sending,
               std::function<void()> release)
      : input_(std::move(input)),
        body_(input_, framing),
        keepAlive_(keepAlive),
        sending_(std::move(sending)),
        release_(std::move(release)) {
    settle();
  }
  ~ResponseBody() override {
    if (!settled_) input_->close();
  }
  Task<Result<size_t>> read(std::span<char> into) override {
    auto n = co_await body_.read(into);
    settle();
    co_return n;
  }

 private:
  void settle() {
    if (settled_ || !body_.done()) return;
    settled_ = true;
    if (keepAlive_ && sending_->done && !sending_->failed && body_.framing().kind != Framing::kUntilClose && release_) {
      release_();
    } else {
      input_->close();
    }
  }

  std::shared_ptr<Input> input_;
  Http1Body body_;
  bool keepAlive_;
  std::shared_ptr<Sending> sending_;
  std::function<void()> release_;
  bool settled_ = false;
};

}  // namespace

Error refused(int status, std::string body) {
  if (body.empty()) body = fmt::format("{} {}", status, statusText(status));
  return Error(codeOfStatus(status), std::move(body));
}

Task<Result<StreamingResponse>> exchangeHttp1(std::shared_ptr<Input> input, Outgoing& request,
                                              std::function<void()> release, bool& touched) {
  auto sending = std::make_shared<Sending>();
  auto begun = co_await begin(input, request, false, sending);
  // A server that refuses early may have answered although it no longer reads.
  auto head = co_await readResponseHead(input);
  if (!head.ok()) {
    touched = !input->data().empty();
    input->close();
    co_return std::move(head).error();
  }
  touched = true;
  if (head->status == 101) {
    input->close();
    co_return Error(Code::kUnavailable, "the server changes to another protocol unasked");
  }
  auto framing = responseFraming(request.method, *head);
  if (!framing.ok()) {
    input->close();
    co_return Error(Code::kUnavailable, framing.error().message());
  }
  bool keepAlive = begun.ok() && !request.headers.hasToken("Connection", "close") &&
                   (head->http10 ? head->headers.hasToken("Connection", "keep-alive")
                                 : !head->headers.hasToken("Connection", "close"));
  StreamingResponse out;
  out.status = head->status;
  out.headers = std::move(head->headers);
  out.body = std::make_unique<ResponseBody>(input, *framing, keepAlive, sending, std::move(release));
  co_return out;
}

Task<Result<Client::Upgraded>> upgradeHttp1(std::shared_ptr<Input> input, Outgoing& request) {
  auto sending = std::make_shared<Sending>();
  auto begun = co_await begin(input, request, true, sending);
  auto head = co_await readResponseHead(input);
  if (!head.ok()) {
    input->close();
    co_return begun.ok() ? std::move(head).error() : begun.error();
  }
  if (head->status != 101 && head->status != 200) {
    auto framing = responseFraming(request.method, *head);
    if (!framing.ok()) {
      input->close();
      co_return refused(head->status, "");
    }
    ResponseBody body(input, *framing, false, sending, nullptr);
    auto text = co_await readAll(body, kRefusalLimit);
    co_return refused(head->status, text.ok() ? std::move(*text) : std::string());
  }
  Client::Upgraded out;
  out.status = head->status;
  out.headers = std::move(head->headers);
  out.stream = rawStream(input, nullptr);
  co_return out;
}

}  // namespace dhow::http::internal
