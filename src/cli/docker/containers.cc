// ps, logs, stop, kill, rm, wait: what is listed and done without a conversation.
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <cstdio>
#include <map>
#include <set>

#include "base/strings.h"
#include "docker.h"

namespace dhow::cli::docker {

namespace {

constexpr size_t kCommandWidth = 20;

std::string quoted(std::string command, bool whole) {
  if (!whole && command.size() > kCommandWidth) command = command.substr(0, kCommandWidth - 1) + "…";
  std::string out = "\"";
  for (char c : command) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string portsOf(const json::value& container) {
  std::set<std::pair<int64_t, std::string>> shown;
  const auto& ports = at(container, "Ports");
  if (!ports.is_array()) return "";
  for (const auto& port : ports.get_array()) {
    auto inside = numberAt(port, "PrivatePort");
    auto text = fmt::format("{}/{}", inside, stringAt(port, "Type"));
    if (auto outside = numberAt(port, "PublicPort"))
      text = fmt::format("{}:{}->{}", stringAt(port, "IP"), outside, text);
    shown.emplace(inside, text);
  }
  std::vector<std::string> texts;
  for (const auto& [inside, text] : shown) texts.push_back(text);
  return join(texts, ", ");
}

struct PsOptions {
  bool all = false, quiet = false, whole = false, latest = false, size = false;
  int last = -1;
  std::vector<std::string> filters;
};

Task<int> ps(Engine* engine, std::shared_ptr<PsOptions> options) {
  http::Query query;
  if (options->all) query.add("all", "1");
  int limit = options->latest ? 1 : options->last;
  if (limit > 0) query.add("limit", std::to_string(limit));
  if (options->size) query.add("size", "1");
  json::object filters;
  for (const auto& filter : options->filters) {
    auto pair = splitOnce(filter, '=');
    if (!pair) co_return complain(Error(Code::kInvalid, "bad format of filter (expected name=value)"));
    auto& set = filters[pair->first];
    if (!set.is_object()) set = json::object();
    set.get_object()[pair->second] = true;
  }
  if (!filters.empty()) query.add("filters", json::serialize(filters));
  auto containers = co_await engine->get("/containers/json", std::move(query));
  if (!containers.ok()) co_return complain(containers.error());
  std::vector<std::vector<std::string>> rows{
      {"CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"}};
  if (options->size) rows[0].push_back("SIZE");
  for (const auto& container : containers->as_array()) {
    auto id = stringAt(container, "Id");
    if (!options->whole) id = shortId(id);
    if (options->quiet) {
      std::printf("%s\n", id.c_str());
      continue;
    }
    auto image = stringAt(container, "Image");
    if (image.starts_with("sha256:") && !options->whole) image = shortId(image);
    std::string name;
    if (const auto& names = at(container, "Names"); names.is_array() && !names.get_array().empty())
      name = names.get_array()[0].as_string().c_str();
    rows.push_back({id, image, quoted(stringAt(container, "Command"), options->whole),
                    humanAgo(numberAt(container, "Created")), stringAt(container, "Status"), portsOf(container),
                    name.substr(name.starts_with("/") ? 1 : 0)});
    if (options->size) rows.back().push_back(humanSize(static_cast<double>(numberAt(container, "SizeRw"))));
  }
  if (!options->quiet) std::fputs(table(rows).c_str(), stdout);
  co_return 0;
}

struct LogOptions {
  std::string container, since, until, tail = "all";
  bool follow = false, timestamps = false;
};

// "10m" ago, or a time as the engine reads it.
std::string timeOf(const std::string& text) {
  if (text.empty()) return text;
  static const std::map<char, int64_t> kUnits = {{'s', 1}, {'m', 60}, {'h', 3600}};
  auto unit = kUnits.find(text.back());
  auto number = unit == kUnits.end() ? std::nullopt : parseInt(text.substr(0, text.size() - 1));
  if (!number) return text;
  auto now =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  return std::to_string(now - *number * unit->second);
}

Task<int> logs(Engine* engine, std::shared_ptr<LogOptions> options) {
  auto inspected = co_await engine->get("/containers/" + options->container + "/json");
  if (!inspected.ok()) co_return complain(inspected.error());
  http::Query query;
  query.add("stdout", "1");
  query.add("stderr", "1");
  query.add("tail", options->tail);
  if (options->follow) query.add("follow", "1");
  if (options->timestamps) query.add("timestamps", "1");
  if (!options->since.empty()) query.add("since", timeOf(options->since));
  if (!options->until.empty()) query.add("until", timeOf(options->until));
  auto response = co_await engine->stream("GET", "/containers/" + options->container + "/logs", std::move(query));
  if (!response.ok()) co_return complain(response.error());
  auto copied = co_await copyOutput(*response->body, !boolAt(at(*inspected, "Config"), "Tty"));
  co_return copied.ok() ? 0 : complain(copied.error());
}

// One call for each container; prints the names of those where it worked.
Task<int> each(Engine* engine, std::string method, std::vector<std::string> names, std::string suffix,
               http::Query query) {
  int code = 0;
  for (const auto& name : names) {
    auto done = co_await engine->call(method, "/containers/" + name + suffix, query);
    if (done.ok())
      std::printf("%s\n", name.c_str());
    else
      code = complain(done.error());
  }
  co_return code;
}

Task<int> wait(Engine* engine, std::vector<std::string> names) {
  int code = 0;
  for (const auto& name : names) {
    auto ended = co_await engine->call("POST", "/containers/" + name + "/wait");
    boost::system::error_code error;
    if (ended.ok())
      std::printf("%lld\n", static_cast<long long>(numberAt(json::parse(ended->body, error), "StatusCode")));
    else
      code = complain(ended.error());
  }
  co_return code;
}

}  // namespace

void addPs(CLI::App& app, Run* run) {
  auto options = std::make_shared<PsOptions>();
  app.add_flag("-a,--all", options->all, "stopped ones too");
  app.add_flag("-q,--quiet", options->quiet, "only ids");
  app.add_flag("-l,--latest", options->latest, "the newest one");
  app.add_flag("-s,--size", options->size, "sizes of what they wrote");
  app.add_option("-n,--last", options->last, "so many of the newest");
  app.add_flag("--no-trunc", options->whole, "nothing shortened");
  addMany(&app, "-f,--filter", options->filters, "name=value");
  *run = [=](Engine& engine) { return runOn(engine.loop, ps(&engine, options)); };
}

void addLogs(CLI::App& app, Run* run) {
  auto options = std::make_shared<LogOptions>();
  app.add_option("container", options->container, "CONTAINER")->required();
  app.add_flag("-f,--follow", options->follow, "go on with what comes");
  app.add_flag("-t,--timestamps", options->timestamps, "with times");
  app.add_option("-n,--tail", options->tail, "so many of the last lines");
  app.add_option("--since", options->since, "time, or how long ago (10m)");
  app.add_option("--until", options->until, "time, or how long ago");
  *run = [=](Engine& engine) { return runOn(engine.loop, logs(&engine, options)); };
}

void addStop(CLI::App& app, Run* run) {
  struct Options {
    std::vector<std::string> names;
    std::string signal, seconds;
  };
  auto options = std::make_shared<Options>();
  app.add_option("container", options->names, "CONTAINER...")->required();
  app.add_option("-t,--time,--timeout", options->seconds, "seconds until it is killed");
  app.add_option("-s,--signal", options->signal, "signal to send");
  *run = [=](Engine& engine) {
    http::Query query;
    if (!options->seconds.empty()) query.add("t", options->seconds);
    if (!options->signal.empty()) query.add("signal", options->signal);
    return runOn(engine.loop, each(&engine, "POST", options->names, "/stop", std::move(query)));
  };
}

void addKill(CLI::App& app, Run* run) {
  struct Options {
    std::vector<std::string> names;
    std::string signal;
  };
  auto options = std::make_shared<Options>();
  app.add_option("container", options->names, "CONTAINER...")->required();
  app.add_option("-s,--signal", options->signal, "signal to send");
  *run = [=](Engine& engine) {
    http::Query query;
    if (!options->signal.empty()) query.add("signal", options->signal);
    return runOn(engine.loop, each(&engine, "POST", options->names, "/kill", std::move(query)));
  };
}

void addRm(CLI::App& app, Run* run) {
  struct Options {
    std::vector<std::string> names;
    bool force = false, volumes = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("container", options->names, "CONTAINER...")->required();
  app.add_flag("-f,--force", options->force, "running ones too (SIGKILL)");
  app.add_flag("-v,--volumes", options->volumes, "with their anonymous volumes");
  *run = [=](Engine& engine) {
    http::Query query;
    if (options->force) query.add("force", "1");
    if (options->volumes) query.add("v", "1");
    return runOn(engine.loop, each(&engine, "DELETE", options->names, "", std::move(query)));
  };
}

void addWait(CLI::App& app, Run* run) {
  auto names = std::make_shared<std::vector<std::string>>();
  app.add_option("container", *names, "CONTAINER...")->required();
  *run = [=](Engine& engine) { return runOn(engine.loop, wait(&engine, *names)); };
}

}  // namespace dhow::cli::docker
