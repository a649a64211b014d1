#include "cluster_option.h"

#include <unistd.h>

#include <cstdio>

#include "base/files.h"
#include "host/config.h"

namespace dhow::cli {

Result<platform::ClusterConfig> ClusterOption::load() const {
  auto paths = this->paths();
  if (!pathExists(paths.config())) return platform::noSuchCluster(paths);
  return platform::loadConfig(paths);
}

Result<> needRoot() {
  if (::geteuid() == 0) return {};
  return Error(Code::kPermissionDenied, "this needs root: the cluster's identities, machines and links are root's");
}

void printStep(const std::string& step, Duration took) {
  std::printf("  %-34s %7.0f ms\n", step.c_str(), std::chrono::duration<double, std::milli>(took).count());
  std::fflush(stdout);
}

bool ClusterOption::meansHost() const {
  return !pathExists(paths().config()) && host::hostExists(data);
}

std::shared_ptr<ClusterOption> addClusterOption(CLI::App* command) {
  auto option = std::make_shared<ClusterOption>();
  command->add_option("--name", option->name, "the cluster's name")->capture_default_str();
  command->add_option("--data", option->data, "where clusters keep their data")->capture_default_str();
  return option;
}

}  // namespace dhow::cli
