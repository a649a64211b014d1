// Every subcommand; see the table in main.cc.
#pragma once

#include <string>

#include "base/loop.h"
#include "cli/command.h"

namespace dhow::cli {

// `dhow status` on a host of a cluster of separate hosts.
int hostStatus(const std::string& dataDir);
// The last part of both: says so when an authority in the folder pki/ has less than a year left.
void printAuthorityEnd(const std::string& pki, WallTime now);
void addUp(CLI::App& app, Action* chosen);
void addDown(CLI::App& app, Action* chosen);
void addStatus(CLI::App& app, Action* chosen);
void addClusters(CLI::App& app, Action* chosen);
void addMachine(CLI::App& app, Action* chosen);
void addZone(CLI::App& app, Action* chosen);
void addUpgrade(CLI::App& app, Action* chosen);
void addSessions(CLI::App& app, Action* chosen);
void addPolicy(CLI::App& app, Action* chosen);
void addDrill(CLI::App& app, Action* chosen);
void addSnapshot(CLI::App& app, Action* chosen);
void addDatastore(CLI::App& app, Action* chosen);
void addServer(CLI::App& app, const Roles& roles, Action* chosen);
void addJoin(CLI::App& app, Action* chosen);
void addLeave(CLI::App& app, Action* chosen);
void addToken(CLI::App& app, Action* chosen);
void addService(CLI::App& app, Action* chosen);
void addKubeconfig(CLI::App& app, Action* chosen);
void addDockerSocket(CLI::App& app, Action* chosen);
void addDocker(CLI::App& app, Action* chosen);
void addKubectl(CLI::App& app, Action* chosen);
void addImage(CLI::App& app, Action* chosen);
void addVersion(CLI::App& app, Action* chosen);

}  // namespace dhow::cli
