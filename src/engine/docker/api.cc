#include "api.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "engine/docker_api.h"

namespace dhow::engine::docker {

namespace {

constexpr size_t kBodyLimit = 8 << 20;

// Segments of a path, decoded.
std::optional<std::vector<std::string>> segmentsOf(std::string_view path) {
  std::vector<std::string> segments;
  for (const auto& part : split(path.substr(path.starts_with('/') ? 1 : 0), '/')) {
    auto decoded = percentDecode(part);
    if (!decoded) return std::nullopt;
    segments.push_back(std::move(*decoded));
  }
  return segments;
}

bool matches(std::string_view pattern, const std::vector<std::string>& segments, std::vector<std::string>& args) {
  auto parts = split(pattern.substr(1), '/');
  args.clear();
  auto wild = std::find(parts.begin(), parts.end(), "{}");
  if (wild == parts.end()) return parts == segments;
  auto before = static_cast<size_t>(wild - parts.begin());
  size_t after = parts.size() - before - 1;
  if (segments.size() < parts.size()) return false;
  if (!std::equal(parts.begin(), wild, segments.begin())) return false;
  if (!std::equal(parts.rbegin(), parts.rbegin() + static_cast<long>(after), segments.rbegin())) return false;
  size_t count = segments.size() - before - after;
  args.push_back(join(std::span(segments).subspan(before, count), "/"));
  return !args[0].empty();
}

// "/v1.41/containers/json": takes the version off. Nothing when it is not a number.
std::optional<int> takeVersion(std::string_view& path) {
  if (!path.starts_with("/v")) return kMaxVersion;
  auto end = path.find('/', 1);
  auto pair = splitOnce(path.substr(2, end == std::string_view::npos ? end : end - 2), '.');
  auto major = pair ? parseUint(pair->first) : std::nullopt;
  auto minor = pair ? parseUint(pair->second) : std::nullopt;
  if (!major || !minor) return kMaxVersion;
  path = end == std::string_view::npos ? "/" : path.substr(end);
  if (*major != 1 || *minor > 1000) return std::nullopt;
  return static_cast<int>(*minor);
}

void setHeaders(http::Headers& headers) {
  headers.set("Api-Version", fmt::format("1.{}", kMaxVersion));
  headers.set("Ostype", "linux");
  headers.set("Server", "Dhow");
  headers.set("Docker-Experimental", "false");
  headers.set("Builder-Version", "1");
  headers.set("Swarm", "inactive");
}

http::Response answer(int status, const json::value& value) {
  http::Response response;
  response.status = status;
  setHeaders(response.headers);
  response.headers.set("Content-Type", "application/json");
  response.body = json::serialize(value) + "\n";
  return response;
}

http::Response failure(int status, std::string_view message) {
  return answer(status, json::object{{"message", message}});
}

Task<Result<>> ping(Call& call) {
  http::Response response;
  setHeaders(response.headers);
  response.headers.set("Content-Type", "text/plain; charset=utf-8");
  response.headers.set("Cache-Control", "no-cache, no-store, must-revalidate");
  response.headers.set("Pragma", "no-cache");
  if (call.request.method != "HEAD") response.body = "OK";
  auto sent = co_await call.writer.send(std::move(response));
  co_return sent;
}

constexpr Route kPing[] = {{"GET", "/_ping", ping}, {"HEAD", "/_ping", ping}};

// Asked for by clients that look for a swarm.
constexpr std::string_view kSwarmOnly[] = {"swarm", "services", "tasks", "nodes", "secrets", "configs"};

const Route* findRoute(std::string_view method, const std::vector<std::string>& segments,
                       std::vector<std::string>& args, bool& pathKnown) {
  for (auto routes : {std::span<const Route>(kPing), systemRoutes(), containerRoutes(), streamRoutes(), imageRoutes(),
                      volumeRoutes(), networkRoutes()}) {
    for (const auto& route : routes) {
      if (!matches(route.pattern, segments, args)) continue;
      pathKnown = true;
      if (route.method == method) return &route;
    }
  }
  return nullptr;
}

Task<> serve(Engine& engine, http::Request& request, http::ResponseWriter& writer) {
  std::string_view path = request.path;
  auto version = takeVersion(path);
  http::Response refusal;
  if (!version || *version > kMaxVersion) {
    refusal = failure(400, fmt::format("client version {} is too new. Maximum supported API version is 1.{}",
                                       version ? fmt::format("1.{}", *version) : "", kMaxVersion));
    (void)co_await writer.send(std::move(refusal));
    co_return;
  }
  if (*version < kMinVersion) {
    refusal = failure(400, fmt::format("client version 1.{} is too old. Minimum supported API version is 1.{}, please "
                                       "upgrade your client to a newer version",
                                       *version, kMinVersion));
    (void)co_await writer.send(std::move(refusal));
    co_return;
  }
  auto segments = segmentsOf(path);
  Call call{engine, request, writer, {}, *version};
  bool pathKnown = false;
  const Route* route = segments ? findRoute(request.method, *segments, call.args, pathKnown) : nullptr;
  if (!route) {
    if (segments && !segments->empty() &&
        std::find(std::begin(kSwarmOnly), std::end(kSwarmOnly), segments->front()) != std::end(kSwarmOnly))
      refusal = failure(503,
                        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to "
                        "connect this node to swarm and try again.");
    else
      refusal = failure(pathKnown ? 405 : 404, pathKnown ? "method not allowed" : "page not found");
    (void)co_await writer.send(std::move(refusal));
    co_return;
  }
  auto done = co_await route->run(call);
  if (done.ok()) co_return;
  if (writer.started()) {
    if (!writer.closed()) log::warn("docker", "{} {}: {}", request.method, request.path, done.error().message());
    co_return;
  }
  (void)co_await writer.send(failure(httpStatusOf(done.error()), done.error().message()));
}

}  // namespace

int httpStatusOf(const Error& error) {
  switch (error.code()) {
    case Code::kBadRequest:
    case Code::kInvalid: return 400;
    case Code::kUnauthenticated: return 401;
    case Code::kPermissionDenied: return 403;
    case Code::kNotFound: return 404;
    case Code::kAlreadyExists:
    case Code::kConflict: return 409;
    case Code::kFailedPrecondition: return 409;
    case Code::kTooLarge: return 413;
    case Code::kUnimplemented: return 501;
    default: return 500;
  }
}

bool Call::flag(std::string_view name, bool missing) const {
  if (!request.query.has(name)) return missing;
  auto value = toLower(request.query.get(name));
  return !(value.empty() || value == "0" || value == "no" || value == "false" || value == "none");
}

std::optional<WallTime> Call::time(std::string_view name) const {
  auto value = query(name);
  if (value.empty()) return std::nullopt;
  if (auto time = parseTime(value)) return time;
  return parseUnixTime(value);
}

Task<Result<json::object>> Call::body() {
  auto text = co_await http::readAll(*request.body, kBodyLimit);
  CO_RETURN_IF_ERROR(text);
  if (trim(*text).empty()) co_return json::object();
  boost::system::error_code error;
  auto value = json::parse(*text, error);
  if (error || !value.is_object())
    co_return Error(Code::kBadRequest, "invalid JSON: " + (error ? error.message() : "not an object"));
  co_return std::move(value.as_object());
}

Task<Result<>> Call::reply(int status, json::value value) {
  auto sent = co_await writer.send(answer(status, value));
  co_return sent;
}

Task<Result<>> Call::reply(int status) {
  http::Response response;
  response.status = status;
  setHeaders(response.headers);
  auto sent = co_await writer.send(std::move(response));
  co_return sent;
}

Result<Filters> Filters::parse(std::string_view text, std::span<const std::string_view> known) {
  Filters filters;
  if (text.empty()) return filters;
  boost::system::error_code error;
  auto value = json::parse(text, error);
  if (error || !value.is_object()) return Error(Code::kBadRequest, "invalid filter");
  for (const auto& [name, values] : value.get_object()) {
    if (std::find(known.begin(), known.end(), std::string_view(name)) == known.end())
      return Error(Code::kBadRequest, fmt::format("invalid filter '{}'", std::string_view(name)));
    auto& into = filters.values_[std::string(name)];
    if (values.is_array()) {
      for (const auto& item : values.get_array()) {
        if (item.is_string()) into.emplace_back(item.get_string());
      }
    } else if (values.is_object()) {
      for (const auto& [key, set] : values.get_object()) {
        if (!set.is_bool() || set.get_bool()) into.emplace_back(key);
      }
    }
  }
  return filters;
}

const std::vector<std::string>& Filters::of(std::string_view name) const {
  static const std::vector<std::string> kNone;
  auto it = values_.find(name);
  return it == values_.end() ? kNone : it->second;
}

bool Filters::labelsMatch(const json::object& labels) const {
  for (const auto& wanted : of("label")) {
    auto pair = splitOnce(wanted, '=');
    auto* value = labels.if_contains(pair ? pair->first : std::string_view(wanted));
    if (!value || (pair && (!value->is_string() || value->get_string() != pair->second))) return false;
  }
  return true;
}

}  // namespace dhow::engine::docker

namespace dhow::engine {

http::Handler dockerApi(Engine& engine) {
  return [&engine](http::Request& request, http::ResponseWriter& writer) {
    return docker::serve(engine, request, writer);
  };
}

}  // namespace dhow::engine
