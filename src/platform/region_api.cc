#include "platform/region_api.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <set>

#include "base/gate.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/version.h"
#include "client/draining.h"
#include "client/fields.h"
#include "http/client.h"
#include "platform/identities.h"

namespace dhow::platform {

namespace json = boost::json;
using namespace std::chrono_literals;
using client::text;

namespace {

constexpr size_t kBodyLimit = 1 << 20;
constexpr Duration kStopGrace = 10s;

int statusOf(Code code) {
  switch (code) {
    case Code::kBadRequest: return 400;
    case Code::kUnauthenticated: return 401;
    case Code::kPermissionDenied: return 403;
    case Code::kNotFound: return 404;
    case Code::kMethodNotAllowed: return 405;
    case Code::kAlreadyExists:
    case Code::kConflict: return 409;
    case Code::kTooLarge: return 413;
    case Code::kInvalid: return 422;
    case Code::kTooManyRequests: return 429;
    case Code::kUnavailable: return 503;
    default: return 500;
  }
}

http::Response answer(int status, const json::object& body) {
  http::Response response;
  response.status = status;
  response.headers.set("Content-Type", "application/json");
  response.body = json::serialize(body) + "\n";
  return response;
}

http::Response answer(const Error& error) {
  return answer(statusOf(error.code()), {{"code", codeName(error.code())}, {"message", error.message()}});
}

http::Response answer(const Result<>& done) {
  return done.ok() ? answer(200, {}) : answer(done.error());
}

json::object describe(const MachineInfo& machine) {
  return {{"name", machine.name},       {"role", machine.master ? "master" : "node"},
          {"zone", machine.zone},       {"address", machine.address},
          {"made", machine.made},       {"starting", machine.starting},
          {"running", machine.running}, {"pid", machine.pid},
          {"cut", machine.cut},         {"held", machine.held},
          {"pool", machine.pool},       {"version", machine.version},
          {"program", machine.program}};
}

Result<std::map<std::string, std::string>> textsOf(const json::object& body, const char* name) {
  std::map<std::string, std::string> out;
  for (const auto& [key, value] : client::object(body, {name})) {
    if (!value.is_string())
      return Error(Code::kInvalid, fmt::format("{}.{}: must be a text", name, std::string_view(key)));
    out[key] = value.get_string();
  }
  return out;
}

Result<NodeTraits> traitsOf(const json::object& body) {
  NodeTraits traits;
  traits.pool = text(body, "pool");
  traits.version = text(body, "version");
  ASSIGN_OR_RETURN(traits.labels, textsOf(body, "labels"));
  ASSIGN_OR_RETURN(traits.resources, textsOf(body, "resources"));
  for (const auto& value : client::array(body, {"taints"})) {
    if (!value.is_object()) return Error(Code::kInvalid, "taints: must be objects");
    const auto& taint = value.get_object();
    traits.taints.push_back(
        {std::string(text(taint, "key")), std::string(text(taint, "value")), std::string(text(taint, "effect"))});
  }
  return traits;
}

struct Reader;

struct Api : RegionParts {
  Loop& loop;
  std::shared_ptr<std::vector<std::weak_ptr<Reader>>> readers;
};

Task<http::Response> createMachine(Api api, std::string name, std::string body) {
  boost::system::error_code failed;
  auto value = json::parse(body, failed);
  if (failed || !value.is_object()) co_return answer(Error(Code::kBadRequest, "the body is not a JSON object"));
  auto traits = traitsOf(value.get_object());
  if (!traits.ok()) co_return answer(traits.error());
  auto made =
      co_await api.provider.create(std::move(name), std::string(text(value.get_object(), "zone")), std::move(*traits));
  co_return answer(made);
}

Task<http::Response> actOnMachine(Api api, std::string name, std::string verb, std::string body) {
  Result<> done(Error(Code::kNotFound, "there is no operation " + verb));
  if (verb == "replace") {
    boost::system::error_code failed;
    auto value = json::parse(body, failed);
    if (failed || !value.is_object()) co_return answer(Error(Code::kBadRequest, "the body is not a JSON object"));
    std::string program(text(value.get_object(), "program"));
    if (!parseVersion(program) || program.find('/') != program.npos)
      co_return answer(Error(Code::kInvalid, "program: must be the id of one of the cluster's"));
    done = co_await api.provider.replace(name, std::move(program));
  }
  if (verb == "start") done = co_await api.provider.start(name);
  if (verb == "stop") done = co_await api.provider.stop(name, kStopGrace);
  if (verb == "kill") done = co_await api.provider.kill(name);
  if (verb == "restart") done = co_await api.provider.restart(name);
  if (verb == "cut") done = co_await api.provider.setLink(name, false);
  if (verb == "restore") done = co_await api.provider.setLink(name, true);
  co_return answer(done);
}

Task<http::Response> listMachines(Api api) {
  auto machines = co_await api.provider.list();
  if (!machines.ok()) co_return answer(machines.error());
  json::array items;
  for (const auto& machine : *machines) items.push_back(describe(machine));
  json::array zones;
  for (const auto& zone : api.provider.zones()) zones.push_back(json::object{{"name", zone.name}, {"up", zone.up}});
  co_return answer(200, {{"machines", std::move(items)}, {"zones", std::move(zones)}});
}

Task<http::Response> listMasters(Api api) {
  auto machines = co_await api.provider.list();
  if (!machines.ok()) co_return answer(machines.error());
  json::array items;
  for (const auto& machine : *machines) {
    if (!machine.master) continue;
    items.push_back(json::object{{"name", machine.name},
                                 {"alive", machine.running && api.masters && api.masters->alive(machine.name)}});
  }
  co_return answer(200, {{"masters", std::move(items)}});
}

Task<http::Response> route(Api api, std::string method, std::string path, std::string body) {
  auto parts = split(path, '/');  // "", "v1", ...
  const size_t count = parts.size();
  const bool known = count >= 3 && count <= 5 && parts[1] == "v1";
  if (known && parts[2] == "machines") {
    if (count == 3 && method == "GET") co_return co_await listMachines(api);
    if (count == 4 && method == "PUT") co_return co_await createMachine(api, parts[3], std::move(body));
    if (count == 4 && method == "DELETE") co_return answer(co_await api.provider.remove(parts[3]));
    if (count == 5 && method == "POST") co_return co_await actOnMachine(api, parts[3], parts[4], std::move(body));
  }
  if (known && parts[2] == "masters" && count == 3 && method == "GET") co_return co_await listMasters(api);
  if (known && parts[2] == "zones" && count == 5 && method == "POST" && (parts[4] == "cut" || parts[4] == "restore")) {
    const bool restore = parts[4] == "restore";
    auto set = co_await api.provider.setZone(parts[3], restore);
    if (set.ok() && restore && api.restored) set = api.restored();
    co_return answer(set);
  }
  co_return answer(Error(Code::kNotFound, fmt::format("there is no {} {}", method, path)));
}

bool isAllowed(const http::Peer& peer) {
  // The socket file is root's alone.
  if (!peer.tls) return peer.unixCredentials && peer.unixCredentials->first == 0;
  const auto& groups = peer.certificateOrganizations;
  return std::find(groups.begin(), groups.end(), kMasterGroup) != groups.end();
}

// One reader of changes. What happens while its line is being sent is told after it.
struct Reader {
  explicit Reader(Loop& loop) : changed(loop) {}
  std::set<std::string> names;
  bool gone = false;
  Signal changed;
};

Task<> sendChanges(Api api, http::ResponseWriter& writer) {
  auto reader = std::make_shared<Reader>(api.loop);
  (*api.readers).push_back(reader);
  writer.onClose([reader] {
    reader->gone = true;
    reader->changed.notify();
  });
  http::Headers headers;
  headers.set("Content-Type", "application/json");
  auto sent = co_await writer.start(200, std::move(headers));
  while (sent.ok() && !reader->gone) {
    if (reader->names.empty()) co_await reader->changed.wait();
    std::string lines;
    for (const auto& name : std::exchange(reader->names, {}))
      lines += json::serialize(json::object{{"name", name}}) + "\n";
    if (!lines.empty()) sent = co_await writer.write(lines);
  }
  reader->gone = true;
}

Task<> serve(Api api, http::Request& request, http::ResponseWriter& writer) {
  http::Response response;
  if (!isAllowed(request.peer)) {
    response = answer(Error(Code::kPermissionDenied, "the region's API is for the masters"));
  } else if (request.method == "GET" && request.path == "/v1/changes") {
    co_return co_await sendChanges(api, writer);
  } else if (request.method == "GET" && request.path == client::kAppliedPath && api.applied) {
    const client::AppliedQuestion question = client::appliedQuestion(request.query);
    const uint64_t revision = co_await api.applied(question.revision, question.limit);
    response.headers.set("Content-Type", "application/json");
    response.body = client::encodeApplied(revision);
  } else {
    auto body = co_await http::readAll(*request.body, kBodyLimit);
    if (body.ok())
      response = co_await route(api, request.method, request.path, std::move(*body));
    else
      response = answer(body.error());
  }
  (void)(co_await writer.send(std::move(response))).ok();
}

Code codeNamed(std::string_view name) {
  for (int code = 0; code <= static_cast<int>(Code::kDataLoss); ++code) {
    if (codeName(static_cast<Code>(code)) == name) return static_cast<Code>(code);
  }
  return Code::kUnknown;
}

}  // namespace

http::Handler regionHandler(Loop& loop, RegionParts parts) {
  auto readers = std::make_shared<std::vector<std::weak_ptr<Reader>>>();
  parts.provider.onChange([readers](const std::string& name) {
    std::erase_if(*readers, [](const auto& reader) { return reader.expired(); });
    for (const auto& weak : *readers) {
      auto reader = weak.lock();
      reader->names.insert(name);
      reader->changed.notify();
    }
  });
  return [api = Api{std::move(parts), loop, readers}](http::Request& request, http::ResponseWriter& writer) {
    return serve(api, request, writer);
  };
}

struct RegionClient::Rep {
  Rep(Loop& l, Options o, http::Client::Options transport)
      : loop(l), options(std::move(o)), http(l, std::move(transport)) {}
  Loop& loop;
  Options options;
  http::Client http;

  static Task<Result<json::object>> call(std::shared_ptr<Rep> self, std::string method, std::string path,
                                         std::string body);
  static Task<Result<>> act(std::shared_ptr<Rep> self, std::string method, std::string path, std::string body = "");
};

Task<Result<json::object>> RegionClient::Rep::call(std::shared_ptr<Rep> self, std::string method, std::string path,
                                                   std::string body) {
  http::Request request;
  request.method = std::move(method);
  if (!body.empty()) {
    request.headers.set("Content-Type", "application/json");
    request.body = http::bodyOf(std::move(body));
  }
  const std::string base = self->options.unixSocket.empty() ? self->options.url : "http://region";
  bool late = false;
  Timer limit = self->loop.after(self->options.timeout, [&late, self] {
    late = true;
    self->http.close();
  });
  auto response = co_await self->http.fetch(base + path, std::move(request), kBodyLimit * 16);
  limit.cancel();
  if (late) co_return Error(Code::kDeadlineExceeded, "the region did not answer in time");
  if (!response.ok()) co_return Error(Code::kUnavailable, "the region does not answer: " + response.error().message());
  boost::system::error_code failed;
  auto value = json::parse(response->body, failed);
  if (failed || !value.is_object()) co_return Error(Code::kInternal, "the region's answer is not a JSON object");
  if (response->status != 200)
    co_return Error(codeNamed(text(value.get_object(), "code")), std::string(text(value.get_object(), "message")));
  co_return std::move(value.get_object());
}

Task<Result<>> RegionClient::Rep::act(std::shared_ptr<Rep> self, std::string method, std::string path,
                                      std::string body) {
  auto done = co_await call(std::move(self), std::move(method), std::move(path), std::move(body));
  CO_RETURN_IF_ERROR(done);
  co_return Result<>();
}

RegionClient::RegionClient(Loop& loop, Options options) {
  http::Client::Options transport;
  transport.unixSocket = options.unixSocket;
  transport.tls = options.tls;
  transport.connectTimeout = 5s;
  rep_ = std::make_shared<Rep>(loop, std::move(options), std::move(transport));
}
RegionClient::~RegionClient() = default;

void RegionClient::close() {
  rep_->http.close();
}

Task<Result<RegionClient::Machines>> RegionClient::list() {
  auto rep = rep_;
  auto body = co_await Rep::call(rep, "GET", "/v1/machines", "");
  CO_RETURN_IF_ERROR(body);
  Machines out;
  for (const auto& value : client::array(*body, {"zones"})) {
    if (!value.is_object()) continue;
    out.zones.push_back({std::string(text(value.get_object(), "name")), client::flag(value.get_object(), {"up"})});
  }
  for (const auto& value : client::array(*body, {"machines"})) {
    if (!value.is_object()) continue;
    const auto& item = value.get_object();
    MachineInfo info;
    info.name = text(item, "name");
    info.master = text(item, "role") == "master";
    info.zone = text(item, "zone");
    info.address = text(item, "address");
    info.made = client::flag(item, {"made"});
    info.starting = client::flag(item, {"starting"});
    info.running = client::flag(item, {"running"});
    info.pid = static_cast<int>(client::number(item, {"pid"}, 0));
    info.cut = client::flag(item, {"cut"});
    info.held = client::flag(item, {"held"});
    info.pool = text(item, "pool");
    info.version = text(item, "version");
    info.program = text(item, "program");
    out.machines.push_back(std::move(info));
  }
  co_return out;
}

Task<Result<std::vector<RegionClient::MasterState>>> RegionClient::masters() {
  auto rep = rep_;
  auto body = co_await Rep::call(rep, "GET", "/v1/masters", "");
  CO_RETURN_IF_ERROR(body);
  std::vector<MasterState> out;
  for (const auto& value : client::array(*body, {"masters"})) {
    if (!value.is_object()) continue;
    out.push_back({std::string(text(value.get_object(), "name")), client::flag(value.get_object(), {"alive"})});
  }
  co_return out;
}

Task<Result<uint64_t>> RegionClient::applied(uint64_t revision, Duration limit) {
  auto rep = rep_;
  auto body = co_await Rep::call(rep, "GET", client::appliedTarget({revision, limit}), "");
  if (!body.ok() && body.error().is(Code::kNotFound)) co_return Error(Code::kUnimplemented, body.error().message());
  CO_RETURN_IF_ERROR(body);
  co_return static_cast<uint64_t>(client::number(*body, {"applied"}, 0));
}

Task<Result<>> RegionClient::create(std::string name, std::string zone, NodeTraits traits) {
  json::object labels, resources;
  for (const auto& [key, value] : traits.labels) labels[key] = value;
  for (const auto& [key, value] : traits.resources) resources[key] = value;
  json::array taints;
  for (const auto& taint : traits.taints)
    taints.push_back(json::object{{"key", taint.key}, {"value", taint.value}, {"effect", taint.effect}});
  json::object body{{"zone", zone},
                    {"pool", traits.pool},
                    {"version", traits.version},
                    {"labels", std::move(labels)},
                    {"resources", std::move(resources)},
                    {"taints", std::move(taints)}};
  return Rep::act(rep_, "PUT", "/v1/machines/" + percentEncode(name), json::serialize(body));
}

Task<Result<>> RegionClient::remove(std::string name) {
  return Rep::act(rep_, "DELETE", "/v1/machines/" + percentEncode(name));
}
Task<Result<>> RegionClient::start(std::string name) {
  return Rep::act(rep_, "POST", "/v1/machines/" + percentEncode(name) + "/start");
}
Task<Result<>> RegionClient::stop(std::string name) {
  return Rep::act(rep_, "POST", "/v1/machines/" + percentEncode(name) + "/stop");
}
Task<Result<>> RegionClient::kill(std::string name) {
  return Rep::act(rep_, "POST", "/v1/machines/" + percentEncode(name) + "/kill");
}
Task<Result<>> RegionClient::restart(std::string name) {
  return Rep::act(rep_, "POST", "/v1/machines/" + percentEncode(name) + "/restart");
}

Task<Result<>> RegionClient::replace(std::string name, std::string program) {
  return Rep::act(rep_, "POST", "/v1/machines/" + percentEncode(name) + "/replace",
                  json::serialize(json::object{{"program", program}}));
}

Task<Result<>> RegionClient::follow(std::function<void(const std::string& name)> changed) {
  auto rep = rep_;
  const std::string base = rep->options.unixSocket.empty() ? rep->options.url : "http://region";
  auto response = co_await rep->http.send(base + "/v1/changes", http::Request());
  if (!response.ok()) co_return Error(Code::kUnavailable, "the region does not answer: " + response.error().message());
  if (response->status != 200)
    co_return Error(Code::kUnavailable, fmt::format("the region answered {}", response->status));
  changed("");
  std::string lines;
  char buffer[4096];
  while (true) {
    auto count = co_await response->body->read(buffer);
    CO_RETURN_IF_ERROR(count);
    if (*count == 0) co_return Error(Code::kUnavailable, "the region ended the stream");
    lines.append(buffer, *count);
    for (size_t end = lines.find('\n'); end != std::string::npos; end = lines.find('\n')) {
      boost::system::error_code failed;
      auto value = json::parse(lines.substr(0, end), failed);
      lines.erase(0, end + 1);
      if (!failed && value.is_object()) changed(std::string(text(value.get_object(), "name")));
    }
    if (lines.size() > kBodyLimit) co_return Error(Code::kUnavailable, "the region sent a line that is too long");
  }
}

Task<Result<>> RegionClient::setLink(std::string name, bool up) {
  return Rep::act(rep_, "POST", "/v1/machines/" + percentEncode(name) + (up ? "/restore" : "/cut"));
}
Task<Result<>> RegionClient::setZone(std::string zone, bool up) {
  return Rep::act(rep_, "POST", "/v1/zones/" + percentEncode(zone) + (up ? "/restore" : "/cut"));
}

}  // namespace dhow::platform
