// version, info, inspect.
#include <cstdio>

#include "base/strings.h"
#include "base/version.h"
#include "docker.h"

namespace dhow::cli::docker {

namespace {

void line(int depth, const char* name, const std::string& value) {
  std::printf("%*s%s: %s\n", depth, "", name, value.c_str());
}

Task<int> version(Engine* engine) {
  std::printf("Client: Dhow\n Version:           %s\n API version:       1.51\n\n",
              thisProgram().version.text().c_str());
  auto answer = co_await engine->get("/version");
  if (!answer.ok()) co_return complain(answer.error());
  const auto& server = *answer;
  std::printf("Server: %s\n Engine:\n", stringAt(at(server, "Platform"), "Name").c_str());
  std::printf("  Version:          %s\n", stringAt(server, "Version").c_str());
  std::printf("  API version:      %s (minimum version %s)\n", stringAt(server, "ApiVersion").c_str(),
              stringAt(server, "MinAPIVersion").c_str());
  std::printf("  OS/Arch:          %s/%s\n", stringAt(server, "Os").c_str(), stringAt(server, "Arch").c_str());
  std::printf("  Kernel:           %s\n", stringAt(server, "KernelVersion").c_str());
  co_return 0;
}

Task<int> info(Engine* engine) {
  auto answer = co_await engine->get("/info");
  if (!answer.ok()) co_return complain(answer.error());
  const auto& server = *answer;
  auto number = [&](const char* name) { return std::to_string(numberAt(server, name)); };
  std::printf("Server:\n");
  line(1, "Containers", number("Containers"));
  line(2, "Running", number("ContainersRunning"));
  line(2, "Paused", number("ContainersPaused"));
  line(2, "Stopped", number("ContainersStopped"));
  line(1, "Images", number("Images"));
  line(1, "Server Version", stringAt(server, "ServerVersion"));
  line(1, "Storage Driver", stringAt(server, "Driver"));
  line(1, "Logging Driver", stringAt(server, "LoggingDriver"));
  line(1, "Cgroup Driver", stringAt(server, "CgroupDriver"));
  line(1, "Cgroup Version", stringAt(server, "CgroupVersion"));
  line(1, "Default Runtime", stringAt(server, "DefaultRuntime"));
  std::printf(" Security Options:\n");
  if (const auto& options = at(server, "SecurityOptions"); options.is_array()) {
    for (const auto& option : options.get_array()) {
      for (const auto& part : split(std::string(option.as_string()), ',')) {
        auto pair = splitOnce(part, '=');
        if (!pair) continue;
        if (pair->first == "name")
          std::printf("  %s\n", std::string(pair->second).c_str());
        else
          std::printf("   %s: %s\n", pair->first == "profile" ? "Profile" : std::string(pair->first).c_str(),
                      std::string(pair->second).c_str());
      }
    }
  }
  line(1, "Kernel Version", stringAt(server, "KernelVersion"));
  line(1, "Operating System", stringAt(server, "OperatingSystem"));
  line(1, "OSType", stringAt(server, "OSType"));
  line(1, "Architecture", stringAt(server, "Architecture"));
  line(1, "CPUs", number("NCPU"));
  line(1, "Total Memory", fmt::format("{:.4g}GiB", static_cast<double>(numberAt(server, "MemTotal")) / (1 << 30)));
  line(1, "Name", stringAt(server, "Name"));
  line(1, "ID", stringAt(server, "ID"));
  line(1, "Docker Root Dir", stringAt(server, "DockerRootDir"));
  line(1, "Live Restore Enabled", boolAt(server, "LiveRestoreEnabled") ? "true" : "false");
  co_return 0;
}

// Containers first, then images, then volumes and networks, as docker looks for a name.
Task<int> inspect(Engine* engine, std::vector<std::string> names, std::string kind) {
  static constexpr std::pair<std::string_view, std::string_view> kKinds[] = {{"container", "/containers/{}/json"},
                                                                             {"image", "/images/{}/json"},
                                                                             {"network", "/networks/{}"},
                                                                             {"volume", "/volumes/{}"}};
  json::array found;
  int code = 0;
  std::string complaints;
  for (const auto& name : names) {
    bool known = false;
    for (const auto& [of, path] : kKinds) {
      if (!kind.empty() && kind != of) continue;
      auto answer = co_await engine->get(fmt::format(fmt::runtime(path), name));
      if (!answer.ok() && answer.error().is(Code::kNotFound)) continue;
      if (!answer.ok()) co_return complain(answer.error());
      found.push_back(std::move(*answer));
      known = true;
      break;
    }
    if (!known) {
      code = 1;
      complaints += fmt::format("Error: No such {}: {}\n", kind.empty() ? "object" : kind, name);
    }
  }
  std::printf("%s\n", pretty(found).c_str());
  std::fflush(stdout);
  std::fputs(complaints.c_str(), stderr);
  co_return code;
}

}  // namespace

void addVersion(CLI::App&, Run* run) {
  *run = [](Engine& engine) { return runOn(engine.loop, version(&engine)); };
}

void addInfo(CLI::App&, Run* run) {
  *run = [](Engine& engine) { return runOn(engine.loop, info(&engine)); };
}

void addInspect(CLI::App& app, Run* run) {
  auto names = std::make_shared<std::vector<std::string>>();
  auto kind = std::make_shared<std::string>();
  app.add_option("name", *names, "NAME|ID...")->required();
  app.add_option("--type", *kind, "container, image, network or volume");
  *run = [=](Engine& engine) { return runOn(engine.loop, inspect(&engine, *names, *kind)); };
}

}  // namespace dhow::cli::docker
