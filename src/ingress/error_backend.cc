#include "error_backend.h"

#include "base/strings.h"
#include "http/client.h"

namespace dhow::ingress {

namespace {

constexpr size_t kMostUnderWay = 256;
constexpr Duration kPatience = std::chrono::seconds(3);  // HAProxy waits five

struct Asked {
  std::string url;
  http::Request request;
};
Result<Asked> readQuestion(const ErrorQuestion& question) {
  const std::vector<std::string> words = split(question.place, ' ');
  if (words.size() != 5) return Error(Code::kInvalid, "nobody is named who answers instead");
  Asked out;
  out.url = fmt::format("http://{}/", words[0]);
  http::Headers& headers = out.request.headers;
  headers.set("X-Code", std::to_string(question.code));
  headers.set("X-Format", question.format);
  headers.set("X-Original-URI", question.uri);
  headers.set("X-Namespace", words[1]);
  headers.set("X-Ingress-Name", words[2]);
  headers.set("X-Service-Name", words[3]);
  headers.set("X-Service-Port", words[4]);
  headers.set("X-Request-ID", question.id);
  if (!question.host.empty()) headers.set("Host", question.host);
  return out;
}

}  // namespace

Task<Result<ErrorAnswer>> ErrorBackends::ask(ErrorQuestion question) {
  CO_ASSIGN_OR_RETURN(Asked asked, readQuestion(question));
  if (underWay_ >= kMostUnderWay)
    co_return Error(Code::kUnavailable, "too many questions are under way to those who answer instead");
  ++underWay_;
  http::Client client(loop_, {.connectTimeout = kPatience});
  Timer end = loop_.after(kPatience, [&client] { client.close(); });
  auto answer = co_await client.fetch(std::move(asked.url), std::move(asked.request), kLongestErrorAnswer);
  end.cancel();
  --underWay_;
  if (!answer.ok()) co_return std::move(answer).error();
  co_return ErrorAnswer{answer->status, std::string(answer->headers.get("Content-Type")),
                        std::string(answer->headers.get("Cache-Control")), std::move(answer->body)};
}

}  // namespace dhow::ingress
