// server, join, leave, service: this machine as a part of a cluster of separate hosts.
#include <unistd.h>

#include <cstdio>

#include "base/blocking.h"
#include "base/files.h"
#include "base/strings.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "client/sessions.h"
#include "cluster_option.h"
#include "commands.h"
#include "host/join.h"
#include "host/leave.h"
#include "host/server.h"
#include "host/services.h"
#include "host/status.h"
#include "host/tokens.h"

namespace dhow::cli {

namespace {

constexpr size_t kBlockingThreads = 4;
constexpr Duration kNodeReadyLimit = std::chrono::seconds(60);

Task<Result<std::string>> newJoinCommand(Loop* loop, host::HostConfig config) {
  CO_ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(host::kKubeconfig));
  CO_ASSIGN_OR_RETURN(auto options, client::httpOptions(kubeconfig));
  client::HttpClient api(*loop, std::move(options));
  auto made = co_await host::createToken(*loop, api, {.description = "made by dhow server"});
  co_await api.stop();
  CO_RETURN_IF_ERROR(made);
  co_return host::joinCommand(config.apiUrl(), made->record.token, kubeconfig.caPem);
}

Task<Result<>> showMaster(Loop* loop, host::HostConfig config) {
  if (config.node) {
    auto ready = co_await host::waitReady(*loop, config, kNodeReadyLimit);
    CO_RETURN_IF_ERROR(ready);
  }
  auto command = co_await newJoinCommand(loop, config);
  CO_RETURN_IF_ERROR(command);
  std::printf("cluster \"%s\" is up; this machine is its master \"%s\" at %s\n\n  kubeconfig   %s\n\n",
              config.cluster.c_str(), config.name.c_str(), config.apiUrl().c_str(), host::kKubeconfig);
  std::printf("Next, on each machine that shall be a node (the token is good for 24 hours):\n  %s\n", command->c_str());
  std::fflush(stdout);
  co_return Result<>();
}

Task<Result<>> showNode(Loop* loop, host::HostConfig config) {
  auto ready = co_await host::waitReady(*loop, config, kNodeReadyLimit);
  CO_RETURN_IF_ERROR(ready);
  std::printf("this machine is node \"%s\" of cluster \"%s\", in zone %s\n", config.name.c_str(),
              config.cluster.c_str(), config.zone.c_str());
  std::fflush(stdout);
  co_return Result<>();
}

using Show = Task<Result<>> (*)(Loop*, host::HostConfig);

// Starts what belongs to the host, shows that it runs, and stays where systemd does not mind it.
int start(const host::HostConfig& config, bool foreground, Show show) {
  auto programs = platform::Programs::ofThisProcess();
  if (!programs.ok()) return fail(programs.error());
  RealLoop loop;
  if (!foreground && host::haveSystemd()) {
    auto installed = host::installServices(config, *programs);
    if (!installed.ok()) return fail(installed.error());
    auto shown = runOn(loop, show(&loop, config));
    return shown.ok() ? 0 : fail(shown.error());
  }
  auto ended = runOn(loop, host::runServices(loop, config, *programs, [&] { return show(&loop, config); }));
  return ended.ok() ? 0 : fail(ended.error());
}

int server(const host::ServerRequest& request, bool foreground) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto config = host::prepareServer(request, std::chrono::system_clock::now());
  if (!config.ok()) return fail(config.error());
  return start(*config, foreground, showMaster);
}

int joinCluster(host::JoinRequest request, const std::vector<std::string>& labels,
                const std::vector<std::string>& taints, bool foreground) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  for (const auto& text : labels) {
    auto label = host::parseLabel(text);
    if (!label.ok()) return fail(label.error());
    request.labels.insert(std::move(*label));
  }
  for (const auto& text : taints) {
    auto taint = host::parseTaint(text);
    if (!taint.ok()) return fail(taint.error());
    request.taints.push_back(std::move(*taint));
  }
  RealLoop loop;
  auto config = runOn(loop, host::join(loop, std::move(request)));
  if (!config.ok()) return fail(config.error());
  return start(*config, foreground, config->master ? showMaster : showNode);
}

int leave(const std::string& dataDir, bool force, const std::string& timeout) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto config = host::loadHost(dataDir);
  if (!config.ok()) return fail(config.error());
  if (config->master && !force)
    return fail(
        Error(Code::kFailedPrecondition,
              fmt::format("this machine is a master of cluster \"{}\": with it goes {}; `dhow leave --force` does "
                          "so nevertheless",
                          config->cluster,
                          config->member ? "its member of the store" : "the store, unless it is elsewhere")));
  auto programs = platform::Programs::ofThisProcess();
  if (!programs.ok()) return fail(programs.error());
  const bool atOnce = timeout == "0" || timeout == "0s";
  const auto limit = atOnce ? std::optional(Duration::zero()) : client::sessionTime(timeout);
  if (!limit) return fail(Error(Code::kInvalid, fmt::format("--timeout {}: give a time as 90s, 5m or 0s", timeout)));
  RealLoop loop;
  BlockingPool pool(kBlockingThreads);
  if (!atOnce && host::servesIngress(*config)) {
    std::printf("clients of Ingresses have %s for the connections that they have here\n", timeout.c_str());
    std::fflush(stdout);
    auto gone = runOn(loop, host::letIngressClientsGo(loop, *config, *limit));
    if (!gone.ok()) std::fprintf(stderr, "dhow: warning: some may be cut off: %s\n", gone.error().message().c_str());
  }
  auto left = runOn(loop, host::leave(loop, pool, *config, *programs));
  if (!left.ok()) return fail(left.error());
  std::printf("this machine has left cluster \"%s\"\n", config->cluster.c_str());
  if (config->node) std::printf("`kubectl delete node %s` removes its node from the API\n", config->name.c_str());
  return 0;
}

int service(const std::string& dataDir, const std::string& verb) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto config = host::loadHost(dataDir);
  if (!config.ok()) return fail(config.error());
  auto programs = platform::Programs::ofThisProcess();
  if (!programs.ok()) return fail(programs.error());
  RealLoop loop;
  Result<> done;
  if (verb == "install") done = host::installServices(*config, *programs);
  if (verb == "uninstall") done = host::uninstallServices();
  if (verb == "run") done = runOn(loop, host::runServices(loop, *config, *programs, {}));
  if (verb == "stop") done = runOn(loop, host::stopServices(loop, *config));
  return done.ok() ? 0 : fail(done.error());
}

std::string rolesOf(const host::HostConfig& config) {
  std::string roles;
  for (const auto& [has, role] : {std::pair(config.master, "master"), std::pair(config.member, "member of the store"),
                                  std::pair(config.node, "node")}) {
    if (has) roles += (roles.empty() ? "" : ", ") + std::string(role);
  }
  return roles;
}

void addData(CLI::App* command, std::string& into) {
  command->add_option("--data", into, "where this machine keeps its data")->capture_default_str();
}

}  // namespace

int hostStatus(const std::string& dataDir) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto config = host::loadHost(dataDir);
  if (!config.ok()) return fail(config.error());
  RealLoop loop;
  auto state = runOn(loop, host::stateOf(loop, *config));
  if (!state.ok()) return fail(state.error());
  std::printf("CLUSTER   %s\n", config->cluster.c_str());
  std::printf("HOST      %s  %s\n", config->name.c_str(), config->address.c_str());
  std::printf("ROLES     %s\n", rolesOf(*config).c_str());
  std::printf("API       %s  %s\n", state->server.c_str(), state->answers ? "answers" : "does not answer");
  if (!state->answers) return 1;
  std::printf("MASTERS   %s\n\n", join(state->masters, ", ").c_str());
  std::printf("%-24s %-10s %-16s %-16s\n", "NODE", "STATE", "ZONE", "ADDRESS");
  for (const auto& node : state->nodes)
    std::printf("%-24s %-10s %-16s %s\n", node.name.c_str(), node.state.c_str(), node.zone.c_str(),
                node.address.c_str());
  printAuthorityEnd(config->paths().pki(), loop.wallNow());
  return 0;
}

void addServer(CLI::App& app, const Roles& roles, Action* chosen) {
  auto* command = app.add_subcommand("server", "make this machine the first master of a cluster of separate machines");
  auto request = std::make_shared<host::ServerRequest>();
  auto foreground = std::make_shared<bool>(false);
  auto config = std::make_shared<std::string>();
  command->add_option("--name", request->cluster, "the cluster's name")->capture_default_str();
  command->add_option("--region", request->region, "the cluster's region")->capture_default_str();
  command->add_option("--zone", request->zone, "this machine's availability zone; at first <region>-1");
  command->add_option("--node-name", request->hostName, "this machine's name in the cluster; at first its host name");
  command->add_option("--advertise", request->advertise,
                      "the address that others reach this machine by; at first that of the default route");
  command->add_option("--port", request->port, "of the API")->capture_default_str();
  command
      ->add_option("--pod-range", request->podRange,
                   "the pods' addresses; two families with a comma between, the first one first")
      ->capture_default_str();
  command->add_option("--service-range", request->serviceRange, "the services' addresses, of the same families")
      ->capture_default_str();
  command->add_option(
      "--load-balancer-range", request->loadBalancerRange,
      "addresses for services of type LoadBalancer, which the network leads to the nodes; without it they "
      "stay pending");
  command->add_flag("--node", request->node, "run pods on this machine, too");
  command->add_option("--store", request->store, "embedded, or etcd: a member on this master and on those that join")
      ->capture_default_str();
  command->add_option("--datastore", request->datastore,
                      "etcd=https://<address>:2379,...: a store that is there already");
  command->add_option("--datastore-ca", request->datastoreCa, "PEM of its authority");
  command->add_option("--datastore-cert", request->datastoreCert, "PEM of a client certificate for it");
  command->add_option("--datastore-key", request->datastoreKey, "PEM of that certificate's key");
  command->add_option("--sensitivity", request->sensitivity, "public, internal or restricted")->capture_default_str();
  command->add_flag("--encrypt-secrets", request->encryptSecrets, "encrypt Secrets in the store");
  command->add_option("--snapshot-every", request->snapshotEvery, "how often a snapshot of the store is saved, or off")
      ->capture_default_str();
  command->add_option("--certificate-seconds", request->certificateSeconds)->group("");  // for tests
  addData(command, request->dataDir);
  command->add_flag("--foreground", *foreground, "stay, and use no systemd units");
  command->add_option("--config", *config, "only run a master's process, as that file says")->group("For units");
  auto role = roles.server;
  command->callback([=] { *chosen = [=] { return config->empty() ? server(*request, *foreground) : role(*config); }; });
}

void addJoin(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand(
      "join", "make this machine a node, or a further master, of a cluster that `dhow server` has begun");
  auto request = std::make_shared<host::JoinRequest>();
  auto labels = std::make_shared<std::vector<std::string>>(), taints = std::make_shared<std::vector<std::string>>();
  auto foreground = std::make_shared<bool>(false);
  command->add_option("server", request->server, "a master: https://<address>:6443")->required();
  command->add_option("--token", request->token, "as `dhow token create` shows it")->required();
  command->add_option("--ca-hash", request->caHashes, "sha256:<hex>: the digest of the authority's public key");
  command->add_option("--zone", request->zone, "this machine's availability zone; at first <region>-1");
  command->add_option("--node-name", request->hostName, "the node's name; at first the machine's host name");
  command->add_option("--address", request->address,
                      "the address that others reach this machine by; at first that of the default route");
  auto* master =
      command->add_flag("--master", request->master, "be a further master of a cluster whose store is an etcd");
  command->add_option("--certificate-key", request->certificateKey, "as `dhow token create --master` shows it")
      ->needs(master);
  auto pods = std::make_shared<bool>(false);
  command->add_flag("--node", *pods, "of a master: run pods, too")->needs(master);
  command->add_option("--label", *labels, "<key>=<value>, put on the node");
  command->add_option("--taint", *taints, "<key>[=<value>]:<effect>, put on the node");
  addData(command, request->dataDir);
  command->add_flag("--foreground", *foreground, "stay, and use no systemd units");
  command->callback([=] {
    request->node = !request->master || *pods;
    *chosen = [=] { return joinCluster(*request, *labels, *taints, *foreground); };
  });
}

void addLeave(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand(
      "leave", "take this machine out of its cluster, and remove all that the cluster has put there");
  auto data = std::make_shared<std::string>(platform::kDefaultDataDir);
  auto force = std::make_shared<bool>(false);
  auto timeout = std::make_shared<std::string>("5m");
  addData(command, *data);
  command->add_flag("--force", *force, "a master, too");
  command
      ->add_option("--timeout", *timeout, "how long clients of Ingresses may keep the connections that they have here")
      ->capture_default_str();
  command->callback([=] { *chosen = [=] { return leave(*data, *force, *timeout); }; });
}

void addService(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("service",
                                     "what keeps this machine's part of its cluster running: systemd units, or a "
                                     "process in the foreground");
  auto data = std::make_shared<std::string>(platform::kDefaultDataDir);
  auto verb = std::make_shared<std::string>();
  command->add_option("verb", *verb, "install, uninstall (the units); run (in the foreground), stop (what runs so)")
      ->required()
      ->check(CLI::IsMember({"install", "uninstall", "run", "stop"}));
  addData(command, *data);
  command->callback([=] { *chosen = [=] { return service(*data, *verb); }; });
}

}  // namespace dhow::cli
