// What a dhow process can be. Each role builds its object graph in a file of its own, runs its loop and gives the exit
// code.
#pragma once

#include <string>

namespace dhow {

int runServer(const std::string& configFile);  // a master: API server, controllers, scheduler
int runMember(const std::string& configFile);  // a master's member of etcd
int runRegion(
    const std::string& clusterDir);  // what a cloud gives: the API's address, machines, registry, load balancer
int runEngine(const std::string& clusterDir);      // Docker's API on a socket
int runAgent(const std::string& configFile);       // a node
int runEdgeFilter(const std::string& configFile);  // what a node's HAProxy asks about requests

}  // namespace dhow
