#include "docker.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstdio>
#include <cstdlib>

#include "../cluster_option.h"
#include "../commands.h"
#include "base/strings.h"

namespace dhow::cli {

namespace docker {

namespace {

constexpr std::string_view kVersion = "/v1.51";

struct Entry {
  const char* name;
  const char* help;
  Add add;
};

constexpr Entry kCommands[] = {
    {"run", "create and run a new container from an image", addRun},
    {"exec", "execute a command in a running container", addExec},
    {"ps", "list containers", addPs},
    {"pull", "download an image from a registry", addPull},
    {"images", "list images", addImages},
    {"version", "show the engine's version", addVersion},
    {"info", "display system-wide information", addInfo},
    {"logs", "fetch the logs of a container", addLogs},
    {"inspect", "return low-level information on containers and images", addInspect},
    {"start", "start one or more stopped containers", addStart},
    {"stop", "stop one or more running containers", addStop},
    {"kill", "kill one or more running containers", addKill},
    {"rm", "remove one or more containers", addRm},
    {"rmi", "remove one or more images", addRmi},
    {"wait", "block until containers stop, then print their exit codes", addWait},
};

Error fromResponse(int status, const std::string& body) {
  boost::system::error_code error;
  auto value = json::parse(body, error);
  auto message = error ? std::string(trim(body)) : stringAt(value, "message");
  if (message.empty()) message = fmt::format("status {}", status);
  auto code = status == 404   ? Code::kNotFound
              : status == 409 ? Code::kConflict
              : status == 400 ? Code::kInvalid
                              : Code::kInternal;
  return Error(code, "Error response from daemon: " + message);
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::connect(const std::string& host) {
  std::unique_ptr<Engine> engine(new Engine(host));
  http::Client::Options options;
  if (host.starts_with("unix://")) {
    options.unixSocket = host.substr(7);
    engine->base_ = "http://docker";
  } else if (host.starts_with("tcp://")) {
    engine->base_ = "http://" + host.substr(6);
  } else {
    return Error(Code::kInvalid, "unable to parse docker host `" + host + "`");
  }
  engine->client_ = std::make_unique<http::Client>(engine->loop, std::move(options));
  return engine;
}

Error Engine::unreachable(const Error& error) const {
  return Error(error.code(), "Cannot connect to the Docker daemon at " + host_ + ". Is the docker daemon running?");
}

namespace {
http::Request requestOf(std::string method, const json::value& body) {
  http::Request request;
  request.method = std::move(method);
  if (!body.is_null()) {
    request.headers.set("Content-Type", "application/json");
    request.body = http::bodyOf(json::serialize(body));
  }
  return request;
}

std::string urlOf(const std::string& base, const std::string& path, const http::Query& query) {
  auto text = query.str();
  return base + std::string(kVersion) + path + (text.empty() ? "" : "?" + text);
}
}  // namespace

Task<Result<http::Response>> Engine::call(std::string method, std::string path, http::Query query, json::value body) {
  auto response = co_await client_->fetch(urlOf(base_, path, query), requestOf(std::move(method), body));
  if (!response.ok()) co_return unreachable(response.error());
  if (response->status >= 400) co_return fromResponse(response->status, response->body);
  co_return response;
}

Task<Result<json::value>> Engine::get(std::string path, http::Query query) {
  auto response = co_await call("GET", std::move(path), std::move(query));
  CO_RETURN_IF_ERROR(response);
  boost::system::error_code error;
  auto value = json::parse(response->body, error);
  if (error) co_return Error(Code::kDataLoss, "the engine's answer is no JSON");
  co_return value;
}

Task<Result<http::StreamingResponse>> Engine::stream(std::string method, std::string path, http::Query query) {
  auto response = co_await client_->send(urlOf(base_, path, query), requestOf(std::move(method), nullptr));
  if (!response.ok()) co_return unreachable(response.error());
  if (response->status < 400) co_return response;
  auto body = co_await http::readAll(*response->body, 1 << 20);
  co_return fromResponse(response->status, body.ok() ? *body : "");
}

Task<Result<std::unique_ptr<http::Stream>>> Engine::upgrade(std::string path, http::Query query, json::value body) {
  auto request = requestOf("POST", body);
  request.headers.set("Connection", "Upgrade");
  request.headers.set("Upgrade", "tcp");
  auto upgraded = co_await client_->upgrade(urlOf(base_, path, query), std::move(request));
  if (!upgraded.ok()) {
    boost::system::error_code error;
    auto value = json::parse(upgraded.error().message(), error);
    auto message = error ? "" : stringAt(value, "message");
    if (message.empty()) co_return std::move(upgraded).error();
    co_return Error(upgraded.error().code(), "Error response from daemon: " + message);
  }
  co_return std::move(upgraded->stream);
}

int complain(const Error& error, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", error.message().c_str());
  return code;
}

CLI::Option* addMany(CLI::App* app, const std::string& names, std::vector<std::string>& into, const std::string& help) {
  return app->add_option(names, into, help)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

namespace {

int start(const ClusterOption& cluster, std::string host, const Run& run) {
  auto* environment = std::getenv("DOCKER_HOST");
  if (host.empty() && environment) host = environment;
  if (host.empty()) {
    auto config = cluster.load();
    if (!config.ok()) return fail(config.error());
    host = "unix://" + cluster.paths().dockerSocket();
  }
  auto engine = Engine::connect(host);
  if (!engine.ok()) return complain(engine.error());
  return run(**engine);
}

}  // namespace

}  // namespace docker

void addDocker(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("docker", "Docker's commands, for the cluster's container engine");
  command->require_subcommand(1);
  auto cluster = addClusterOption(command);
  auto host = std::make_shared<std::string>();
  command->add_option("-H,--host", *host, "the engine's address; else DOCKER_HOST, else the cluster's engine");
  for (const auto& entry : docker::kCommands) {
    auto* sub = command->add_subcommand(entry.name, entry.help);
    auto run = std::make_shared<docker::Run>();
    entry.add(*sub, run.get());
    sub->callback([=] { *chosen = [=] { return docker::start(*cluster, *host, *run); }; });
  }
}

}  // namespace dhow::cli
