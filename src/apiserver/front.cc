#include "front.h"

#include <zlib.h>

#include <boost/json/serialize.hpp>

#include "base/digest.h"
#include "base/strings.h"
#include "base/version.h"
#include "client/fields.h"
#include "client/streaming.h"
#include "object/discovery.h"
#include "object/openapi.h"

namespace dhow::apiserver {

namespace {

constexpr size_t kGzipFrom = 128 << 10;
constexpr Duration kKeepDocuments = std::chrono::minutes(1);
constexpr size_t kTagCharacters = 40;  // as the hashes in the index of OpenAPI v3
constexpr std::string_view kOpenApiProtobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

// Clients also name the type with an @, which no media type may have; the answer has the form that they can parse.
bool wantsOpenApiProtobuf(std::string_view accept) {
  for (const auto& clause : split(accept, ',')) {
    auto parts = split(clause, ';');
    auto type = trim(parts[0]);
    if (type == "application/json" || type == "*/*" || type == "application/*") return false;
    if (type == kOpenApiProtobuf || type == "application/com.github.proto-openapi.spec.v2@v1.0+protobuf") return true;
  }
  return false;
}

Error unknownPath() {
  return Error(Code::kNotFound, "the server could not find the requested resource");
}

Task<Result<ObjectPtr>> issueToken(Tokens* tokens, WatchCache* caches, Context context, std::string ns,
                                   std::string name, json::object body) {
  // A node gets tokens for its own pods only.
  if (auto node = context.caller.node(); !node.empty()) {
    const auto& bound = client::object(body, {"spec", "boundObjectRef"});
    auto pod = client::text(bound, "kind") == "Pod"
                   ? caches->of(object::resources::kPods).get(ns, client::text(bound, "name"))
                   : nullptr;
    if (!pod || client::text(pod->root(), {"spec", "nodeName"}) != node) {
      co_return forbidden(object::resources::kServiceAccounts, name,
                          fmt::format("node \"{}\" may only ask for tokens that are bound to one of its pods", node));
    }
  }
  auto issued = tokens->issue(ns, name, std::move(body));
  CO_RETURN_IF_ERROR(issued);
  co_return object::Object::make(std::move(*issued));
}

bool isPublic(std::string_view path) {
  return path == "/healthz" || path == "/livez" || path == "/readyz" || path == "/version" || path == "/version/";
}

// What a host reads before it trusts anybody: where the cluster is, and its authority. Roles decide whether it may.
bool isForStrangers(const http::Request& request) {
  return request.method == "GET" && request.path == "/api/v1/namespaces/kube-public/configmaps/cluster-info";
}

}  // namespace

bool wantsGzip(const http::Request& request, size_t size) {
  return size >= kGzipFrom && request.headers.hasToken("Accept-Encoding", "gzip");
}

std::string gzip(std::string_view bytes) {
  z_stream stream{};
  if (deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) return {};
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  bool done = deflate(&stream, Z_FINISH) == Z_STREAM_END;
  out.resize(done ? stream.total_out : 0);
  deflateEnd(&stream);
  return out;
}

Front::Front(Loop& loop, Registry& registry, Authorizer& authorizer, Tokens& tokens, store::Store& store,
             std::string clusterId, std::string serverAddress)
    : loop_(loop),
      registry_(registry),
      authorizer_(authorizer),
      tokens_(tokens),
      store_(store),
      clusterId_(std::move(clusterId)),
      reviews_(authorizer, tokens, loop),
      tunnels_(loop),
      nodes_(loop, registry.caches(), tunnels_),
      barrier_(loop, registry.caches()),
      sessions_(loop, registry.caches(), nodes_, tunnels_),
      streaming_(loop, registry.caches(), tunnels_),
      serverAddress_(std::move(serverAddress)) {
  registry_.setGuard([this](const Context& context, const KindInfo& kind, std::string_view subresource,
                            const json::object& document, const object::Object* old) -> Result<> {
    RETURN_IF_ERROR(authorizer_.mayGrant(context.caller, kind, document, old));
    return authorizer_.mayCertify(context.caller, kind, subresource, document, old);
  });
  registry_.onReview([this](const Context& context, const KindInfo& kind, std::string_view ns, json::object body) {
    return reviews_.answer(context.caller, kind.kind, ns, std::move(body));
  });
  registry_.onSubresource("serviceaccounts/token",
                          [this](Context context, std::string ns, std::string name, json::object body) {
                            return issueToken(&tokens_, &registry_.caches(), std::move(context), std::move(ns),
                                              std::move(name), std::move(body));
                          });
  registry_.onList(object::resources::kPodSessions, [this](std::string_view ns) { return sessions_.objects(ns); });
}

void Front::start() {
  nodes_.start();
  barrier_.add(nodes_);
  barrier_.start();
  sessions_.start();
}

Task<> Front::stop() {
  stopping_ = true;
  ready_ = false;
  for (auto& [id, weak] : openWatches_) {
    if (auto watch = weak.lock()) watch->close();
  }
  tunnels_.close();
  nodes_.stop();
  co_await barrier_.stop();
  co_await sessions_.stop();
}

namespace {
std::string bearerOf(const http::Request& request) {
  auto pair = splitOnce(request.headers.get("Authorization"), ' ');
  return pair && equalsIgnoreCase(pair->first, "Bearer") ? std::string(trim(pair->second)) : std::string();
}
}  // namespace

Result<Caller> Front::authenticate(const http::Request& request) {
  auto header = request.headers.get("Authorization");
  if (!header.empty()) {
    auto pair = splitOnce(header, ' ');
    if (!pair || !equalsIgnoreCase(pair->first, "Bearer")) return Error(Code::kUnauthenticated, "Unauthorized");
    auto caller = tokens_.verify(std::string(trim(pair->second)));
    if (!caller.ok()) return Error(Code::kUnauthenticated, "Unauthorized");
    return caller;
  }
  if (!request.peer.certificateCommonName.empty()) {
    Caller caller{request.peer.certificateCommonName, "", request.peer.certificateOrganizations, {}};
    caller.groups.emplace_back(kAuthenticated);
    return caller;
  }
  if (isPublic(request.path) || isForStrangers(request))
    return Caller{"system:anonymous", "", {"system:unauthenticated"}, {}};
  return Error(Code::kUnauthenticated, "Unauthorized");
}

Result<Caller> Front::impersonate(Caller caller, const http::Request& request) const {
  auto user = request.headers.get("Impersonate-User");
  Caller other;
  other.user = user;
  other.uid = request.headers.get("Impersonate-Uid");
  std::vector<Attributes> needed;
  auto need = [&](std::string_view group, std::string plural, std::string ns, std::string_view name) {
    Attributes one;
    one.verb = "impersonate";
    one.group = group;
    one.plural = std::move(plural);
    one.ns = std::move(ns);
    one.name = name;
    needed.push_back(std::move(one));
  };
  for (const auto& [name, value] : request.headers.all()) {
    if (!equalsIgnoreCase(name, "Impersonate-Group")) continue;
    other.groups.push_back(value);
    need("", "groups", "", value);
  }
  if (user.empty()) {
    if (!other.groups.empty() || !other.uid.empty())
      return Error(Code::kBadRequest, "requested groups or uid without impersonating a user");
    return caller;
  }
  constexpr std::string_view accounts = "system:serviceaccount:";
  if (user.starts_with(accounts)) {
    auto pair = splitOnce(user.substr(accounts.size()), ':');
    if (!pair) return Error(Code::kBadRequest, "the impersonated service account is malformed");
    need("", "serviceaccounts", std::string(pair->first), pair->second);
    if (other.groups.empty())
      other.groups = {"system:serviceaccounts", "system:serviceaccounts:" + std::string(pair->first)};
  } else {
    need("", "users", "", user);
  }
  for (const auto& one : needed) {
    auto decision = authorizer_.authorize(caller, one);
    if (!decision.allowed) return Authorizer::refusal(caller, one, decision.reason);
  }
  if (!other.in(kAuthenticated) && other.user != "system:anonymous") other.groups.emplace_back(kAuthenticated);
  return other;
}

Result<> Front::authorize(const Call& call) const {
  if (!call.info.isResource && isPublic(call.info.path)) return {};
  auto wanted = call.info.attributes(call.request);
  auto decision = authorizer_.authorize(call.caller, wanted);
  if (!decision.allowed) return Authorizer::refusal(call.caller, wanted, decision.reason);
  return {};
}

Task<> Front::serve(http::Request& request, http::ResponseWriter& writer) {
  Call call{request, writer, {}, {}, {}, {}, {}, nullptr};
  const bool audited = audits(call);
  if (audited) {
    call.received = loop_.wallNow();
    call.auditId = randomUuid();
  }
  auto done = co_await dispatch(call);
  if (!done.ok() && !writer.started()) co_await sendError(call, done.error());
  if (!audited) co_return;
  if (call.status == 0) call.status = done.ok() ? 101 : httpStatus(done.error().code());
  writeAudit(call, "ResponseComplete");
}

Task<Result<>> Front::dispatch(Call& call) {
  if (stopping_) co_return Error(Code::kUnavailable, "the server is shutting down");
  auto own = authenticate(call.request);
  if (!own.ok() && tokens_.mayBecomeValid(bearerOf(call.request))) {
    // The account, pod or secret that it stands for may just have been made by another server.
    CO_RETURN_IF_ERROR(co_await registry_.caches().catchUpIfPossible());
    own = authenticate(call.request);
  }
  CO_RETURN_IF_ERROR(own);
  if (audit_) {
    call.caller = *own;
    if (!call.request.headers.get("Impersonate-User").empty()) call.impersonator = *own;
  }
  CO_ASSIGN_OR_RETURN(call.caller, impersonate(std::move(*own), call.request));
  CO_ASSIGN_OR_RETURN(call.info, parseRequest(call.request));
  if (call.info.isResource) {
    call.kind = registry_.kinds().find(call.info.group, call.info.version, call.info.plural);
    call.subject = {call.info.group, call.info.plural, call.kind ? call.kind->kind : "", call.info.name};
    if (call.kind && !call.kind->namespaced && call.info.plural != "namespaces" && !call.info.ns.empty())
      co_return unknownPath();
  }
  if (call.info.path.starts_with(client::streaming::kTunnelPrefix)) co_return co_await serveAgent(call);
  if (!authorize(call).ok()) {
    // So may be the role that allows it.
    CO_RETURN_IF_ERROR(co_await registry_.caches().catchUpIfPossible());
    auto allowed = authorize(call);
    if (!allowed.ok()) call.decision = "forbid";
    CO_RETURN_IF_ERROR(allowed);
  }
  if (audit_) call.decision = "allow";
  // What goes on for long is told as it begins, too.
  if (audit_ && call.kind && (call.info.verb == "watch" || isStreamed(call.info.subresource)))
    writeAudit(call, "RequestReceived");
  if (call.info.path == "/dhow/v1/snapshot") co_return co_await serveSnapshot(call);
  if (!call.info.isResource) co_return co_await servePath(call);
  if (!call.kind) co_return unknownPath();
  co_return co_await serveResource(call);
}

Task<Result<>> Front::sendJson(Call& call, int status, std::string body, std::string_view contentType) {
  http::Response response;
  response.status = status;
  response.headers.set("Content-Type", contentType);
  response.headers.set("Cache-Control", "no-cache, private");
  for (const auto& warning : call.warnings) {
    std::string quoted;
    for (char c : warning) {
      if (c == '"' || c == '\\') quoted.push_back('\\');
      quoted.push_back(c == '\n' || c == '\r' ? ' ' : c);
    }
    response.headers.add("Warning", fmt::format("299 - \"{}\"", quoted));
  }
  if (wantsGzip(call.request, body.size())) {
    if (std::string packed = gzip(body); !packed.empty()) {
      body = std::move(packed);
      response.headers.set("Content-Encoding", "gzip");
      response.headers.set("Vary", "Accept-Encoding");
    }
  }
  if (call.request.method == "HEAD") body.clear();
  response.body = std::move(body);
  call.status = status;
  ++counts_[{call.info.verb, status}];
  co_return co_await call.writer.send(std::move(response));
}

Task<> Front::sendError(Call& call, const Error& error) {
  if (audit_) call.failure = error;
  json::object status = statusOf(error, call.subject);
  http::Response response;
  response.status = httpStatus(error.code());
  response.headers.set("Content-Type", "application/json");
  response.headers.set("Cache-Control", "no-cache, private");
  if (error.retryAfterSeconds() > 0) response.headers.set("Retry-After", std::to_string(error.retryAfterSeconds()));
  response.body = json::serialize(status);
  response.body.push_back('\n');
  call.status = response.status;
  ++counts_[{call.info.verb, response.status}];
  auto sent = co_await call.writer.send(std::move(response));
  (void)sent;
}

// A made document is kept for a minute after it was last asked for: they are large, and clients come in bursts.
std::shared_ptr<const Front::Document> Front::document(const std::string& key,
                                                       const std::function<std::string()>& make) {
  auto found = documents_.find(key);
  if (found == documents_.end()) {
    std::string body = make();
    if (body.empty()) return nullptr;
    std::string tag = '"' + sha256Hex(body).substr(0, kTagCharacters) + '"';
    found = documents_.emplace(key, std::make_shared<const Document>(Document{std::move(body), std::move(tag)})).first;
  }
  forgetDocuments_ = loop_.after(kKeepDocuments, [this] { documents_.clear(); });
  return found->second;
}

// A client that has the document is told so. An address that carries the document's hash stands for this one alone, and
// may be kept for good.
Task<Result<>> Front::sendDocument(Call& call, std::shared_ptr<const Document> document, std::string_view contentType) {
  if (!document) co_return unknownPath();
  http::Response response;
  auto hash = call.request.query.get("hash");
  bool forGood = !hash.empty() && document->tag.substr(1, hash.size()) == hash;
  response.headers.set("Cache-Control", forGood ? "private, immutable, max-age=31536000" : "no-cache, private");
  response.headers.set("ETag", document->tag);
  response.headers.set("Vary", "Accept, Accept-Encoding");
  response.headers.set("Content-Type", contentType);
  auto known = call.request.headers.get("If-None-Match");
  if (known == "*" || known.find(document->tag) != std::string_view::npos) {
    response.status = 304;
  } else {
    response.body = document->body;
    std::string packed = wantsGzip(call.request, response.body.size()) ? gzip(response.body) : "";
    if (!packed.empty()) {
      response.body = std::move(packed);
      response.headers.set("Content-Encoding", "gzip");
    }
  }
  if (call.request.method == "HEAD") response.body.clear();
  call.status = response.status;
  ++counts_[{call.info.verb, response.status}];
  co_return co_await call.writer.send(std::move(response));
}

Task<Result<>> Front::servePath(Call& call) {
  std::string path = call.info.path;
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  if (call.request.method != "GET" && call.request.method != "HEAD") {
    co_return Error(Code::kMethodNotAllowed, "the server does not allow this method on the requested resource");
  }
  const auto& kinds = registry_.kinds();
  auto accepted = negotiate(call.request.headers.get("Accept"));
  bool aggregated = accepted.ok() && accepted->aggregatedDiscovery;
  if (path == "/healthz" || path == "/livez" || path == "/readyz") {
    bool stored = !registry_.caches().failure();
    bool good = stored && (ready_ || path != "/readyz");
    std::string text;
    if (call.request.query.has("verbose") || !good) {
      text += "[+]ping ok\n";
      text += stored ? "[+]store ok\n" : "[-]store failed\n";
      if (path == "/readyz") text += ready_ ? "[+]startup ok\n" : "[-]startup not finished\n";
      text += fmt::format("{} check {}\n", path.substr(1), good ? "passed" : "failed");
    } else {
      text = "ok";
    }
    co_return co_await sendJson(call, good ? 200 : 500, std::move(text), "text/plain; charset=utf-8");
  }
  if (path == "/version") {
    json::object version{{"major", "1"},
                         {"minor", "35"},
                         {"emulationMajor", "1"},
                         {"emulationMinor", "35"},
                         {"minCompatibilityMajor", "1"},
                         {"minCompatibilityMinor", "34"},
                         {"gitVersion", fmt::format("{}+dhow.{}", kApiVersion, thisProgram().version.text())},
                         {"gitCommit", thisProgram().build},
                         {"gitTreeState", ""},
                         {"buildDate", ""},
                         {"goVersion", ""},
                         {"compiler", "clang"},
                         {"platform", "linux/amd64"}};
    co_return co_await sendJson(call, 200, json::serialize(version));
  }
  if (path == "/api" || path == "/apis") {
    bool core = path == "/api";
    std::string key = path + (aggregated ? "?v2" : "");
    auto body = document(key, [&]() -> std::string {
      if (aggregated) return object::aggregatedDiscoveryDocument(kinds, core);
      return core ? object::apiVersionsDocument(serverAddress_) : object::apiGroupListDocument(kinds);
    });
    std::string type =
        aggregated ? "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" : "application/json";
    co_return co_await sendDocument(call, std::move(body), type);
  }
  auto parts = split(std::string_view(path).substr(1), '/');
  std::optional<std::string> found;
  if (parts.size() == 2 && parts[0] == "api") found = object::apiResourceListDocument(kinds, "", parts[1]);
  if (parts.size() == 2 && parts[0] == "apis") found = object::apiGroupDocument(kinds, parts[1]);
  if (parts.size() == 3 && parts[0] == "apis") found = object::apiResourceListDocument(kinds, parts[1], parts[2]);
  if (path == "/openapi/v2") {
    if (wantsOpenApiProtobuf(call.request.headers.get("Accept"))) {
      co_return co_await sendDocument(
          call, document(path + "?protobuf", [&] { return object::openApiV2ProtobufDocument(kinds); }),
          kOpenApiProtobuf);
    }
    co_return co_await sendDocument(call, document(path, [&] { return object::openApiV2Document(kinds); }));
  }
  if (path == "/openapi/v3")
    co_return co_await sendDocument(call, document(path, [&] { return object::openApiV3Index(kinds); }));
  if (parts.size() == 4 && path.starts_with("/openapi/v3/api/")) {
    co_return co_await sendDocument(
        call, document(path, [&] { return object::openApiV3Document(kinds, "", parts[3]).value_or(""); }));
  }
  if (parts.size() == 5 && path.starts_with("/openapi/v3/apis/")) {
    co_return co_await sendDocument(
        call, document(path, [&] { return object::openApiV3Document(kinds, parts[3], parts[4]).value_or(""); }));
  }
  if (path == "/openid/v1/jwks") {
    CO_ASSIGN_OR_RETURN(auto keys, tokens_.keySet());
    found = json::serialize(keys);
  }
  if (path == "/.well-known/openid-configuration") found = json::serialize(tokens_.discovery());
  if (path == "/metrics") {
    std::string text = "# TYPE apiserver_request_total counter\n";
    for (const auto& [key, count] : counts_)
      text += fmt::format("apiserver_request_total{{verb=\"{}\",code=\"{}\"}} {}\n", key.first, key.second, count);
    text += fmt::format(
        "# TYPE apiserver_longrunning_requests gauge\napiserver_longrunning_requests{{verb=\"watch\"}} {}\n", watches_);
    text += "# TYPE apiserver_storage_objects gauge\n";
    for (const auto& kind : kinds.all()) {
      auto* cache = kind.stored && kind.storedAsKind.empty() && !kind.plural.empty()
                        ? registry_.caches().find(kind.group, kind.plural)
                        : nullptr;
      if (cache)
        text += fmt::format("apiserver_storage_objects{{resource=\"{}\"}} {}\n", qualified(kind.plural, kind.group),
                            cache->size());
    }
    text += sessions_.metrics();
    co_return co_await sendJson(call, 200, std::move(text), "text/plain; version=0.0.4");
  }
  if (!found || found->empty()) co_return unknownPath();
  co_return co_await sendJson(call, 200, std::move(*found));
}

}  // namespace dhow::apiserver
