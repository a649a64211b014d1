#include <sys/prctl.h>

#include <csignal>
#include <cstdio>

#include "base/log.h"
#include "cli/command.h"
#include "commands.h"

namespace dhow::cli {

namespace {

struct Entry {
  const char* name;
  AddCommand add;
};

// Help lists them in this order.
constexpr Entry kCommands[] = {
    {"up", addUp},
    {"down", addDown},
    {"status", addStatus},
    {"clusters", addClusters},
    {"machine", addMachine},
    {"zone", addZone},
    {"sessions", addSessions},
    {"policy", addPolicy},
    {"drill", addDrill},
    {"upgrade", addUpgrade},
    {"snapshot", addSnapshot},
    {"datastore", addDatastore},
    {"join", addJoin},
    {"leave", addLeave},
    {"token", addToken},
    {"service", addService},
    {"kubeconfig", addKubeconfig},
    {"docker-socket", addDockerSocket},
    {"docker", addDocker},
    {"kubectl", addKubectl},
    {"image", addImage},
    {"version", addVersion},
};

void addRoles(CLI::App& app, const Roles& roles, Action* chosen) {
  auto add = [&](const char* name, const char* summary, int (*role)(const std::string&), const char* option) {
    auto* command = app.add_subcommand(name, summary)->group("Roles (started by `up` or by a service manager)");
    auto path = std::make_shared<std::string>();
    command->add_option(option, *path)->required();
    command->callback([=] { *chosen = [=] { return role(*path); }; });
  };
  add("member", "a master's member of the etcd that several masters share", roles.member, "--config");
  add("region", "what a cloud gives a cluster: the API's address, machines, registry, load balancer", roles.region,
      "--cluster");
  add("engine", "the container engine with Docker's API", roles.engine, "--cluster");
  add("agent", "a node", roles.agent, "--config");
  add("edge-filter", "what a node's HAProxy asks about requests", roles.edgeFilter, "--config");
}

}  // namespace

int fail(const Error& error) {
  std::fprintf(stderr, "dhow: %s\n", error.message().c_str());
  return 1;
}

int run(int argc, char** argv, const Roles& roles) {
  ::signal(SIGPIPE, SIG_IGN);
  CLI::App app{"Dhow: containers, Kubernetes and zones in one program", "dhow"};
  app.require_subcommand(1);
  bool verbose = false;
  app.add_flag("--debug", verbose, "log in detail");
  Action chosen;
  for (const auto& entry : kCommands) entry.add(app, &chosen);
  addServer(app, roles, &chosen);
  addRoles(app, roles, &chosen);
  CLI11_PARSE(app, argc, argv);
  log::configure(verbose ? log::Level::kDebug : log::Level::kInfo, "");
  return chosen ? chosen() : 2;
}

}  // namespace dhow::cli
