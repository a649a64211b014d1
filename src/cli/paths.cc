// kubeconfig, docker-socket, kubectl: where a cluster is reached.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "base/files.h"
#include "cluster_option.h"
#include "commands.h"
#include "host/layout.h"
#include "platform/contexts.h"

namespace dhow::cli {

namespace {

// The administrator's, of the cluster or of the one whose master this machine is.
Result<std::string> kubeconfigOf(const ClusterOption& option) {
  if (!option.meansHost()) {
    ASSIGN_OR_RETURN(auto config, option.load());
    return config.paths().kubeconfig();
  }
  if (pathExists(host::kKubeconfig)) return std::string(host::kKubeconfig);
  return Error(Code::kFailedPrecondition, "this machine is a node: the kubeconfig is on its masters");
}

int printKubeconfig(const ClusterOption& option) {
  auto path = kubeconfigOf(option);
  if (!path.ok()) return fail(path.error());
  std::printf("%s\n", path->c_str());
  return 0;
}

int printPath(const ClusterOption& option, const std::string& path) {
  auto config = option.load();
  if (!config.ok()) return fail(config.error());
  std::printf("%s\n", path.c_str());
  return 0;
}

int printShared(const ClusterOption& option) {
  const auto path = platform::sharedKubeconfig(option.data);
  if (!pathExists(path))
    return fail(Error(Code::kNotFound, fmt::format("no cluster in {} is up; `dhow up` starts one", option.data)));
  std::printf("%s\n", path.c_str());
  return 0;
}

int execKubectl(const ClusterOption& option, const std::vector<std::string>& args) {
  auto kubeconfig = kubeconfigOf(option);
  if (!kubeconfig.ok()) return fail(kubeconfig.error());
  if (::access(kubeconfig->c_str(), R_OK) != 0)
    return fail(Error::fromErrno("read " + *kubeconfig + " (it is root's)"));
  ::setenv("KUBECONFIG", kubeconfig->c_str(), 1);
  std::vector<char*> argv{const_cast<char*>("kubectl")};
  for (const auto& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  ::execvp("kubectl", argv.data());
  if (errno == ENOENT) return fail(Error(Code::kNotFound, "kubectl is not installed, or not on PATH"));
  return fail(Error::fromErrno("start kubectl"));
}

}  // namespace

void addKubeconfig(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("kubeconfig", "print the path of the cluster's kubeconfig");
  auto option = addClusterOption(command);
  auto all = std::make_shared<bool>(false);
  command->add_flag("--all", *all,
                    "of the one that all clusters in --data share, with a context for each, named after it: "
                    "`kubectl config use-context` switches them");
  command->callback([=] { *chosen = [=] { return *all ? printShared(*option) : printKubeconfig(*option); }; });
}

void addDockerSocket(CLI::App& app, Action* chosen) {
  auto* command =
      app.add_subcommand("docker-socket", "print the address of the cluster's Docker socket, for DOCKER_HOST");
  auto option = addClusterOption(command);
  command->callback([=] { *chosen = [=] { return printPath(*option, "unix://" + option->paths().dockerSocket()); }; });
}

void addKubectl(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("kubectl", "run kubectl against the cluster");
  auto option = addClusterOption(command);
  command->prefix_command();
  command->callback([=] {
    auto args = command->remaining();
    *chosen = [=] { return execKubectl(*option, args); };
  });
}

}  // namespace dhow::cli
