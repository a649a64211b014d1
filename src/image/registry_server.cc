#include "image/registry_server.h"

#include <unistd.h>

#include <algorithm>

#include "async.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/strings.h"
#include "image/reference.h"
#include "json_read.h"
#include "repositories.h"

namespace dhow::image {

namespace json = boost::json;

namespace {

constexpr size_t kPiece = 256 << 10;
constexpr Duration kIdleUpload = std::chrono::hours(1);

http::Response errorResponse(int status, std::string code, std::string message) {
  http::Response out;
  out.status = status;
  out.headers.set("Content-Type", "application/json");
  out.body = json::serialize(json::object{{"errors", json::array{json::object{{"code", code}, {"message", message}}}}});
  return out;
}

http::Response jsonResponse(std::string body) {
  http::Response out;
  out.headers.set("Content-Type", "application/json");
  out.body = std::move(body);
  return out;
}

// What a path under /v2/ names.
struct Route {
  enum class Kind { kNone, kBase, kCatalog, kTags, kManifest, kBlob, kUploads, kUpload, kReferrers } kind = Kind::kNone;
  std::string name, rest;
};

Route parseRoute(std::string_view path) {
  auto decoded = percentDecode(path);
  if (!decoded) return {};
  std::string_view p = *decoded;
  if (p == "/v2" || p == "/v2/") return {Route::Kind::kBase, "", ""};
  if (!p.starts_with("/v2/")) return {};
  p.remove_prefix(4);
  if (p == "_catalog") return {Route::Kind::kCatalog, "", ""};
  auto cut = [&](std::string_view marker, Route::Kind kind) -> Route {
    auto at = p.rfind(marker);
    if (at == std::string_view::npos) return {};
    Route out{kind, std::string(p.substr(0, at)), std::string(p.substr(at + marker.size()))};
    return isRepositoryPath(out.name) ? out : Route{};
  };
  if (p.ends_with("/tags/list")) return {Route::Kind::kTags, std::string(p.substr(0, p.size() - 10)), ""};
  if (auto route = cut("/blobs/uploads/", Route::Kind::kUpload); route.kind != Route::Kind::kNone) {
    if (route.rest.empty()) route.kind = Route::Kind::kUploads;
    return route;
  }
  if (p.ends_with("/blobs/uploads")) return {Route::Kind::kUploads, std::string(p.substr(0, p.size() - 14)), ""};
  if (auto route = cut("/manifests/", Route::Kind::kManifest); route.kind != Route::Kind::kNone) return route;
  if (auto route = cut("/blobs/", Route::Kind::kBlob); route.kind != Route::Kind::kNone) return route;
  return cut("/referrers/", Route::Kind::kReferrers);
}

// One range of "bytes=..."; nothing when the header is to be ignored, an empty one (first > last) when it cannot be
// met.
std::optional<std::pair<uint64_t, uint64_t>> parseRange(std::string_view header, uint64_t size) {
  if (!header.starts_with("bytes=") || header.find(',') != std::string_view::npos) return std::nullopt;
  auto parts = splitOnce(header.substr(6), '-');
  if (!parts) return std::nullopt;
  auto first = parseUint(parts->first), last = parseUint(parts->second);
  if (parts->first.empty() && last)
    return std::pair(*last >= size ? 0 : size - *last, *last == 0 || size == 0 ? 0 : size - 1);
  if (!first || (!last && !parts->second.empty())) return std::nullopt;
  if (*first >= size) return std::pair<uint64_t, uint64_t>(1, 0);
  return std::pair(*first, last ? std::min(*last, size - 1) : size - 1);
}

std::string rangeText(uint64_t size) {
  return "0-" + std::to_string(size == 0 ? 0 : size - 1);
}

}  // namespace

struct RegistryServer::Rep {
  Rep(Loop& l, BlockingPool& p, Options o) : loop(l), pool(p), options(std::move(o)), changing(l, 1) {}

  struct Upload {
    std::string repository;
    ContentStore::Ingest ingest;
    bool busy = false;
    TimePoint lastUsed;
  };

  Loop& loop;
  BlockingPool& pool;
  Options options;
  std::unique_ptr<Repositories> repositories;
  Permits changing;  // one mutation of repositories at a time
  std::map<std::string, std::shared_ptr<Upload>> uploads;

  Task<> serve(http::Request& request, http::ResponseWriter& writer);
  Task<http::Response> answer(Route route, http::Request& request);
  Task<http::Response> manifests(const Route& route, http::Request& request);
  Task<http::Response> putManifest(const Route& route, http::Request& request);
  Task<http::Response> startUpload(const Route& route, http::Request& request);
  Task<http::Response> continueUpload(const Route& route, http::Request& request);
  Task<http::Response> finishUpload(std::string id, std::shared_ptr<Upload> upload, std::string digest,
                                    http::Request& request);
  Task<Result<>> receive(std::shared_ptr<Upload> upload, http::Request& request);
  Task<> blob(const Route& route, http::Request& request, http::ResponseWriter& writer);
  Task<http::Response> names(const Route& route, http::Request& request);
  Task<Result<>> mutate(std::function<Result<>()> work);
  std::optional<http::Response> refusal(const Route& route, const http::Request& request) const;
  http::Response failure(const Error& error, std::string_view unknownCode) const;
  http::Response accepted(const Route& route, const std::string& id, const Upload& upload, int status) const;
};

std::optional<http::Response> RegistryServer::Rep::refusal(const Route& route, const http::Request& request) const {
  if (!options.authorize) return std::nullopt;
  Access access;
  access.repository = route.name;
  access.action = request.method == "GET" || request.method == "HEAD" ? "pull"
                  : request.method == "DELETE"                        ? "delete"
                                                                      : "push";
  if (route.kind == Route::Kind::kCatalog) access.action = "catalog";
  auto challenge = options.authorize(request, access);
  if (!challenge) return std::nullopt;
  if (challenge->empty()) return errorResponse(403, "DENIED", "requested access to the resource is denied");
  auto out = errorResponse(401, "UNAUTHORIZED", "authentication required");
  out.headers.set("WWW-Authenticate", *challenge);
  return out;
}

http::Response RegistryServer::Rep::failure(const Error& error, std::string_view unknownCode) const {
  if (error.is(Code::kNotFound)) return errorResponse(404, std::string(unknownCode), error.message());
  if (error.is(Code::kDataLoss))
    return errorResponse(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
  if (error.is(Code::kTooLarge)) return errorResponse(413, "SIZE_INVALID", error.message());
  log::warn("registry", "{}", error.message());
  return errorResponse(500, "UNKNOWN", "the registry failed to store or read content: " + error.message());
}

Task<Result<>> RegistryServer::Rep::mutate(std::function<Result<>()> work) {
  auto held = co_await changing.take();
  auto done = co_await pool.run(loop, std::move(work));
  co_return done;
}

Task<> RegistryServer::Rep::serve(http::Request& request, http::ResponseWriter& writer) {
  Route route = parseRoute(request.path);
  if (auto refused = refusal(route, request)) {
    refused->headers.set("Docker-Distribution-Api-Version", "registry/2.0");
    (void)(co_await writer.send(std::move(*refused))).ok();
    co_return;
  }
  bool isRead = request.method == "GET" || request.method == "HEAD";
  if (route.kind == Route::Kind::kBlob && isRead) {
    co_await blob(route, request, writer);
    co_return;
  }
  auto response = co_await answer(std::move(route), request);
  response.headers.set("Docker-Distribution-Api-Version", "registry/2.0");
  if (request.method == "HEAD") {
    if (!response.headers.has("Content-Length"))
      response.headers.set("Content-Length", std::to_string(response.body.size()));
    response.body.clear();
  }
  (void)(co_await writer.send(std::move(response))).ok();
}

Task<http::Response> RegistryServer::Rep::answer(Route route, http::Request& request) {
  const std::string& method = request.method;
  bool isRead = method == "GET" || method == "HEAD";
  auto wrongMethod = [] { return errorResponse(405, "UNSUPPORTED", "the operation is unsupported"); };
  switch (route.kind) {
    case Route::Kind::kNone: co_return errorResponse(404, "NAME_INVALID", "invalid repository name or unknown path");
    case Route::Kind::kBase: co_return isRead ? jsonResponse("{}") : wrongMethod();
    case Route::Kind::kCatalog:
    case Route::Kind::kTags:
      if (!isRead) co_return wrongMethod();
      co_return co_await names(route, request);
    case Route::Kind::kManifest:
      if (!isDigest(route.rest) && !isTag(route.rest))
        co_return errorResponse(400, "TAG_INVALID", "invalid tag or digest");
      if (method == "PUT") co_return co_await putManifest(route, request);
      if (!isRead && method != "DELETE") co_return wrongMethod();
      co_return co_await manifests(route, request);
    case Route::Kind::kBlob: {
      if (!isDigest(route.rest)) co_return errorResponse(400, "DIGEST_INVALID", "invalid digest");
      if (method != "DELETE") co_return wrongMethod();
      auto removed = co_await mutate([this, route] { return repositories->removeBlob(route.name, route.rest); });
      if (!removed.ok()) co_return failure(removed.error(), "BLOB_UNKNOWN");
      http::Response out;
      out.status = 202;
      co_return out;
    }
    case Route::Kind::kUploads:
      if (method != "POST") co_return wrongMethod();
      co_return co_await startUpload(route, request);
    case Route::Kind::kUpload: co_return co_await continueUpload(route, request);
    case Route::Kind::kReferrers: {
      if (!isRead) co_return wrongMethod();
      if (!isDigest(route.rest)) co_return errorResponse(400, "DIGEST_INVALID", "invalid digest");
      std::string type(request.query.get("artifactType"));
      auto work = [this, route, type] { return repositories->referrers(route.name, route.rest, type); };
      auto index = co_await pool.run(loop, work);
      if (!index.ok()) co_return failure(index.error(), "NAME_UNKNOWN");
      auto out = jsonResponse(toJson(*index));
      out.headers.set("Content-Type", media::kOciIndex);
      if (!type.empty()) out.headers.set("OCI-Filters-Applied", "artifactType");
      co_return out;
    }
  }
  co_return errorResponse(404, "UNSUPPORTED", "unknown path");
}

Task<http::Response> RegistryServer::Rep::names(const Route& route, http::Request& request) {
  bool catalog = route.kind == Route::Kind::kCatalog;
  if (!catalog && !isRepositoryPath(route.name))
    co_return errorResponse(404, "NAME_INVALID", "invalid repository name");
  auto work = [this, catalog, name = route.name]() -> Result<std::vector<std::string>> {
    if (catalog) return repositories->names();
    if (!repositories->exists(name)) return Error(Code::kNotFound, "repository name not known to registry");
    return repositories->tags(name);
  };
  auto all = co_await pool.run(loop, work);
  if (!all.ok()) co_return failure(all.error(), "NAME_UNKNOWN");
  std::vector<std::string> page = std::move(*all);
  if (std::string last(request.query.get("last")); !last.empty())
    page.erase(page.begin(), std::upper_bound(page.begin(), page.end(), last));
  auto limit = parseUint(request.query.get("n"));
  if (request.query.has("n") && !limit)
    co_return errorResponse(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested");
  size_t most = std::min<size_t>(limit.value_or(1000), 10000);
  bool more = page.size() > most;
  if (more) page.resize(most);
  json::object body;
  if (!catalog) body["name"] = route.name;
  body[catalog ? "repositories" : "tags"] = jsonread::toArray(page);
  auto out = jsonResponse(json::serialize(body));
  if (more && !page.empty()) {
    std::string path = catalog ? "/v2/_catalog" : "/v2/" + route.name + "/tags/list";
    out.headers.set(
        "Link", "<" + path + "?last=" + percentEncode(page.back()) + "&n=" + std::to_string(most) + ">; rel=\"next\"");
  }
  co_return out;
}

Task<http::Response> RegistryServer::Rep::manifests(const Route& route, http::Request& request) {
  http::Response out;
  if (request.method == "DELETE") {
    auto removed = co_await mutate(
        [this, name = route.name, rest = route.rest] { return repositories->removeManifest(name, rest); });
    if (!removed.ok()) co_return failure(removed.error(), "MANIFEST_UNKNOWN");
    out.status = 202;
    co_return out;
  }
  auto work = [this, name = route.name, rest = route.rest] { return repositories->manifest(name, rest); };
  auto stored = co_await pool.run(loop, work);
  if (!stored.ok()) {
    if (stored.error().is(Code::kNotFound) && !repositories->exists(route.name))
      co_return errorResponse(404, "NAME_UNKNOWN", "repository name not known to registry");
    co_return failure(stored.error(), "MANIFEST_UNKNOWN");
  }
  out.headers.set("Content-Type", stored->mediaType);
  out.headers.set("Docker-Content-Digest", stored->digest);
  out.headers.set("ETag", "\"" + stored->digest + "\"");
  out.body = std::move(stored->bytes);
  co_return out;
}

Task<http::Response> RegistryServer::Rep::putManifest(const Route& route, http::Request& request) {
  auto body = co_await http::readAll(*request.body, kMaxDocument);
  if (!body.ok()) {
    if (body.error().is(Code::kTooLarge))
      co_return errorResponse(413, "MANIFEST_INVALID", "manifest is larger than 4 MiB");
    co_return errorResponse(400, "MANIFEST_INVALID", "manifest was not received whole");
  }
  std::string type(request.headers.get("Content-Type"));
  type = std::string(trim(type.substr(0, type.find(';'))));
  if (type == "application/json" || type == "application/octet-stream") type.clear();
  auto held = co_await changing.take();
  auto work = [this, &route, &type, &body] { return repositories->putManifest(route.name, route.rest, type, *body); };
  auto put = co_await pool.run(loop, work);
  held.release();
  if (!put.ok()) co_return failure(put.error(), "NAME_UNKNOWN");
  if (put->refused) co_return errorResponse(put->refused->status, put->refused->code, put->refused->message);
  http::Response out;
  out.status = 201;
  out.headers.set("Location", "/v2/" + route.name + "/manifests/" + put->digest);
  out.headers.set("Docker-Content-Digest", put->digest);
  if (!put->subject.empty()) out.headers.set("OCI-Subject", put->subject);
  co_return out;
}

http::Response RegistryServer::Rep::accepted(const Route& route, const std::string& id, const Upload& upload,
                                             int status) const {
  http::Response out;
  out.status = status;
  out.headers.set("Location", "/v2/" + route.name + "/blobs/uploads/" + id);
  out.headers.set("Docker-Upload-UUID", id);
  out.headers.set("Range", rangeText(upload.ingest.size()));
  return out;
}

Task<http::Response> RegistryServer::Rep::startUpload(const Route& route, http::Request& request) {
  if (!isRepositoryPath(route.name)) co_return errorResponse(400, "NAME_INVALID", "invalid repository name");
  std::string mount(request.query.get("mount")), from(request.query.get("from"));
  if (isDigest(mount) && (from.empty() || isRepositoryPath(from))) {
    bool allowed = true;
    if (options.authorize && !from.empty()) allowed = !options.authorize(request, Access{from, "pull"});
    auto linked = co_await mutate([this, name = route.name, mount, from, allowed]() -> Result<> {
      bool there =
          repositories->hasBlob(name, mount) || (allowed && !from.empty() && repositories->hasBlob(from, mount));
      if (!there) return Error(Code::kNotFound, "blob unknown to registry");
      return repositories->linkBlob(name, mount);
    });
    if (linked.ok()) {
      http::Response out;
      out.status = 201;
      out.headers.set("Location", "/v2/" + route.name + "/blobs/" + mount);
      out.headers.set("Docker-Content-Digest", mount);
      co_return out;
    }
    if (!linked.error().is(Code::kNotFound)) co_return failure(linked.error(), "BLOB_UNKNOWN");
  }
  std::erase_if(uploads, [this](const auto& entry) {
    return !entry.second->busy && loop.now() - entry.second->lastUsed > kIdleUpload;
  });
  if (uploads.size() >= options.maxUploads)
    co_return errorResponse(429, "TOOMANYREQUESTS", "too many uploads are open");
  auto ingest = repositories->content().begin();
  if (!ingest.ok()) co_return failure(ingest.error(), "BLOB_UNKNOWN");
  auto upload = std::make_shared<Upload>();
  upload->repository = route.name;
  upload->ingest = std::move(*ingest);
  upload->lastUsed = loop.now();
  std::string id = randomUuid();
  uploads[id] = upload;
  if (std::string digest(request.query.get("digest")); !digest.empty())
    co_return co_await finishUpload(id, upload, digest, request);
  co_return accepted(route, id, *upload, 202);
}

Task<Result<>> RegistryServer::Rep::receive(std::shared_ptr<Upload> upload, http::Request& request) {
  std::vector<char> buffer(kPiece);
  for (bool ended = false; !ended;) {
    size_t filled = 0;
    while (filled < buffer.size() / 2 && !ended) {
      auto n = co_await request.body->read({buffer.data() + filled, buffer.size() - filled});
      if (!n.ok()) co_return std::move(n).error();
      ended = *n == 0;
      filled += *n;
    }
    if (upload->ingest.size() + filled > options.maxBlob)
      co_return Error(Code::kTooLarge, "blob is larger than the registry takes");
    if (filled == 0) continue;
    auto work = [upload, bytes = std::string_view(buffer.data(), filled)] { return upload->ingest.write(bytes); };
    auto written = co_await pool.run(loop, work);
    if (!written.ok()) co_return std::move(written).error();
  }
  co_return Result<>();
}

Task<http::Response> RegistryServer::Rep::finishUpload(std::string id, std::shared_ptr<Upload> upload,
                                                       std::string digest, http::Request& request) {
  if (!isDigest(digest)) {
    uploads.erase(id);
    co_return errorResponse(400, "DIGEST_INVALID", "provided digest is not a sha256 digest");
  }
  upload->busy = true;
  auto received = co_await receive(upload, request);
  uploads.erase(id);
  if (!received.ok()) co_return failure(received.error(), "BLOB_UPLOAD_UNKNOWN");
  auto stored = co_await mutate([this, upload, digest]() -> Result<> {
    auto finished = upload->ingest.finish(digest);
    if (!finished.ok()) return std::move(finished).error();
    auto linked = repositories->linkBlob(upload->repository, digest);
    if (!linked.ok()) (void)repositories->collect(digest);  // nobody could ever remove it
    return linked;
  });
  if (!stored.ok()) co_return failure(stored.error(), "BLOB_UPLOAD_UNKNOWN");
  http::Response out;
  out.status = 201;
  out.headers.set("Location", "/v2/" + upload->repository + "/blobs/" + digest);
  out.headers.set("Docker-Content-Digest", digest);
  co_return out;
}

Task<http::Response> RegistryServer::Rep::continueUpload(const Route& route, http::Request& request) {
  auto it = uploads.find(route.rest);
  if (it == uploads.end() || it->second->repository != route.name)
    co_return errorResponse(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
  std::string id = it->first;
  std::shared_ptr<Upload> upload = it->second;
  if (upload->busy) co_return errorResponse(400, "BLOB_UPLOAD_INVALID", "another request writes to this upload");
  upload->lastUsed = loop.now();
  http::Response out;
  if (request.method == "GET") co_return accepted(route, id, *upload, 204);
  if (request.method == "DELETE") {
    uploads.erase(id);
    out.status = 204;
    co_return out;
  }
  if (request.method != "PATCH" && request.method != "PUT")
    co_return errorResponse(405, "UNSUPPORTED", "the operation is unsupported");
  if (auto range = request.headers.get("Content-Range"); !range.empty()) {
    if (range.starts_with("bytes ")) range.remove_prefix(6);
    auto parts = splitOnce(range, '-');
    auto first = parts ? parseUint(parts->first) : std::nullopt;
    if (!first || *first != upload->ingest.size()) {
      out = errorResponse(416, "BLOB_UPLOAD_INVALID", "the chunk does not follow what is there");
      out.headers.set("Location", "/v2/" + route.name + "/blobs/uploads/" + id);
      out.headers.set("Range", rangeText(upload->ingest.size()));
      co_return out;
    }
  }
  if (request.method == "PUT")
    co_return co_await finishUpload(id, upload, std::string(request.query.get("digest")), request);
  upload->busy = true;
  auto received = co_await receive(upload, request);
  upload->busy = false;
  upload->lastUsed = loop.now();
  if (!received.ok()) {
    // What came stays, so that the client may go on from there; a full disk or too large a blob ends the session.
    if (received.error().is(Code::kTooLarge) || received.error().errnum() != 0) uploads.erase(id);
    co_return failure(received.error(), "BLOB_UPLOAD_UNKNOWN");
  }
  co_return accepted(route, id, *upload, 202);
}

Task<> RegistryServer::Rep::blob(const Route& route, http::Request& request, http::ResponseWriter& writer) {
  std::string digest = route.rest;
  if (!isDigest(digest)) {
    (void)(co_await writer.send(errorResponse(400, "DIGEST_INVALID", "invalid digest"))).ok();
    co_return;
  }
  auto open = [this, name = route.name, digest]() -> Result<std::pair<UniqueFd, uint64_t>> {
    if (!repositories->hasBlob(name, digest)) return Error(Code::kNotFound, "blob unknown to registry");
    ASSIGN_OR_RETURN(auto size, repositories->content().size(digest));
    ASSIGN_OR_RETURN(auto fd, repositories->content().openBlob(digest));
    return std::pair(std::move(fd), size);
  };
  auto opened = co_await pool.run(loop, open);
  if (!opened.ok()) {
    (void)(co_await writer.send(failure(opened.error(), "BLOB_UNKNOWN"))).ok();
    co_return;
  }
  uint64_t size = opened->second, first = 0, end = size;
  http::Headers headers;
  headers.set("Content-Type", "application/octet-stream");
  headers.set("Docker-Content-Digest", digest);
  headers.set("ETag", "\"" + digest + "\"");
  headers.set("Accept-Ranges", "bytes");
  int status = 200;
  if (auto range = parseRange(request.headers.get("Range"), size)) {
    if (range->first > range->second) {
      auto refused = errorResponse(416, "RANGE_INVALID", "the range cannot be met");
      refused.headers.set("Content-Range", "bytes */" + std::to_string(size));
      (void)(co_await writer.send(std::move(refused))).ok();
      co_return;
    }
    status = 206;
    first = range->first;
    end = range->second + 1;
    headers.set("Content-Range",
                "bytes " + std::to_string(first) + "-" + std::to_string(end - 1) + "/" + std::to_string(size));
  }
  headers.set("Content-Length", std::to_string(end - first));
  if (request.method == "HEAD") {
    http::Response out;
    out.status = status;
    out.headers = std::move(headers);
    (void)(co_await writer.send(std::move(out))).ok();
    co_return;
  }
  auto started = co_await writer.start(status, std::move(headers));
  std::vector<char> buffer(kPiece);
  while (started.ok() && first < end) {
    auto read = [fd = opened->first.get(), &buffer, first, end] {
      return ::pread(fd, buffer.data(), std::min<uint64_t>(buffer.size(), end - first), static_cast<off_t>(first));
    };
    ssize_t n = co_await pool.run(loop, read);
    if (n <= 0) co_return;  // the connection is cut, so that the client sees it
    started = co_await writer.write({buffer.data(), static_cast<size_t>(n)});
    first += static_cast<uint64_t>(n);
  }
  if (started.ok()) (void)(co_await writer.finish()).ok();
}

RegistryServer::RegistryServer(std::shared_ptr<Rep> rep) : rep_(std::move(rep)) {}
RegistryServer::~RegistryServer() = default;

Result<std::unique_ptr<RegistryServer>> RegistryServer::open(Loop& loop, BlockingPool& pool, Options options) {
  auto rep = std::make_shared<Rep>(loop, pool, std::move(options));
  ASSIGN_OR_RETURN(rep->repositories, Repositories::open(rep->options.root));
  return std::unique_ptr<RegistryServer>(new RegistryServer(std::move(rep)));
}

http::Handler RegistryServer::handler() {
  // The named coroutine holds what it needs by parameter; the function object only forwards.
  auto rep = rep_;
  return [rep](http::Request& request, http::ResponseWriter& writer) { return rep->serve(request, writer); };
}

std::function<std::optional<std::string>(const http::Request&, const RegistryServer::Access&)> basicAuth(
    std::string user, std::string password) {
  std::string expected = "Basic " + toBase64(user + ":" + password);
  return [expected](const http::Request& request, const RegistryServer::Access&) -> std::optional<std::string> {
    std::string given(request.headers.get("Authorization"));
    // Compared by digest, so that the time tells nothing about the password.
    if (sha256Hex(given) == sha256Hex(expected)) return std::nullopt;
    return "Basic realm=\"registry\"";
  };
}

}  // namespace dhow::image
