#include "registry_client.h"

#include <algorithm>

#include "base/digest.h"
#include "base/strings.h"
#include "endpoint.h"
#include "json_read.h"

namespace dhow::image {

using namespace jsonread;

namespace {

constexpr size_t kMaxErrorBody = 64 << 10;

bool isLoopback(std::string_view domain) {
  std::string_view host = domain;
  if (host.starts_with("[::1]")) return true;
  host = host.substr(0, host.find(':'));
  if (host == "localhost" || host.ends_with(".localhost")) return true;
  auto parts = split(host, '.');
  return parts.size() == 4 && parts[0] == "127" &&
         std::all_of(parts.begin(), parts.end(), [](const auto& p) { return parseUint(p).has_value(); });
}

// The first error of an OCI error document.
std::pair<std::string, std::string> firstError(const std::string& body) {
  auto document = parseObject(body, "error");
  if (!document.ok()) return {};
  const auto* errors = arrayAt(*document, "errors");
  if (!errors || errors->empty() || !(*errors)[0].is_object()) return {};
  const auto& first = (*errors)[0].get_object();
  return {stringAt(first, "code"), stringAt(first, "message").substr(0, 1024)};
}

// MANIFEST_UNKNOWN -> "manifest unknown"
std::string spoken(std::string code) {
  code = toLower(code);
  std::replace(code.begin(), code.end(), '_', ' ');
  return code;
}

}  // namespace

bool isTransient(const Error& error) {
  switch (error.code()) {
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kTooManyRequests:
    case Code::kUnknown:
    case Code::kInternal: return true;
    default:
      return error.errnum() == ECONNREFUSED || error.errnum() == ECONNRESET || error.errnum() == EPIPE ||
             error.errnum() == ETIMEDOUT;
  }
}

RegistryClient::RegistryClient(Loop& loop, const RegistryAccess& access, Reference reference,
                               std::vector<Credentials> credentials)
    : loop_(loop), access_(access), reference_(std::move(reference)), credentials_(std::move(credentials)) {
  RegistryHost host;
  if (auto it = access_.hosts.find(reference_.domain); it != access_.hosts.end()) host = it->second;
  if (!host.credentials.empty()) credentials_.push_back(host.credentials);
  Endpoint::Options options;
  options.insecure = host.insecure || std::find(access_.insecure.begin(), access_.insecure.end(), reference_.domain) !=
                                          access_.insecure.end();
  options.caPem = host.caPem;
  options.certificatePem = host.certificatePem;
  options.keyPem = host.keyPem;
  for (const auto& mirror : host.mirrors) {
    Endpoint::Options other = options;
    other.url = mirror;
    other.mirror = true;
    // The registry's password is not the mirror's, unless the table says so.
    if (!host.credentials.empty()) other.credentials = {host.credentials};
    endpoints_.push_back(std::make_unique<Endpoint>(loop_, std::move(other)));
  }
  options.url = !host.endpoint.empty()             ? host.endpoint
                : reference_.domain == "docker.io" ? "https://registry-1.docker.io"
                                                   : reference_.domain;
  options.loopback = host.endpoint.empty() && isLoopback(reference_.domain);
  options.credentials = credentials_;
  endpoints_.push_back(std::make_unique<Endpoint>(loop_, std::move(options)));
}

RegistryClient::~RegistryClient() = default;

Error RegistryClient::describe(int status, std::string body, const Call& call, const http::Headers& headers) const {
  auto [code, message] = firstError(body);
  std::string detail = code.empty() ? "" : ": " + spoken(code) + ": " + (message.empty() ? spoken(code) : message);
  std::string name = reference_.familiarName();
  if (status == 429) {
    Error error(Code::kTooManyRequests, "toomanyrequests: " + (message.empty() ? "rate limit exceeded" : message));
    int seconds = static_cast<int>(std::min<int64_t>(parseInt(headers.get("Retry-After")).value_or(0), 3600));
    return std::move(error).withRetryAfter(seconds);
  }
  bool scopeTooSmall = false;
  for (auto& challenge : parseChallenges(headers.get("WWW-Authenticate"))) {
    if (challenge.scheme == "bearer" && challenge.parameters["error"] == "insufficient_scope") scopeTooSmall = true;
  }
  bool refused = status == 403 || scopeTooSmall || code == "DENIED";
  if (status == 401 || refused || code == "UNAUTHORIZED") {
    if (call.path == "/v2/") return Error(Code::kUnauthenticated, "unauthorized: incorrect username or password");
    if (call.push && (refused || code.empty()))
      return Error(Code::kPermissionDenied,
                   code == "DENIED" ? "denied: " + message : "denied: requested access to the resource is denied");
    // A name that must not be known looks like one that does not exist.
    if (refused)
      return Error(Code::kNotFound,
                   "pull access denied for " + name + ", repository does not exist or may require 'docker login': " +
                       (code == "DENIED" && !message.empty() ? "denied: " + message
                                                             : "denied: requested access to the resource is denied"));
    return Error(Code::kUnauthenticated, "unauthorized: " + (message.empty() ? "authentication required" : message));
  }
  if (status == 404) {
    if (call.path.find("/manifests/") != std::string::npos && code != "NAME_UNKNOWN")
      return Error(Code::kNotFound,
                   "manifest for " + reference_.familiar() + " not found: manifest unknown: manifest unknown");
    if (code == "NAME_UNKNOWN") return Error(Code::kNotFound, "repository " + name + " not found" + detail);
    return Error(Code::kNotFound,
                 code.empty() ? "not found in the registry of " + name : spoken(code) + ": " + message);
  }
  std::string text =
      "received unexpected HTTP status: " + std::to_string(status) + " " + std::string(http::statusText(status));
  if (!code.empty()) text = spoken(code) + ": " + message;
  return Error(status >= 500 || status == 408 ? Code::kUnavailable : Code::kBadRequest, text);
}

Task<Result<http::StreamingResponse>> RegistryClient::call(Call call) {
  std::string scope = "repository:" + reference_.path + (call.push ? ":pull,push" : ":pull");
  if (call.path == "/v2/") scope.clear();
  std::optional<Error> last;
  size_t count = endpoints_.size();
  bool originOnly = call.push || call.path == "/v2/" || call.path.find("://") != std::string::npos;
  size_t start = originOnly ? count - 1 : preferred_;
  for (size_t i = start; i < count; ++i) {
    auto& endpoint = *endpoints_[i];
    http::Headers headers = call.headers;
    if (!call.contentLength.empty()) headers.set("Content-Length", call.contentLength);
    auto answer = co_await endpoint.request(call.method, call.path, std::move(headers), call.body, scope);
    if (!answer.ok()) {
      last = std::move(answer).error();
      if (last->is(Code::kUnauthenticated)) answered_ = true;
      if (last->is(Code::kUnknown) || last->errnum() != 0 || last->is(Code::kNotFound))
        last = Error(Code::kUnavailable, last->message(), last->errnum());
      continue;
    }
    answered_ = true;
    if (answer->status < 400) {
      if (!endpoint.mirror()) preferred_ = i;
      co_return std::move(*answer);
    }
    std::string body;
    if (answer->body) {
      auto text = co_await http::readAll(*answer->body, kMaxErrorBody);
      if (text.ok()) body = std::move(*text);
    }
    last = describe(answer->status, std::move(body), call, answer->headers);
  }
  co_return *last;
}

bool RegistryClient::mayRetry(const Error& error) const {
  return answered_ && isTransient(error);
}

Task<> RegistryClient::backOff(int n, const Error& error) {
  Duration delay = access_.retryDelay * (1 << std::min(n - 1, 6));
  delay +=
      Duration(static_cast<int64_t>(loop_.random() % static_cast<uint64_t>(std::max<int64_t>(delay.count() / 4, 1))));
  if (error.retryAfterSeconds() > 0)
    delay = std::max<Duration>(delay, std::chrono::seconds(std::min(error.retryAfterSeconds(), 60)));
  co_await loop_.sleep(delay);
}

Task<Result<http::StreamingResponse>> RegistryClient::callRetrying(Call what) {
  for (int attempt = 1;; ++attempt) {
    auto answer = co_await call(what);
    if (answer.ok() || !mayRetry(answer.error()) || attempt >= access_.attempts) co_return answer;
    Error error = answer.error();
    co_await backOff(attempt, error);
  }
}

Task<Result<RemoteManifest>> RegistryClient::manifest(std::string target) {
  Call what;
  what.path = repositoryPath("/manifests/" + target);
  for (auto type : {media::kOciIndex, media::kDockerList, media::kOciManifest, media::kDockerManifest})
    what.headers.add("Accept", type);
  for (int attempt = 1;; ++attempt) {
    auto answer = co_await callRetrying(what);
    if (!answer.ok()) co_return std::move(answer).error();
    RemoteManifest out;
    out.mediaType = std::string(answer->headers.get("Content-Type"));
    out.mediaType = std::string(trim(out.mediaType.substr(0, out.mediaType.find(';'))));
    auto body = co_await http::readAll(*answer->body, kMaxDocument);
    if (!body.ok()) {
      Error error = std::move(body).error();
      if (error.is(Code::kTooLarge) || attempt >= access_.attempts)
        co_return std::move(error).wrap("read manifest of " + reference_.familiar());
      co_await backOff(attempt, error);
      continue;
    }
    out.bytes = std::move(*body);
    out.size = static_cast<int64_t>(out.bytes.size());
    out.digest = "sha256:" + sha256Hex(out.bytes);
    if (isDigest(target) && target != out.digest)
      co_return Error(Code::kDataLoss, "manifest verification failed for digest " + target);
    if (!isIndexType(out.mediaType) && !isManifestType(out.mediaType)) out.mediaType = mediaTypeOf(out.bytes);
    co_return out;
  }
}

Task<Result<RemoteManifest>> RegistryClient::manifestHead(std::string target) {
  Call what;
  what.method = "HEAD";
  what.path = repositoryPath("/manifests/" + target);
  for (auto type : {media::kOciIndex, media::kDockerList, media::kOciManifest, media::kDockerManifest})
    what.headers.add("Accept", type);
  auto answer = co_await call(std::move(what));
  if (!answer.ok()) co_return std::move(answer).error();
  RemoteManifest out;
  out.digest = std::string(answer->headers.get("Docker-Content-Digest"));
  out.mediaType = std::string(answer->headers.get("Content-Type"));
  out.size = parseInt(answer->headers.get("Content-Length")).value_or(0);
  if (!isDigest(out.digest)) co_return Error(Code::kNotFound, "registry tells no digest");
  co_return out;
}

Task<Result<RegistryClient::Opened>> RegistryClient::openBlob(std::string digest, uint64_t offset) {
  Call what;
  what.path = repositoryPath("/blobs/" + digest);
  if (offset > 0) what.headers.set("Range", "bytes=" + std::to_string(offset) + "-");
  auto answer = co_await call(std::move(what));
  if (!answer.ok()) co_return std::move(answer).error();
  Opened out;
  out.body = std::move(answer->body);
  if (offset > 0 && answer->status == 206) {
    auto range = answer->headers.get("Content-Range");
    if (!range.starts_with("bytes " + std::to_string(offset) + "-"))
      co_return Error(Code::kUnavailable, "registry sends another range than asked for");
  } else if (offset > 0) {
    out.skip = offset;
  }
  co_return out;
}

Task<Result<std::string>> RegistryClient::blob(std::string digest, int64_t size) {
  if (size > static_cast<int64_t>(kMaxDocument))
    co_return Error(Code::kTooLarge, "blob " + digest + " is larger than 4 MiB");
  for (int attempt = 1;; ++attempt) {
    auto opened = co_await openBlob(digest, 0);
    std::optional<Error> problem;
    if (opened.ok()) {
      auto bytes = co_await http::readAll(*opened->body, static_cast<size_t>(size) + 1);
      if (bytes.ok() && "sha256:" + sha256Hex(*bytes) == digest) co_return std::move(*bytes);
      // A wrong digest may be a body cut short.
      problem = bytes.ok() ? Error(Code::kDataLoss, "filesystem layer verification failed for digest " + digest)
                           : bytes.error();
    } else {
      problem = opened.error();
      if (!mayRetry(*problem)) co_return std::move(*problem);
    }
    if (attempt >= access_.attempts) co_return std::move(*problem);
    co_await backOff(attempt, *problem);
  }
}

Task<Result<bool>> RegistryClient::hasBlob(std::string digest) {
  Call what;
  what.method = "HEAD";
  what.push = true;
  what.path = repositoryPath("/blobs/" + digest);
  auto answer = co_await callRetrying(std::move(what));
  if (answer.ok()) co_return true;
  if (answer.error().is(Code::kNotFound)) co_return false;
  co_return std::move(answer).error();
}

Task<Result<>> RegistryClient::upload(std::string digest, uint64_t size, BodyFactory body) {
  for (int attempt = 1;; ++attempt) {
    Call start;
    start.method = "POST";
    start.push = true;
    start.path = repositoryPath("/blobs/uploads/");
    start.contentLength = "0";
    auto session = co_await callRetrying(start);
    if (!session.ok()) co_return std::move(session).error();
    std::string location(session->headers.get("Location"));
    if (location.empty()) co_return Error(Code::kUnavailable, "registry names no place for the upload");
    Call put;
    put.method = "PUT";
    put.push = true;
    put.path = location + (location.find('?') == std::string::npos ? "?" : "&") + "digest=" + percentEncode(digest);
    put.headers.set("Content-Type", "application/octet-stream");
    put.contentLength = std::to_string(size);
    put.body = body;
    auto done = co_await call(std::move(put));
    if (done.ok()) co_return Result<>();
    Error error = done.error();
    if (!mayRetry(error) || attempt >= access_.attempts) co_return std::move(error);
    co_await backOff(attempt, error);
  }
}

Task<Result<>> RegistryClient::putManifest(std::string target, std::string mediaType, std::string bytes) {
  Call what;
  what.method = "PUT";
  what.push = true;
  what.path = repositoryPath("/manifests/" + target);
  what.headers.set("Content-Type", mediaType);
  what.contentLength = std::to_string(bytes.size());
  what.body = [bytes = std::move(bytes)]() -> Result<std::unique_ptr<http::BodyReader>> { return http::bodyOf(bytes); };
  auto answer = co_await callRetrying(std::move(what));
  if (!answer.ok()) co_return std::move(answer).error();
  co_return Result<>();
}

Task<Result<>> RegistryClient::ping() {
  Call what;
  what.path = "/v2/";
  auto answer = co_await call(std::move(what));
  if (!answer.ok()) co_return std::move(answer).error();
  co_return Result<>();
}

}  // namespace dhow::image
