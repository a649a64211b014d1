// pull, images, rmi.
#include <unistd.h>
#include <boost/json/parse.hpp>

#include <cstdio>
#include <map>

#include "base/strings.h"
#include "docker.h"

namespace dhow::cli::docker {

namespace {

// Lines of progress: one per layer, rewritten in place on a terminal.
class Display {
 public:
  Display(bool quiet, int fd)
      : quiet_(quiet), terminal_(::isatty(fd) == 1), out_(fd == STDOUT_FILENO ? stdout : stderr) {}

  void show(const json::value& line) {
    auto status = stringAt(line, "status"), id = stringAt(line, "id");
    if (quiet_ || status.empty()) return;
    const auto& detail = at(line, "progressDetail");
    auto total = numberAt(detail, "total");
    if (total > 0) {
      if (!terminal_) return;
      status += fmt::format("  {}/{}", humanSize(static_cast<double>(numberAt(detail, "current"))),
                            humanSize(static_cast<double>(total)));
    }
    auto text = id.empty() ? status : id + ": " + status;
    if (!terminal_ || id.empty()) {
      if (id.empty()) rows_.clear();
      std::fprintf(out_, "%s\n", text.c_str());
    } else if (auto row = rows_.find(id); row != rows_.end()) {
      auto up = rows_.size() - row->second;
      std::fprintf(out_, "\x1b[%zuA\x1b[2K\r%s\x1b[%zuB\r", up, text.c_str(), up);
    } else {
      rows_.emplace(id, rows_.size());
      std::fprintf(out_, "%s\n", text.c_str());
    }
    std::fflush(out_);
  }

 private:
  bool quiet_, terminal_;
  std::FILE* out_;
  std::map<std::string, size_t> rows_;
};

Task<int> listImages(Engine* engine, bool all, bool quiet, bool whole, std::string reference) {
  http::Query query;
  if (all) query.add("all", "1");
  if (!reference.empty()) query.add("filters", "{\"reference\":{\"" + reference + "\":true}}");
  auto images = co_await engine->get("/images/json", std::move(query));
  if (!images.ok()) co_return complain(images.error());
  std::vector<std::vector<std::string>> rows{{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}};
  for (const auto& image : images->as_array()) {
    auto id = stringAt(image, "Id");
    if (!whole) id = shortId(id);
    if (quiet) {
      std::printf("%s\n", id.c_str());
      continue;
    }
    auto created = humanAgo(numberAt(image, "Created"));
    auto size = humanSize(static_cast<double>(numberAt(image, "Size")));
    const auto& tags = at(image, "RepoTags");
    if (!tags.is_array() || tags.get_array().empty())
      rows.push_back({"<none>", "<none>", id, created, size});
    else {
      for (const auto& tag : tags.get_array()) {
        std::string name(tag.get_string());
        auto colon = name.rfind(':');
        rows.push_back({name.substr(0, colon), name.substr(colon + 1), id, created, size});
      }
    }
  }
  if (!quiet) std::fputs(table(rows).c_str(), stdout);
  co_return 0;
}

Task<int> removeImages(Engine* engine, std::vector<std::string> names, bool force) {
  int code = 0;
  for (const auto& name : names) {
    http::Query query;
    if (force) query.add("force", "1");
    auto done = co_await engine->call("DELETE", "/images/" + name, std::move(query));
    if (!done.ok()) {
      code = complain(done.error());
      continue;
    }
    boost::system::error_code error;
    auto items = json::parse(done->body, error);
    if (!items.is_array()) continue;
    for (const auto& item : items.get_array()) {
      if (auto name = stringAt(item, "Untagged"); !name.empty()) std::printf("Untagged: %s\n", name.c_str());
      if (auto id = stringAt(item, "Deleted"); !id.empty()) std::printf("Deleted: %s\n", id.c_str());
    }
  }
  co_return code;
}

Task<int> pullOne(Engine* engine, std::string name, std::string platform, bool quiet) {
  auto done = co_await pull(*engine, name, platform, quiet, STDOUT_FILENO);
  if (!done.ok()) co_return complain(done.error());
  // The name in full, as docker says it last.
  auto image = co_await engine->get("/images/" + name + "/json");
  std::string full = name;
  if (full.find('@') == std::string::npos && full.substr(full.rfind('/') + 1).find(':') == std::string::npos)
    full += ":latest";
  auto first = full.substr(0, full.find('/'));
  if (full.find('/') == std::string::npos)
    full = "docker.io/library/" + full;
  else if (first.find_first_of(".:") == std::string::npos && first != "localhost")
    full = "docker.io/" + full;
  std::printf("%s\n", full.c_str());
  co_return image.ok() ? 0 : complain(image.error());
}

}  // namespace

Task<Result<>> pull(Engine& engine, std::string reference, std::string platform, bool quiet, int outFd) {
  http::Query query;
  auto slash = reference.rfind('/');
  auto at = reference.find('@');
  auto colon = reference.rfind(':');
  if (at != std::string::npos) {
    query.add("fromImage", reference.substr(0, at));
    query.add("tag", reference.substr(at + 1));
  } else {
    bool tagged = colon != std::string::npos && (slash == std::string::npos || colon > slash);
    query.add("fromImage", tagged ? reference.substr(0, colon) : reference);
    query.add("tag", tagged ? reference.substr(colon + 1) : "latest");
  }
  if (!platform.empty()) query.add("platform", platform);
  auto response = co_await engine.stream("POST", "/images/create", std::move(query));
  CO_RETURN_IF_ERROR(response);
  Display display(quiet, outFd);
  std::string text, buffer(16 << 10, '\0');
  while (true) {
    auto n = co_await response->body->read(buffer);
    CO_RETURN_IF_ERROR(n);
    if (*n == 0) co_return Result<>();
    text.append(buffer, 0, *n);
    size_t end;
    while ((end = text.find('\n')) != std::string::npos) {
      boost::system::error_code error;
      auto line = json::parse(trim(std::string_view(text).substr(0, end)), error);
      text.erase(0, end + 1);
      if (error) continue;
      if (auto failed = stringAt(line, "error"); !failed.empty()) co_return Error(Code::kUnknown, failed);
      display.show(line);
    }
  }
}

void addPull(CLI::App& app, Run* run) {
  struct Options {
    std::string name, platform;
    bool quiet = false;
  };
  auto options = std::make_shared<Options>();
  app.add_option("image", options->name, "NAME[:TAG|@DIGEST]")->required();
  app.add_option("--platform", options->platform, "os/arch[/variant]");
  app.add_flag("-q,--quiet", options->quiet, "no progress");
  *run = [=](Engine& engine) {
    return runOn(engine.loop, pullOne(&engine, options->name, options->platform, options->quiet));
  };
}

void addImages(CLI::App& app, Run* run) {
  struct Options {
    bool all = false, quiet = false, whole = false;
    std::string reference;
  };
  auto options = std::make_shared<Options>();
  app.add_flag("-a,--all", options->all, "intermediate images too");
  app.add_flag("-q,--quiet", options->quiet, "only ids");
  app.add_flag("--no-trunc", options->whole, "whole ids");
  app.add_option("repository", options->reference, "REPOSITORY[:TAG]");
  *run = [=](Engine& engine) {
    return runOn(engine.loop, listImages(&engine, options->all, options->quiet, options->whole, options->reference));
  };
}

void addRmi(CLI::App& app, Run* run) {
  auto names = std::make_shared<std::vector<std::string>>();
  auto force = std::make_shared<bool>(false);
  app.add_option("image", *names, "IMAGE...")->required();
  app.add_flag("-f,--force", *force, "even when it has several names, or stopped containers");
  *run = [=](Engine& engine) { return runOn(engine.loop, removeImages(&engine, *names, *force)); };
}

}  // namespace dhow::cli::docker
