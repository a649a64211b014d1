// run, start, exec: commands that talk with a container's process.
#include <unistd.h>
#include <boost/json/parse.hpp>

#include <cstdio>

#include "base/gate.h"
#include "base/strings.h"
#include "create_options.h"
#include "http/stream.h"

namespace dhow::cli::docker {

namespace {

constexpr int kDaemonFailed = 125, kCannotRun = 126, kNotFound = 127;

int codeOf(const Error& error) {
  auto has = [&](const char* words) { return error.message().find(words) != std::string::npos; };
  if (has("executable file not found") || has("no such file or directory")) return kNotFound;
  if (has("permission denied") || has("is a directory")) return kCannotRun;
  return kDaemonFailed;
}

int failRun(const Error& error, int code) {
  return complain(
      Error(error.code(), "docker: " + error.message() + "\n\nRun 'docker run --help' for more information"), code);
}

Task<Result<std::string>> create(Engine& engine, const CreateOptions& options, json::object body) {
  auto image = std::string(body["Image"].as_string());
  http::Query query;
  if (!options.name.empty()) query.add("name", options.name);
  if (!options.platform.empty()) query.add("platform", options.platform);
  if (options.pull == "always") {
    auto pulled = co_await pull(engine, image, options.platform, options.quiet, STDERR_FILENO);
    CO_RETURN_IF_ERROR(pulled);
  }
  auto created = co_await engine.call("POST", "/containers/create", query, body);
  bool missing = !created.ok() && created.error().is(Code::kNotFound) &&
                 created.error().message().find("No such image") != std::string::npos;
  if (missing && options.pull == "missing") {
    bool named =
        image.find('@') != std::string::npos || image.substr(image.rfind('/') + 1).find(':') != std::string::npos;
    if (!options.quiet)
      std::fprintf(stderr, "Unable to find image '%s' locally\n", (named ? image : image + ":latest").c_str());
    auto pulled = co_await pull(engine, image, options.platform, options.quiet, STDERR_FILENO);
    CO_RETURN_IF_ERROR(pulled);
    created = co_await engine.call("POST", "/containers/create", query, body);
  }
  CO_RETURN_IF_ERROR(created);
  boost::system::error_code error;
  auto answer = json::parse(created->body, error);
  for (const auto& warning : at(answer, "Warnings").is_array() ? at(answer, "Warnings").get_array() : json::array())
    std::fprintf(stderr, "WARNING: %s\n", warning.as_string().c_str());
  co_return stringAt(answer, "Id");
}

Task<Result<std::unique_ptr<http::Stream>>> attach(Engine& engine, std::string id, bool input) {
  http::Query query;
  query.add("stream", "1");
  query.add("stdout", "1");
  query.add("stderr", "1");
  if (input) query.add("stdin", "1");
  return engine.upgrade("/containers/" + id + "/attach", std::move(query));
}

// Its answer begins at once and ends with the container.
Task<Result<http::StreamingResponse>> beginWait(Engine& engine, std::string id, bool removed) {
  http::Query query;
  query.add("condition", removed ? "removed" : "next-exit");
  return engine.stream("POST", "/containers/" + id + "/wait", std::move(query));
}

Task<int> endWait(http::StreamingResponse waiting) {
  auto body = co_await http::readAll(*waiting.body, 1 << 16);
  boost::system::error_code error;
  auto value = json::parse(body.ok() ? *body : "", error);
  co_return error ? kDaemonFailed : static_cast<int>(numberAt(value, "StatusCode"));
}

Task<int> runContainer(Engine* engine, std::shared_ptr<CreateOptions> options, std::vector<std::string> words) {
  if (words.empty())
    co_return complain(Error(Code::kInvalid,
                             "docker: 'docker run' requires at least 1 argument\n\nUsage:  docker run [OPTIONS] IMAGE "
                             "[COMMAND] [ARG...]"),
                       kDaemonFailed);
  if (options->tty && options->interactive && !options->detach && !::isatty(STDIN_FILENO))
    co_return complain(Error(Code::kInvalid, "the input device is not a TTY"), 1);
  auto body = createBody(*options, words);
  if (!body.ok()) co_return failRun(body.error(), kDaemonFailed);
  auto id = co_await create(*engine, *options, std::move(*body));
  if (!id.ok()) co_return failRun(id.error(), kDaemonFailed);
  std::unique_ptr<http::Stream> stream;
  std::optional<http::StreamingResponse> waiting;
  if (!options->detach) {
    auto attached = co_await attach(*engine, *id, options->interactive);
    if (!attached.ok()) co_return failRun(attached.error(), kDaemonFailed);
    stream = std::move(*attached);
    auto began = co_await beginWait(*engine, *id, options->remove);
    if (!began.ok()) co_return failRun(began.error(), kDaemonFailed);
    waiting = std::move(*began);
  }
  auto started = co_await engine->call("POST", "/containers/" + *id + "/start");
  if (!started.ok()) co_return failRun(started.error(), codeOf(started.error()));
  if (options->detach) {
    std::printf("%s\n", id->c_str());
    co_return 0;
  }
  Conversation how{"/containers/" + *id + "/resize", "/containers/" + *id + "/kill", options->tty,
                   options->interactive};
  auto talked = co_await converse(*engine, *stream, std::move(how));
  if (talked.ok() && *talked) co_return 0;
  auto code = co_await endWait(std::move(*waiting));
  co_return code;
}

Task<int> startContainers(Engine* engine, std::vector<std::string> names, bool attachTo, bool interactive) {
  int code = 0;
  if (!attachTo && !interactive) {
    for (const auto& name : names) {
      auto started = co_await engine->call("POST", "/containers/" + name + "/start");
      if (started.ok())
        std::printf("%s\n", name.c_str());
      else
        code = complain(started.error());
    }
    if (code != 0) code = complain(Error(Code::kUnknown, "failed to start containers: " + join(names, ", ")));
    co_return code;
  }
  if (names.size() > 1)
    co_return complain(Error(Code::kInvalid, "you cannot start and attach multiple containers at once"));
  auto inspected = co_await engine->get("/containers/" + names[0] + "/json");
  if (!inspected.ok()) co_return complain(inspected.error());
  const auto& config = at(*inspected, "Config");
  bool input = interactive && boolAt(config, "OpenStdin");
  auto stream = co_await attach(*engine, names[0], input);
  if (!stream.ok()) co_return complain(stream.error());
  auto waiting = co_await beginWait(*engine, names[0], boolAt(at(*inspected, "HostConfig"), "AutoRemove"));
  if (!waiting.ok()) co_return complain(waiting.error());
  auto started = co_await engine->call("POST", "/containers/" + names[0] + "/start");
  if (!started.ok()) co_return complain(started.error());
  Conversation how{"/containers/" + names[0] + "/resize", "/containers/" + names[0] + "/kill", boolAt(config, "Tty"),
                   input};
  auto talked = co_await converse(*engine, **stream, std::move(how));
  if (talked.ok() && *talked) co_return 0;
  code = co_await endWait(std::move(*waiting));
  co_return code;
}

struct ExecOptions {
  bool detach = false, interactive = false, tty = false, privileged = false;
  std::string user, workdir;
  std::vector<std::string> env;
};

Task<int> execIn(Engine* engine, std::shared_ptr<ExecOptions> options, std::vector<std::string> words) {
  if (words.size() < 2)
    co_return complain(Error(Code::kInvalid,
                             "docker: 'docker exec' requires at least 2 arguments\n\nUsage:  docker exec [OPTIONS] "
                             "CONTAINER COMMAND [ARG...]"));
  if (options->tty && options->interactive && !options->detach && !::isatty(STDIN_FILENO))
    co_return complain(Error(Code::kInvalid, "the input device is not a TTY"));
  json::array command, env;
  for (size_t i = 1; i < words.size(); ++i) command.emplace_back(words[i]);
  for (const auto& entry : options->env) env.emplace_back(entry);
  json::object body{{"Cmd", std::move(command)},
                    {"Env", std::move(env)},
                    {"User", options->user},
                    {"WorkingDir", options->workdir},
                    {"Tty", options->tty},
                    {"Privileged", options->privileged},
                    {"AttachStdin", options->interactive && !options->detach},
                    {"AttachStdout", !options->detach},
                    {"AttachStderr", !options->detach}};
  auto created = co_await engine->call("POST", "/containers/" + words[0] + "/exec", {}, std::move(body));
  if (!created.ok()) co_return complain(created.error());
  boost::system::error_code error;
  auto id = stringAt(json::parse(created->body, error), "Id");
  json::value how = json::object{{"Detach", options->detach}, {"Tty", options->tty}};
  if (options->detach) {
    auto started = co_await engine->call("POST", "/exec/" + id + "/start", {}, how);
    co_return started.ok() ? 0 : complain(started.error());
  }
  auto stream = co_await engine->upgrade("/exec/" + id + "/start", {}, how);
  if (!stream.ok()) co_return complain(stream.error(), codeOf(stream.error()));
  Conversation conversation{"/exec/" + id + "/resize", "", options->tty, options->interactive};
  auto talked = co_await converse(*engine, **stream, std::move(conversation));
  if (talked.ok() && *talked) co_return 0;
  auto ended = co_await engine->get("/exec/" + id + "/json");
  co_return ended.ok() ? static_cast<int>(numberAt(*ended, "ExitCode")) : complain(ended.error());
}

}  // namespace

void addRun(CLI::App& app, Run* run) {
  auto options = std::make_shared<CreateOptions>();
  addTo(app, *options);
  *run = [options, &app](Engine& engine) {
    return runOn(engine.loop, runContainer(&engine, options, app.remaining()));
  };
}

void addStart(CLI::App& app, Run* run) {
  struct Options {
    std::vector<std::string> names;
    bool attach = false, interactive = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("container", options->names, "CONTAINER...")->required();
  app.add_flag("-a,--attach", options->attach, "show its output and pass on its exit code");
  app.add_flag("-i,--interactive", options->interactive, "pass on standard input");
  *run = [=](Engine& engine) {
    return runOn(engine.loop, startContainers(&engine, options->names, options->attach, options->interactive));
  };
}

void addExec(CLI::App& app, Run* run) {
  auto options = std::make_shared<ExecOptions>();
  app.add_flag("-d,--detach", options->detach, "run in the background");
  app.add_flag("-i,--interactive", options->interactive, "keep standard input open");
  app.add_flag("-t,--tty", options->tty, "allocate a terminal");
  app.add_flag("--privileged", options->privileged, "all capabilities");
  app.add_option("-u,--user", options->user, "name|uid[:group|gid]");
  app.add_option("-w,--workdir", options->workdir, "working directory");
  addMany(&app, "-e,--env", options->env, "NAME=value");
  app.prefix_command();
  *run = [options, &app](Engine& engine) { return runOn(engine.loop, execIn(&engine, options, app.remaining())); };
}

}  // namespace dhow::cli::docker
