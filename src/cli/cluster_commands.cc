// up, down, status: the clusters of this machine.
#include <cstdio>
#include <cstdlib>

#include "base/files.h"
#include "cluster_option.h"
#include "commands.h"
#include "platform/identities.h"

namespace dhow::cli {

namespace {

struct UpOptions {
  platform::ClusterRequest request;
  std::string example;
  bool dualStack = false;
};

// What to try next, in words that work as they stand: who came through sudo cannot read the kubeconfig, which is
// root's.
void printNext(const std::string& dhow, const std::string& own, const std::string& url) {
  std::printf("Next:\n");
  const bool sudo = std::getenv("SUDO_USER") != nullptr;
  if (sudo)
    std::printf("  sudo %s kubectl%s get pods -o wide\n", dhow.c_str(), own.c_str());
  else
    std::printf("  export KUBECONFIG=$(%s kubeconfig%s)\n  kubectl get pods -o wide\n", dhow.c_str(), own.c_str());
  if (sudo || url.empty()) std::printf("  %s%s status%s\n", sudo ? "sudo " : "", dhow.c_str(), own.c_str());
  if (!url.empty()) std::printf("  curl %s\n", url.c_str());
}

int up(Workbench& workbench, const UpOptions& options) {
  auto began = workbench.loop.now();
  auto request = options.request;
  if (options.dualStack && request.ipFamilies.empty()) request.ipFamilies = "IPv4,IPv6";
  if (options.dualStack && request.ipFamilies.find(',') == std::string::npos)
    return fail(
        Error(Code::kInvalid, fmt::format("--ip-families {} and --dual-stack: give one of both; --dual-stack is "
                                          "--ip-families IPv4,IPv6",
                                          request.ipFamilies)));
  auto done = runOn(workbench.loop, workbench.cluster.up(std::move(request), options.example, printStep));
  if (!done.ok()) return fail(done.error());
  const auto& config = done->config;
  std::string own = config.request.name == "dhow" && config.request.dataDir == platform::kDefaultDataDir
                        ? ""
                        : fmt::format(" --name {} --data {}", config.request.name, config.request.dataDir);
  std::printf("cluster \"%s\" is up after %.1f s\n\n", config.request.name.c_str(),
              std::chrono::duration<double>(workbench.loop.now() - began).count());
  if (!done->before.empty())
    std::printf("  It starts with dhow %s; before it was %s.\n\n", config.program.c_str(), done->before.c_str());
  if (config.program != workbench.programs.id)
    std::printf("  It runs dhow %s; this is %s, which `dhow upgrade` brings to it.\n\n", config.program.c_str(),
                workbench.programs.id.c_str());
  for (const auto& url : done->urls) std::printf("  application  %s\n", url.c_str());
  std::printf("  API          %s\n", config.apiUrl().c_str());
  std::printf("  kubeconfig   %s\n", config.paths().kubeconfig().c_str());
  std::printf("  docker       unix://%s\n\n", config.paths().dockerSocket().c_str());
  printNext(workbench.programs.dhow, own, done->urls.empty() ? std::string() : done->urls[0]);
  return 0;
}

int down(Workbench& workbench, const ClusterOption& option, bool keepData) {
  auto done = runOn(workbench.loop, workbench.cluster.down(option.paths(), keepData, printStep));
  if (!done.ok()) return fail(done.error());
  std::printf("cluster \"%s\" is gone\n", option.name.c_str());
  return 0;
}

const char* howIs(const platform::MachineInfo& machine, const platform::ClusterState& state) {
  if (!state.regionAnswers && !state.down) return "Unknown";
  if (!machine.running) return "Stopped";
  if (machine.cut) return "Cut";
  const auto& seen = machine.master ? state.mastersAlive : state.nodesReady;
  auto found = seen.find(machine.name);
  if (machine.master && machine.name == state.leader) return "Leads";
  if (machine.master) return found != seen.end() && found->second ? "Running" : "Starting";
  if (found == seen.end()) return state.serverAnswers ? "NotReady" : "Running";
  return found->second ? "Ready" : "NotReady";
}

// Whether processes run other programs than the cluster's.
bool isMixed(const platform::ClusterConfig& config, const platform::ClusterState& state) {
  auto other = [&](const std::string& program) { return !program.empty() && program != config.program; };
  return other(state.regionProgram) || other(state.engineProgram) ||
         std::any_of(state.machines.begin(), state.machines.end(),
                     [&](const auto& machine) { return other(machine.program); });
}

void printPrograms(const platform::ClusterConfig& config, const platform::ClusterState& state,
                   const platform::Programs& own) {
  std::printf("PROGRAMS  %s\n", config.program.c_str());
  if (isMixed(config, state))
    std::printf("          mixed: region %s, engine %s; `dhow upgrade` goes on\n",
                state.regionProgram.empty() ? "-" : state.regionProgram.c_str(),
                state.engineProgram.empty() ? "-" : state.engineProgram.c_str());
  else if (own.id != config.program && !state.down)
    std::printf("          this is %s; `dhow upgrade` brings it to the cluster\n", own.id.c_str());
  std::printf("\n");
}

void printMachines(const platform::ClusterState& state, bool mixed) {
  std::printf("%-24s %-10s %-10s %-16s %-16s%s\n", "MACHINE", "STATE", "PID", "ZONE", "ADDRESS",
              mixed ? " PROGRAMS" : "");
  for (const auto& machine : state.machines) {
    const std::string program = !mixed ? "" : " " + (machine.program.empty() ? std::string("-") : machine.program);
    std::printf("%-24s %-10s %-10d %-16s %-16s%s\n", machine.name.c_str(), howIs(machine, state), machine.pid,
                machine.zone.c_str(), machine.address.c_str(), program.c_str());
  }
}

int status(Workbench& workbench, const platform::ClusterConfig& config) {
  auto state = runOn(workbench.loop, workbench.cluster.state(config));
  if (!state.ok()) return fail(state.error());
  std::printf("CLUSTER   %s\n", config.request.name.c_str());
  std::printf("API       %s  %s\n", config.apiUrl().c_str(), state->serverAnswers ? "answers" : "does not answer");
  std::printf("ENGINE    unix://%s  %s\n", config.paths().dockerSocket().c_str(),
              state->engineAnswers ? "answers" : "does not answer");
  std::printf("REGION    %s  %s\n", config.region.c_str(),
              state->regionAnswers ? "answers" : "does not answer; `dhow up` starts it");
  printPrograms(config, *state, workbench.programs);
  printMachines(*state, isMixed(config, *state));
  if (!state->members.empty()) std::printf("\n%-24s %-10s %-10s\n", "MEMBER OF THE STORE", "STATE", "SIZE");
  for (const auto& member : state->members) {
    const char* how = !member.answers ? "Away" : member.learner ? "Learns" : member.leads ? "Leads" : "Follows";
    std::printf("%-24s %-10s %.1f MiB\n", member.name.c_str(), how, static_cast<double>(member.bytes) / (1 << 20));
  }
  printAuthorityEnd(config.paths().pki(), workbench.loop.wallNow());
  return state->serverAnswers ? 0 : 1;
}

int control(Workbench& workbench, const platform::ClusterConfig& config, const std::string& machine, bool start) {
  auto& cluster = workbench.cluster;
  auto done =
      runOn(workbench.loop, start ? cluster.startMachine(config, machine) : cluster.stopMachine(config, machine));
  return done.ok() ? 0 : fail(done.error());
}

}  // namespace

void printAuthorityEnd(const std::string& pki, WallTime now) {
  auto left = platform::authorityLeft(pki, now);
  if (!left.ok() || *left >= platform::kYear) return;
  std::printf(
      "\nThe cluster's authority ends in %d days, and all certificates with it; a new one comes with a new cluster.\n",
      static_cast<int>(*left / std::chrono::hours(24)));
}

void addUp(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("up", "start a cluster on this machine, or what of it does not run");
  auto options = std::make_shared<UpOptions>();
  command->add_option("--name", options->request.name, "the cluster's name")->capture_default_str();
  command->add_option("--data", options->request.dataDir, "where clusters keep their data")->capture_default_str();
  command
      ->add_option("--masters", options->request.masters, "how many masters, an odd number; each in a zone of its own")
      ->capture_default_str();
  command->add_option("--datastore", options->request.datastore,
                      "etcd=https://<address>:2379,...: a store that is there already, for any number of masters");
  command->add_option("--datastore-ca", options->request.datastoreCa, "PEM of its authority");
  command->add_option("--datastore-cert", options->request.datastoreCert, "PEM of a client certificate for it");
  command->add_option("--datastore-key", options->request.datastoreKey, "PEM of that certificate's key");
  command->add_option(
      "--snapshot-every", options->request.snapshotEvery,
      "how often the leading master saves a snapshot of the store: 30m, 1h (at first), 1d, off; counts from "
      "a master's next start");
  command->add_option("--certificate-seconds", options->request.certificateSeconds)->group("");  // for tests
  command->add_option("--nodes", options->request.nodes, "how many nodes")->capture_default_str();
  command->add_option("--zones", options->request.zones, "over how many availability zones")->capture_default_str();
  command->add_option("--sensitivity", options->request.sensitivity,
                      "public, internal (of a new cluster by default) or restricted");
  command->add_option("--ip-families", options->request.ipFamilies,
                      "of a new cluster: which addresses pods and services have, the first family first: IPv4 (by "
                      "default), IPv6, IPv4,IPv6 or IPv6,IPv4");
  command->add_flag("--dual-stack", options->dualStack, "the same as --ip-families IPv4,IPv6");
  command->add_flag("--encrypt-secrets", options->request.encryptSecrets,
                    "encrypt Secrets in the store, as restricted clusters do anyway");
  command->add_option("--deploy", options->example, "an example to put onto it: a folder with image.json and manifests")
      ->check(CLI::ExistingDirectory);
  command->callback(
      [=] { *chosen = [=] { return withWorkbench([&](Workbench& workbench) { return up(workbench, *options); }); }; });
}

void addDown(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("down", "stop a cluster and remove all that is left of it");
  auto option = addClusterOption(command);
  auto keep = std::make_shared<bool>(false);
  command->add_flag("--keep-data", *keep, "keep its data: the next `up` goes on with it");
  command->callback([=] {
    *chosen = [=] { return withWorkbench([&](Workbench& workbench) { return down(workbench, *option, *keep); }); };
  });
}

void addStatus(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("status", "show a cluster's machines and how they fare");
  auto option = addClusterOption(command);
  command->callback(
      [=] { *chosen = [=] { return option->meansHost() ? hostStatus(option->data) : withCluster(*option, status); }; });
}

void addMachine(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("machine", "stop or start one machine of a cluster");
  auto option = addClusterOption(command);
  auto verb = std::make_shared<std::string>(), machine = std::make_shared<std::string>();
  command->add_option("verb", *verb, "stop or start")->required()->check(CLI::IsMember({"stop", "start"}));
  command->add_option("machine", *machine, "as `dhow status` lists them")->required();
  command->callback([=] {
    *chosen = [=] {
      return withCluster(*option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
        return control(workbench, config, *machine, *verb == "start");
      });
    };
  });
}

}  // namespace dhow::cli
