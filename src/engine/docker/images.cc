// pull, push, images, tag, rmi, inspect, history, save, load.
#include <fcntl.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include "api.h"
#include "base/files.h"
#include "base/strings.h"
#include "base/time.h"

namespace dhow::engine::docker {

namespace {

constexpr size_t kCopySize = 256 << 10;

json::value orNull(const std::vector<std::string>& values) {
  return values.empty() ? json::value(nullptr) : json::value(toJson(values));
}

int64_t secondsOf(const std::string& time) {
  auto parsed = parseTime(time);
  return parsed ? std::chrono::duration_cast<std::chrono::seconds>(parsed->time_since_epoch()).count() : 0;
}

json::object labelsOf(const image::Image& image) {
  json::object out;
  for (const auto& [key, value] : image.config.run.labels) out[key] = value;
  return out;
}

bool referenceMatches(const image::Image& image, const std::string& pattern) {
  return std::any_of(image.repoTags.begin(), image.repoTags.end(), [&](const std::string& tag) {
    if (tag == pattern || tag.substr(0, tag.rfind(':')) == pattern) return true;
    auto star = pattern.find('*');
    return star != std::string::npos && tag.starts_with(pattern.substr(0, star)) &&
           tag.ends_with(pattern.substr(star + 1));
  });
}

Task<Result<>> listImages(Call& call) {
  static constexpr std::string_view kFilters[] = {"dangling", "label", "before", "since", "reference", "until"};
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kFilters));
  json::array out;
  for (const auto& image : call.engine.images().list()) {
    bool dangling = image->repoTags.empty();
    if (filters.has("dangling") &&
        (filters.of("dangling")[0] == "true" || filters.of("dangling")[0] == "1") != dangling)
      continue;
    const auto& wanted = filters.of("reference");
    if (!wanted.empty() &&
        std::none_of(wanted.begin(), wanted.end(), [&](const auto& p) { return referenceMatches(*image, p); }))
      continue;
    auto labels = labelsOf(*image);
    if (!filters.labelsMatch(labels)) continue;
    out.push_back(json::object{{"Id", image->id},
                               {"ParentId", ""},
                               {"RepoTags", toJson(image->repoTags)},
                               {"RepoDigests", toJson(image->repoDigests)},
                               {"Created", secondsOf(image->created)},
                               {"Size", image->size},
                               {"SharedSize", -1},
                               {"Containers", call.engine.usersOf(image->id).size()},
                               {"Labels", std::move(labels)}});
    if (call.version < 44) out.back().get_object()["VirtualSize"] = image->size;
  }
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Result<std::vector<image::Credentials>> credentialsOf(const Call& call) {
  auto header = call.request.headers.get("X-Registry-Auth");
  if (header.empty()) return std::vector<image::Credentials>();
  ASSIGN_OR_RETURN(auto credentials, image::parseRegistryAuth(header));
  return std::vector<image::Credentials>{std::move(credentials)};
}

json::object progressJson(const image::ProgressEvent& event) {
  json::object out{{"status", event.status}};
  if (!event.id.empty()) out["id"] = event.id;
  if (event.total > 0) {
    out["progressDetail"] = json::object{{"current", event.current}, {"total", event.total}};
  } else if (!event.id.empty()) {
    out["progressDetail"] = json::object();
  }
  return out;
}

// A stream of JSON lines that a long operation feeds while a task writes them out.
// Lines of progress. The answer begins with the first of them: what fails before is an answer with its own status.
class ProgressStream {
 public:
  ProgressStream(Call& call) : call_(call), lines_(call.engine.loop()), gate_(call.engine.loop()) {
    gate_.spawn(pump(this));
  }

  image::Progress sink() {
    return [this](const image::ProgressEvent& event) { add(progressJson(event)); };
  }
  void add(const json::object& line) {
    begun_ = true;
    lines_.push(json::serialize(line) + "\r\n");
  }
  Task<Result<>> finish(Result<> done) {
    bool begun = std::exchange(begun_, true);
    if (!done.ok() && begun)
      add({{"errorDetail", {{"message", done.error().message()}}}, {"error", done.error().message()}});
    lines_.close();
    co_await gate_.close();
    if (!done.ok() && !begun) {
      // To a client 401 means that this engine wants to know who it is, not that a registry does.
      bool registry = done.error().is(Code::kUnauthenticated);
      co_return registry ? Error(Code::kInternal, done.error().message()) : std::move(done).error();
    }
    if (!call_.writer.started()) {
      auto started = co_await call_.writer.start(200, headers());
      CO_RETURN_IF_ERROR(started);
    }
    auto finished = co_await call_.writer.finish();
    co_return finished;
  }

 private:
  static http::Headers headers() {
    http::Headers headers;
    headers.set("Content-Type", "application/json");
    return headers;
  }
  static Task<> pump(ProgressStream* self) {
    while (auto line = co_await self->lines_.pop()) {
      // What has queued up meanwhile goes out together.
      while (auto more = self->lines_.tryPop()) *line += *more;
      if (!self->call_.writer.started()) {
        auto started = co_await self->call_.writer.start(200, headers());
        if (!started.ok()) co_return;
      }
      auto written = co_await self->call_.writer.write(*line);
      if (!written.ok()) co_return;
    }
  }
  Call& call_;
  Queue<std::string> lines_;
  Gate gate_;
  bool begun_ = false;
};

Task<Result<>> createImage(Call& call) {
  if (!call.query("fromSrc").empty()) co_return Error(Code::kUnimplemented, "import is not supported");
  auto name = call.query("fromImage");
  auto tag = call.query("tag");
  if (!tag.empty()) name += (image::isDigest(tag) ? "@" : ":") + tag;
  CO_ASSIGN_OR_RETURN(auto reference, image::Reference::parse(name));
  image::PullOptions options;
  CO_ASSIGN_OR_RETURN(options.credentials, credentialsOf(call));
  if (auto platform = call.query("platform"); !platform.empty()) {
    CO_ASSIGN_OR_RETURN(options.platform, image::Platform::parse(platform));
  }
  ProgressStream stream(call);
  options.progress = stream.sink();
  options.cancelled = [&call] { return call.writer.closed(); };
  auto pulled = co_await call.engine.images().pull(reference.withDefaultTag(), std::move(options));
  if (pulled.ok())
    call.engine.emit("image", "pull", reference.withDefaultTag().familiar(), {{"name", reference.familiarName()}});
  Result<> done = pulled.ok() ? Result<>() : Result<>(pulled.error());
  auto finished = co_await stream.finish(done);
  co_return finished;
}

Task<Result<>> pushImage(Call& call) {
  auto name = call.args[0];
  auto tag = call.query("tag");
  CO_ASSIGN_OR_RETURN(auto reference, image::Reference::parse(tag.empty() ? name : name + ":" + tag));
  auto known = call.engine.images().get(reference.withDefaultTag().familiar());
  if (!known.ok())
    co_return Error(Code::kNotFound, "An image does not exist locally with the tag: " + reference.familiarName());
  image::PushOptions options;
  CO_ASSIGN_OR_RETURN(options.credentials, credentialsOf(call));
  ProgressStream stream(call);
  options.progress = stream.sink();
  options.cancelled = [&call] { return call.writer.closed(); };
  stream.add({{"status", fmt::format("The push refers to repository [{}]", reference.name())}});
  auto pushed = co_await call.engine.images().push(reference.withDefaultTag(), std::move(options));
  if (pushed.ok()) {
    stream.add({{"status", fmt::format("{}: digest: {} size: {}", pushed->tag, pushed->digest, pushed->size)}});
    stream.add({{"progressDetail", json::object()},
                {"aux", {{"Tag", pushed->tag}, {"Digest", pushed->digest}, {"Size", pushed->size}}}});
  }
  Result<> done = pushed.ok() ? Result<>() : Result<>(pushed.error());
  auto finished = co_await stream.finish(done);
  co_return finished;
}

json::object runConfigJson(const image::RunConfig& run) {
  json::object labels, exposed, volumes;
  for (const auto& [key, value] : run.labels) labels[key] = value;
  for (const auto& port : run.exposedPorts) exposed[port] = json::object();
  for (const auto& volume : run.volumes) volumes[volume] = json::object();
  json::object out{{"User", run.user},
                   {"Env", toJson(run.env)},
                   {"Cmd", orNull(run.cmd)},
                   {"Entrypoint", orNull(run.entrypoint)},
                   {"WorkingDir", run.workingDir},
                   {"Labels", std::move(labels)},
                   {"OnBuild", orNull(run.onBuild)},
                   {"StopSignal", run.stopSignal}};
  if (!exposed.empty()) out["ExposedPorts"] = std::move(exposed);
  if (!volumes.empty()) out["Volumes"] = std::move(volumes);
  return out;
}

Task<Result<>> inspectImage(Call& call) {
  CO_ASSIGN_OR_RETURN(auto image, call.engine.images().get(call.args[0]));
  json::object out{{"Id", image->id},
                   {"RepoTags", toJson(image->repoTags)},
                   {"RepoDigests", toJson(image->repoDigests)},
                   {"Parent", ""},
                   {"Comment", image->config.comment},
                   {"Created", image->created},
                   {"DockerVersion", ""},
                   {"Author", image->config.author},
                   {"Config", runConfigJson(image->config.run)},
                   {"Architecture", image->config.platform.architecture},
                   {"Os", image->config.platform.os},
                   {"Size", image->size},
                   {"GraphDriver", {{"Name", "overlay2"}, {"Data", nullptr}}},
                   {"RootFS", {{"Type", "layers"}, {"Layers", toJson(image->config.diffIds)}}},
                   {"Metadata",
                    {{"LastTagTime",
                      image->lastTagged == WallTime{} ? "0001-01-01T00:00:00Z" : formatTimeNano(image->lastTagged)}}}};
  if (!image->config.platform.variant.empty()) out["Variant"] = image->config.platform.variant;
  if (call.version < 44) out["VirtualSize"] = image->size;
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> history(Call& call) {
  CO_ASSIGN_OR_RETURN(auto image, call.engine.images().get(call.args[0]));
  json::array out;
  size_t layer = image->layers.size();
  const auto& entries = image->config.history;
  for (auto it = entries.rbegin(); it != entries.rend(); ++it) {
    int64_t size = 0;
    if (!it->emptyLayer && layer > 0) size = image->layers[--layer].size;
    bool top = it == entries.rbegin();
    out.push_back(json::object{{"Id", top ? image->id : "<missing>"},
                               {"Created", secondsOf(it->created)},
                               {"CreatedBy", it->createdBy},
                               {"Tags", top ? orNull(image->repoTags) : json::value(nullptr)},
                               {"Size", size},
                               {"Comment", it->comment}});
  }
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> tagImage(Call& call) {
  auto tag = call.query("tag");
  CO_ASSIGN_OR_RETURN(auto target,
                      image::Reference::parse(tag.empty() ? call.query("repo") : call.query("repo") + ":" + tag));
  auto done = co_await call.engine.images().tag(call.args[0], target.withDefaultTag());
  CO_RETURN_IF_ERROR(done);
  auto replied = co_await call.reply(201);
  co_return replied;
}

Task<Result<>> removeImage(Call& call) {
  image::RemoveOptions options;
  options.force = call.flag("force");
  options.prune = !call.flag("noprune");
  options.users = [engine = &call.engine](const std::string& id) { return engine->usersOf(id); };
  auto removed = co_await call.engine.images().remove(call.args[0], std::move(options));
  CO_RETURN_IF_ERROR(removed);
  json::array out;
  for (const auto& item : *removed) {
    if (!item.untagged.empty()) out.push_back(json::object{{"Untagged", item.untagged}});
    if (!item.deleted.empty()) out.push_back(json::object{{"Deleted", item.deleted}});
  }
  auto replied = co_await call.reply(200, std::move(out));
  co_return replied;
}

Task<Result<>> pruneImages(Call& call) {
  static constexpr std::string_view kFilters[] = {"dangling", "label", "label!", "until"};
  CO_ASSIGN_OR_RETURN(auto filters, Filters::parse(call.request.query.get("filters"), kFilters));
  bool all = filters.has("dangling") && (filters.of("dangling")[0] == "false" || filters.of("dangling")[0] == "0");
  auto pruned = co_await call.engine.images().prune(
      all, [engine = &call.engine](const image::Image& image) { return !engine->usersOf(image.id).empty(); });
  CO_RETURN_IF_ERROR(pruned);
  json::array deleted;
  for (const auto& item : pruned->removed)
    deleted.push_back(item.deleted.empty() ? json::object{{"Untagged", item.untagged}}
                                           : json::object{{"Deleted", item.deleted}});
  auto replied = co_await call.reply(200, json::object{{"ImagesDeleted", deleted}, {"SpaceReclaimed", pruned->bytes}});
  co_return replied;
}

// A file in the engine's folder that goes away with this object.
class Scratch {
 public:
  explicit Scratch(const Engine& engine)
      : path_(engine.options().root + "/scratch-" + std::to_string(const_cast<Engine&>(engine).loop().random())) {}
  ~Scratch() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

Task<Result<>> sendFile(Call& call, const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) co_return Error::fromErrno("open " + path);
  http::Headers headers;
  headers.set("Content-Type", "application/x-tar");
  auto started = co_await call.writer.start(200, std::move(headers));
  CO_RETURN_IF_ERROR(started);
  std::string buffer(kCopySize, '\0');
  while (true) {
    ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0) co_return Error::fromErrno("read " + path);
    if (n == 0) break;
    auto written = co_await call.writer.write(std::string_view(buffer).substr(0, static_cast<size_t>(n)));
    CO_RETURN_IF_ERROR(written);
  }
  auto finished = co_await call.writer.finish();
  co_return finished;
}

Task<Result<>> saveNames(Call& call, std::vector<std::string> names) {
  Scratch scratch(call.engine);
  auto saved = co_await call.engine.images().save(std::move(names), scratch.path());
  CO_RETURN_IF_ERROR(saved);
  auto sent = co_await sendFile(call, scratch.path());
  co_return sent;
}

Task<Result<>> saveImages(Call& call) {
  std::vector<std::string> names;
  for (auto name : call.request.query.getAll("names")) names.emplace_back(name);
  return saveNames(call, std::move(names));
}

Task<Result<>> saveImage(Call& call) {
  return saveNames(call, {call.args[0]});
}

Task<Result<>> receiveFile(Call& call, const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) co_return Error::fromErrno("create " + path);
  std::string buffer(kCopySize, '\0');
  while (true) {
    auto n = co_await call.request.body->read(buffer);
    CO_RETURN_IF_ERROR(n);
    if (*n == 0) co_return Result<>();
    std::string_view left(buffer.data(), *n);
    while (!left.empty()) {
      ssize_t wrote = ::write(fd.get(), left.data(), left.size());
      if (wrote < 0) co_return Error::fromErrno("write " + path);
      left.remove_prefix(static_cast<size_t>(wrote));
    }
  }
}

Task<Result<>> loadImages(Call& call) {
  Scratch scratch(call.engine);
  auto received = co_await receiveFile(call, scratch.path());
  CO_RETURN_IF_ERROR(received);
  auto loaded = co_await call.engine.images().load(scratch.path());
  CO_RETURN_IF_ERROR(loaded);
  http::Response response;
  response.headers.set("Content-Type", "application/json");
  for (const auto& item : *loaded) {
    auto line = item.name.empty() ? "Loaded image ID: " + item.image->id : "Loaded image: " + item.name;
    response.body += json::serialize(json::object{{"stream", line + "\n"}}) + "\r\n";
  }
  auto sent = co_await call.writer.send(std::move(response));
  co_return sent;
}

constexpr Route kRoutes[] = {
    {"GET", "/images/json", listImages},      {"POST", "/images/create", createImage},
    {"POST", "/images/prune", pruneImages},   {"GET", "/images/get", saveImages},
    {"POST", "/images/load", loadImages},     {"POST", "/images/{}/push", pushImage},
    {"GET", "/images/{}/json", inspectImage}, {"GET", "/images/{}/history", history},
    {"GET", "/images/{}/get", saveImage},     {"POST", "/images/{}/tag", tagImage},
    {"DELETE", "/images/{}", removeImage},
};

}  // namespace

std::span<const Route> imageRoutes() {
  return kRoutes;
}

}  // namespace dhow::engine::docker
