#include "client/http_client.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/gate.h"
#include "base/strings.h"
#include "client/fields.h"
#include "http_watch.h"

namespace dhow::client {

std::string resourcePath(const Resource& resource, std::string_view ns, std::string_view name,
                         std::string_view subresource) {
  std::string path = resource.group.empty() ? "/api/" + resource.version
                                            : "/apis/" + percentEncode(resource.group) + "/" + resource.version;
  if (!ns.empty() && resource.namespaced) path += "/namespaces/" + percentEncode(ns);
  path += "/" + resource.plural;
  if (!name.empty()) path += "/" + percentEncode(name);
  if (!subresource.empty()) path += "/" + std::string(subresource);
  return path;
}

namespace {

Code codeOf(std::string_view reason, int httpStatus) {
  static const std::map<std::string_view, Code> kReasons = {{"Unauthorized", Code::kUnauthenticated},
                                                            {"Forbidden", Code::kPermissionDenied},
                                                            {"NotFound", Code::kNotFound},
                                                            {"AlreadyExists", Code::kAlreadyExists},
                                                            {"Conflict", Code::kConflict},
                                                            {"Gone", Code::kExpired},
                                                            {"Expired", Code::kExpired},
                                                            {"Invalid", Code::kInvalid},
                                                            {"ServerTimeout", Code::kUnavailable},
                                                            {"Timeout", Code::kDeadlineExceeded},
                                                            {"TooManyRequests", Code::kTooManyRequests},
                                                            {"BadRequest", Code::kBadRequest},
                                                            {"MethodNotAllowed", Code::kMethodNotAllowed},
                                                            {"NotAcceptable", Code::kNotAcceptable},
                                                            {"RequestEntityTooLarge", Code::kTooLarge},
                                                            {"UnsupportedMediaType", Code::kUnsupportedMediaType},
                                                            {"InternalError", Code::kInternal},
                                                            {"ServiceUnavailable", Code::kUnavailable}};
  if (auto found = kReasons.find(reason); found != kReasons.end()) return found->second;
  switch (httpStatus) {
    case 400: return Code::kBadRequest;
    case 401: return Code::kUnauthenticated;
    case 403: return Code::kPermissionDenied;
    case 404: return Code::kNotFound;
    case 405: return Code::kMethodNotAllowed;
    case 406: return Code::kNotAcceptable;
    case 409: return Code::kConflict;
    case 410: return Code::kExpired;
    case 413: return Code::kTooLarge;
    case 415: return Code::kUnsupportedMediaType;
    case 422: return Code::kInvalid;
    case 429: return Code::kTooManyRequests;
    case 501: return Code::kUnimplemented;
    case 502:
    case 503: return Code::kUnavailable;
    case 504: return Code::kDeadlineExceeded;
    default: return httpStatus >= 500 ? Code::kInternal : Code::kUnknown;
  }
}

Result<json::value> parseJson(std::string_view bytes) {
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 200;
  json::value value = json::parse(bytes, error, {}, options);
  if (error) return Error(Code::kInternal, "the server's answer is not JSON: " + error.message());
  return value;
}

}  // namespace

Error errorOfStatus(int httpStatus, std::string_view body) {
  Result<json::value> parsed = parseJson(body);
  const json::object* status = parsed.ok() ? parsed->if_object() : nullptr;
  if (status == nullptr || text(*status, "kind") != "Status") {
    std::string_view shown = trim(body.substr(0, 300));
    std::string message = fmt::format("the server answered {}", httpStatus);
    if (!shown.empty()) message += fmt::format(": {}", shown);
    return Error(codeOf("", httpStatus), std::move(message));
  }
  const int code = static_cast<int>(number(*status, {"code"}, httpStatus));
  Error error(codeOf(text(*status, "reason"), code), std::string(text(*status, "message")));
  std::vector<ErrorCause> causes;
  for (const json::value& value : array(*status, {"details", "causes"})) {
    if (!value.is_object()) continue;
    const json::object& cause = value.get_object();
    causes.push_back(
        {std::string(text(cause, "reason")), std::string(text(cause, "message")), std::string(text(cause, "field"))});
  }
  const int64_t retry = number(*status, {"details", "retryAfterSeconds"}, 0);
  return std::move(std::move(error).withCauses(std::move(causes))).withRetryAfter(static_cast<int>(retry));
}

struct HttpClient::Rep {
  Rep(Loop& loop, Options given) : loop(loop), options(std::move(given)), gate(loop) { reopen(); }
  void reopen() {
    http::Client::Options transport;
    transport.tls = options.tls;
    transport.dial = options.dial;
    // Another is there to be asked: one whose machine is gone says nothing at all.
    if (options.servers.size() > 1) transport.connectTimeout = std::chrono::seconds(2);
    if (options.connectTimeout > Duration(0)) transport.connectTimeout = options.connectTimeout;
    transport.priorKnowledgeHttp2 = options.priorKnowledgeHttp2;
    transport.pingAfter = options.keepAlive;
    transport.pingTimeout = options.keepAliveTimeout;
    http = std::make_shared<http::Client>(loop, std::move(transport));
  }

  void next() {
    if (!options.servers.empty()) server = (server + 1) % options.servers.size();
  }

  struct Call {
    std::string method;
    std::string target;  // path and query
    std::string body;
    std::string contentType = "application/json";
    std::string accept = "application/json";
  };
  // A request that ends by itself when nobody waits for it any more.
  template <class T>
  struct Waiting {
    explicit Waiting(Loop& loop) : done(loop) {}
    std::optional<Result<T>> result;
    Signal done;
  };

  http::Request requestOf(const Call& call) const;
  static Task<> fetchInto(std::shared_ptr<Rep> rep, std::string url, Call call,
                          std::shared_ptr<Waiting<http::Response>> into);
  static Task<> openInto(std::shared_ptr<Rep> rep, std::string url, Call call,
                         std::shared_ptr<Waiting<std::shared_ptr<http::StreamingResponse>>> into);
  template <class T>
  static Task<Result<T>> bounded(std::shared_ptr<Rep> rep, std::shared_ptr<Waiting<T>> waiting);
  static Task<Result<std::string>> call(std::shared_ptr<Rep> rep, Call call);
  static Task<Result<ObjectPtr>> object(std::shared_ptr<Rep> rep, Call request);
  static Task<Result<List>> list(std::shared_ptr<Rep> rep, Call request);
  static Task<Result<std::unique_ptr<Watcher>>> watch(std::shared_ptr<Rep> rep, Call request);
  static Task<Result<>> remove(std::shared_ptr<Rep> rep, Call request);

  Loop& loop;
  Options options;
  std::shared_ptr<http::Client> http;
  size_t server = 0;
  std::vector<std::weak_ptr<HttpWatch>> watches;
  Gate gate;
};

http::Request HttpClient::Rep::requestOf(const Call& call) const {
  http::Request request;
  request.method = call.method;
  request.headers.set("Accept", call.accept);
  if (!options.userAgent.empty()) request.headers.set("User-Agent", options.userAgent);
  if (!options.bearerToken.empty()) request.headers.set("Authorization", "Bearer " + options.bearerToken);
  if (!call.body.empty()) {
    request.headers.set("Content-Type", call.contentType);
    request.body = http::bodyOf(call.body);
  }
  return request;
}

Task<> HttpClient::Rep::fetchInto(std::shared_ptr<Rep> rep, std::string url, Call call,
                                  std::shared_ptr<Waiting<http::Response>> into) {
  http::Request request = rep->requestOf(call);
  std::shared_ptr<http::Client> http = rep->http;
  Result<http::Response> response = co_await http->fetch(std::move(url), std::move(request), rep->options.bodyLimit);
  into->result = std::move(response);
  into->done.notify();
}

Task<> HttpClient::Rep::openInto(std::shared_ptr<Rep> rep, std::string url, Call call,
                                 std::shared_ptr<Waiting<std::shared_ptr<http::StreamingResponse>>> into) {
  http::Request request = rep->requestOf(call);
  std::shared_ptr<http::Client> http = rep->http;
  Result<http::StreamingResponse> response = co_await http->send(std::move(url), std::move(request));
  if (response.ok()) {
    into->result.emplace(std::make_shared<http::StreamingResponse>(std::move(*response)));
  } else {
    into->result.emplace(std::move(response).error());
  }
  into->done.notify();
}

template <class T>
Task<Result<T>> HttpClient::Rep::bounded(std::shared_ptr<Rep> rep, std::shared_ptr<Waiting<T>> waiting) {
  if (rep->gate.closed()) co_return Error(Code::kCancelled, "the client has stopped");
  if (!waiting->result) co_await waiting->done.waitFor(rep->options.requestTimeout);
  if (!waiting->result) {
    rep->next();
    // Those that there are may lead to nobody any more.
    if (rep->options.dropOnTimeout) {
      rep->http->close();
      rep->reopen();
    }
    co_return Error(Code::kDeadlineExceeded, "the server did not answer in time");
  }
  co_return std::move(*waiting->result);
}

Task<Result<std::string>> HttpClient::Rep::call(std::shared_ptr<Rep> rep, Call call) {
  if (rep->options.servers.empty()) co_return Error(Code::kFailedPrecondition, "no server is configured");
  const bool repeatable = call.method == "GET";
  for (size_t attempt = 0;; ++attempt) {
    const size_t server = rep->server;
    auto waiting = std::make_shared<Waiting<http::Response>>(rep->loop);
    rep->gate.spawn(fetchInto(rep, rep->options.servers[server] + call.target, call, waiting));
    Result<http::Response> response = co_await bounded(rep, waiting);
    if (response.ok()) {
      if (response->status < 200 || response->status > 299) co_return errorOfStatus(response->status, response->body);
      co_return std::move(response->body);
    }
    Error error = std::move(response).error();
    if (error.is(Code::kCancelled)) co_return error;
    if (rep->server == server) rep->next();
    if (!repeatable || attempt + 1 >= rep->options.servers.size()) {
      if (error.is(Code::kDeadlineExceeded) || error.is(Code::kTooLarge)) co_return error;
      // Whatever the transport said, to the caller the server is away.
      co_return Error(Code::kUnavailable, error.message(), error.errnum());
    }
  }
}

Task<Result<ObjectPtr>> HttpClient::Rep::object(std::shared_ptr<Rep> rep, Call request) {
  Result<std::string> body = co_await call(std::move(rep), std::move(request));
  if (!body.ok()) co_return std::move(body).error();
  co_return Object::parse(*body);
}

Task<Result<List>> HttpClient::Rep::list(std::shared_ptr<Rep> rep, Call request) {
  Result<std::string> body = co_await call(std::move(rep), std::move(request));
  if (!body.ok()) co_return std::move(body).error();
  CO_ASSIGN_OR_RETURN(json::value parsed, parseJson(*body));
  json::object* root = parsed.if_object();
  if (root == nullptr) co_return Error(Code::kInternal, "the server's list is not an object");
  List out;
  out.resourceVersion = text(*root, {"metadata", "resourceVersion"});
  const std::string apiVersion(text(*root, "apiVersion"));
  std::string kind(text(*root, "kind"));
  if (kind.ends_with("List")) kind.resize(kind.size() - 4);
  json::value* items = root->if_contains("items");
  if (items == nullptr || !items->is_array()) co_return out;
  out.items.reserve(items->get_array().size());
  for (json::value& item : items->get_array()) {
    if (!item.is_object()) continue;
    json::object document = std::move(item.get_object());
    // The members of a list need not say what they are.
    if (!document.contains("apiVersion")) document["apiVersion"] = apiVersion;
    if (!document.contains("kind")) document["kind"] = kind;
    out.items.push_back(Object::make(std::move(document)));
  }
  co_return out;
}

Task<Result<std::unique_ptr<Watcher>>> HttpClient::Rep::watch(std::shared_ptr<Rep> rep, Call request) {
  if (rep->options.servers.empty()) co_return Error(Code::kFailedPrecondition, "no server is configured");
  const size_t server = rep->server;
  auto waiting = std::make_shared<Waiting<std::shared_ptr<http::StreamingResponse>>>(rep->loop);
  rep->gate.spawn(openInto(rep, rep->options.servers[server] + request.target, request, waiting));
  Result<std::shared_ptr<http::StreamingResponse>> opened = co_await bounded(rep, waiting);
  if (!opened.ok()) {
    Error error = std::move(opened).error();
    if (error.is(Code::kCancelled)) co_return error;
    if (rep->server == server) rep->next();
    co_return Error(Code::kUnavailable, error.message(), error.errnum());
  }
  std::shared_ptr<http::StreamingResponse> response = std::move(*opened);
  if (response->status != 200) {
    Result<std::string> body = co_await http::readAll(*response->body, 1 << 20);
    co_return errorOfStatus(response->status, body.ok() ? std::string_view(*body) : std::string_view());
  }
  auto state = std::make_shared<HttpWatch>(rep->loop, rep->options.watchLineLimit);
  std::erase_if(rep->watches, [](const auto& weak) { return weak.expired(); });
  rep->watches.push_back(state);
  rep->gate.spawn(HttpWatch::pump(state, std::move(response)));
  co_return HttpWatch::watcher(std::move(state));
}

Task<Result<>> HttpClient::Rep::remove(std::shared_ptr<Rep> rep, Call request) {
  Result<std::string> body = co_await call(std::move(rep), std::move(request));
  if (!body.ok()) co_return std::move(body).error();
  co_return Result<>();
}

HttpClient::HttpClient(Loop& loop, Options options) : rep_(std::make_shared<Rep>(loop, std::move(options))) {}

HttpClient::~HttpClient() {
  rep_->http->close();
}

void HttpClient::setBearerToken(std::string token) {
  rep_->options.bearerToken = std::move(token);
}

void HttpClient::setServers(std::vector<std::string> servers) {
  CHECK(!servers.empty(), "a client needs a server");
  auto& rep = *rep_;
  const std::string last = rep.options.servers.empty() ? "" : rep.options.servers[rep.server];
  rep.options.servers = std::move(servers);
  const auto found = std::find(rep.options.servers.begin(), rep.options.servers.end(), last);
  rep.server = found == rep.options.servers.end() ? 0 : static_cast<size_t>(found - rep.options.servers.begin());
}

Task<> HttpClient::stop() {
  std::shared_ptr<Rep> rep = rep_;
  for (const auto& weak : rep->watches) {
    if (auto watch = weak.lock()) watch->close();
  }
  rep->http->close();
  co_await rep->gate.close();
}

namespace {

std::string withQuery(std::string path, const http::Query& query) {
  std::string encoded = query.str();
  return encoded.empty() ? path : path + "?" + encoded;
}

http::Query selection(const ListOptions& options) {
  http::Query query;
  if (!options.labelSelector.empty()) query.add("labelSelector", options.labelSelector);
  if (!options.fieldSelector.empty()) query.add("fieldSelector", options.fieldSelector);
  return query;
}

std::string formOf(const ListOptions& options) {
  return options.podAddresses ? "application/json;as=PodAddress;g=dhow.io;v=v1" : "application/json";
}

http::Query writing(const std::string& fieldManager) {
  http::Query query;
  if (!fieldManager.empty()) query.add("fieldManager", fieldManager);
  return query;
}

}  // namespace

Task<Result<ObjectPtr>> HttpClient::get(const Resource& resource, std::string ns, std::string name) {
  return Rep::object(rep_, {"GET", resourcePath(resource, ns, name), ""});
}

Task<Result<List>> HttpClient::list(const Resource& resource, ListOptions options) {
  return Rep::list(rep_, {.method = "GET",
                          .target = withQuery(resourcePath(resource, options.ns), selection(options)),
                          .accept = formOf(options)});
}

Task<Result<std::unique_ptr<Watcher>>> HttpClient::watch(const Resource& resource, ListOptions options,
                                                         std::string resourceVersion) {
  http::Query query = selection(options);
  query.add("watch", "true");
  query.add("allowWatchBookmarks", "true");
  if (!resourceVersion.empty()) query.add("resourceVersion", resourceVersion);
  // Spread over time, so that the watches of a server do not all end at once.
  query.add("timeoutSeconds", std::to_string(300 + rep_->loop.random() % 300));
  return Rep::watch(
      rep_,
      {.method = "GET", .target = withQuery(resourcePath(resource, options.ns), query), .accept = formOf(options)});
}

Task<Result<ObjectPtr>> HttpClient::create(const Resource& resource, std::string ns, json::object body,
                                           std::string name, std::string subresource) {
  std::string path = resourcePath(resource, ns, subresource.empty() ? std::string() : name, subresource);
  return Rep::object(rep_,
                     {"POST", withQuery(std::move(path), writing(rep_->options.fieldManager)), json::serialize(body)});
}

Task<Result<ObjectPtr>> HttpClient::update(const Resource& resource, std::string ns, std::string name,
                                           std::string subresource, json::object body) {
  std::string path = resourcePath(resource, ns, name, subresource);
  return Rep::object(rep_,
                     {"PUT", withQuery(std::move(path), writing(rep_->options.fieldManager)), json::serialize(body)});
}

Task<Result<ObjectPtr>> HttpClient::patch(const Resource& resource, std::string ns, std::string name,
                                          std::string subresource, PatchType type, json::value body) {
  http::Query query = writing(rep_->options.fieldManager);
  std::string contentType = "application/merge-patch+json";
  if (type == PatchType::kJson) contentType = "application/json-patch+json";
  if (type == PatchType::kStrategicMerge) contentType = "application/strategic-merge-patch+json";
  if (type == PatchType::kApply) {
    contentType = "application/apply-patch+yaml";
    if (!query.has("fieldManager")) query.add("fieldManager", rep_->options.userAgent);
    query.add("force", "true");
  }
  std::string target = withQuery(resourcePath(resource, ns, name, subresource), query);
  return Rep::object(rep_, {"PATCH", std::move(target), json::serialize(body), std::move(contentType)});
}

Task<Result<>> HttpClient::remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) {
  json::object body{{"apiVersion", "v1"}, {"kind", "DeleteOptions"}};
  if (options.gracePeriodSeconds) body["gracePeriodSeconds"] = *options.gracePeriodSeconds;
  if (!options.propagationPolicy.empty()) body["propagationPolicy"] = options.propagationPolicy;
  if (!options.uid.empty()) objectAt(body, "preconditions")["uid"] = options.uid;
  if (!options.resourceVersion.empty()) objectAt(body, "preconditions")["resourceVersion"] = options.resourceVersion;
  return Rep::remove(rep_, {"DELETE", resourcePath(resource, ns, name), json::serialize(body)});
}

Task<Result<std::string>> HttpClient::raw(std::string method, std::string target, std::string body,
                                          std::string contentType) {
  return Rep::call(rep_, {std::move(method), std::move(target), std::move(body), std::move(contentType)});
}

}  // namespace dhow::client
