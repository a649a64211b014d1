// Probes and hooks over the network. Each look takes a connection of its own, as kubelets do.
#include "base/strings.h"
#include "base/url_host.h"
#include "http/client.h"
#include "http/tls.h"
#include "real_floors.h"

namespace dhow::node {

namespace {

constexpr size_t kBodyLimit = 10 << 10;

struct Attempt {
  Attempt(Loop& loop, http::Client::Options options) : client(loop, std::move(options)), changed(loop) {}
  http::Client client;
  Signal changed;
  std::optional<Result<Connector::Answer>> answer;
};

// Reads at most the limit and lets the rest go.
Task<Result<std::string>> readSome(http::BodyReader& body) {
  std::string out;
  char buffer[4096];
  while (out.size() < kBodyLimit) {
    auto count = co_await body.read(buffer);
    if (!count.ok()) co_return std::move(count).error();
    if (*count == 0) break;
    out.append(buffer, *count);
  }
  co_return out;
}

Task<> attemptOnce(std::shared_ptr<Attempt> attempt, std::string url, http::Request request) {
  auto response = co_await attempt->client.send(std::move(url), std::move(request));
  if (!response.ok()) {
    attempt->answer.emplace(std::move(response).error());
  } else {
    Connector::Answer answer;
    answer.status = response->status;
    if (response->body) {
      auto body = co_await readSome(*response->body);
      if (body.ok()) answer.body = std::move(*body);
    }
    response->body.reset();
    attempt->answer.emplace(std::move(answer));
  }
  attempt->changed.notify();
}

std::string grpcMessage(std::string_view service) {
  std::string message;
  if (!service.empty()) {
    message += '\x0a';
    message += static_cast<char>(std::min<size_t>(service.size(), 127));
    message += service.substr(0, 127);
  }
  std::string out(5, '\0');
  out[4] = static_cast<char>(message.size());
  return out + message;
}

}  // namespace

struct NetConnector::Rep {
  explicit Rep(Loop& l) : loop(l), gate(l) {}
  Loop& loop;
  Gate gate;
  std::shared_ptr<http::TlsClient> tls;  // trusts anyone: a pod's certificate is its own matter

  Task<Result<Connector::Answer>> fetch(http::Client::Options options, std::string url, http::Request request,
                                        Duration timeout) {
    options.connectTimeout = timeout;
    auto attempt = std::make_shared<Attempt>(loop, std::move(options));
    const TimePoint deadline = loop.now() + timeout;
    gate.spawn(attemptOnce(attempt, std::move(url), std::move(request)));
    while (!attempt->answer) {
      const Duration left = deadline - loop.now();
      if (left <= Duration::zero()) break;
      co_await attempt->changed.waitFor(left);
    }
    if (!attempt->answer) {
      attempt->client.close();
      co_return Error(Code::kDeadlineExceeded,
                      "context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
    }
    Result<Connector::Answer> answer = std::move(*attempt->answer);
    attempt->client.close();
    co_return answer;
  }
};

NetConnector::NetConnector(Loop& loop) : rep_(std::make_unique<Rep>(loop)) {}
NetConnector::~NetConnector() = default;

Task<> NetConnector::stop() {
  co_await rep_->gate.close();
}

Task<Result<Connector::Answer>> NetConnector::httpGet(HttpGet get, Duration timeout) {
  http::Client::Options options;
  options.http2 = false;
  if (get.scheme == "https") {
    if (!rep_->tls) {
      http::TlsClient::Options tls;
      tls.insecureSkipVerify = true;
      tls.http2 = false;
      auto made = http::TlsClient::create(std::move(tls));
      if (!made.ok()) co_return std::move(made).error();
      rep_->tls = std::move(*made);
    }
    options.tls = rep_->tls;
  }
  http::Request request;
  request.headers.set("User-Agent", "kube-probe/1.35");
  request.headers.set("Accept", "*/*");
  request.headers.set("Connection", "close");
  for (const auto& [name, value] : get.headers) request.headers.set(name, value);
  std::string url = fmt::format("{}://{}:{}{}", get.scheme, urlHost(get.host), get.port, get.path);
  auto answer = co_await rep_->fetch(std::move(options), std::move(url), std::move(request), timeout);
  co_return answer;
}

Task<Result<>> NetConnector::tcpConnect(std::string host, uint16_t port, Duration timeout) {
  auto stream = co_await http::connectTcp(rep_->loop, std::move(host), port, timeout);
  if (!stream.ok()) co_return std::move(stream).error();
  (*stream)->close();
  co_return Result<>();
}

// grpc.health.v1.Health/Check: the message is one varint, 1 is SERVING.
Task<Result<>> NetConnector::grpcHealth(std::string host, uint16_t port, std::string service, Duration timeout) {
  http::Client::Options options;
  options.priorKnowledgeHttp2 = true;
  http::Request request;
  request.method = "POST";
  request.headers.set("Content-Type", "application/grpc");
  request.headers.set("TE", "trailers");
  request.headers.set("User-Agent", "kube-probe/1.35");
  request.body = http::bodyOf(grpcMessage(service));
  std::string url = fmt::format("http://{}:{}/grpc.health.v1.Health/Check", urlHost(host), port);
  auto answer = co_await rep_->fetch(std::move(options), std::move(url), std::move(request), timeout);
  if (!answer.ok()) co_return std::move(answer).error();
  if (answer->status != 200) co_return Error(Code::kUnavailable, fmt::format("grpc: http status {}", answer->status));
  const std::string& body = answer->body;
  const bool serving = body.size() >= 7 && body[5] == '\x08' && body[6] == '\x01';
  if (!serving) co_return Error(Code::kUnavailable, "service unhealthy (responded with \"NOT_SERVING\")");
  co_return Result<>();
}

}  // namespace dhow::node
