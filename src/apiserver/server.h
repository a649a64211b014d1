// The API server: store, watch caches, registry and the HTTP front, as one component on one loop.
#pragma once

#include <memory>
#include <string>

#include "apiserver/audit.h"
#include "apiserver/drain_barrier.h"
#include "apiserver/local_client.h"
#include "apiserver/registry.h"
#include "apiserver/tokens.h"
#include "http/server.h"
#include "object/kinds.h"
#include "store/store.h"

namespace dhow::apiserver {

struct ServerOptions {
  StrategyOptions services;                    // ranges of cluster addresses and node ports
  std::string advertiseAddress = "127.0.0.1";  // among the endpoints of the service `kubernetes`
  uint16_t advertisePort = 6443;
  PodSecurityOptions podSecurity;
  std::optional<ValueCipher> cipher;  // of what is encrypted in the store
  Audit* audit = nullptr;             // stopped by its owner after the http::Server
  bool sharedStore = false;           // other masters use the store too
  std::string clusterId;              // what snapshots of the store carry (store/snapshot.h)
  BlockingPool* pool = nullptr;       // hashes snapshots; null: the loop does
  TokenOptions tokens;
};

class ApiServer {
 public:
  ApiServer(Loop& loop, store::Store& store, const object::Kinds& kinds, ServerOptions options);
  ~ApiServer();

  // Reads the store, makes what every cluster has (namespaces, roles, the service `kubernetes`), and then is ready.
  Task<Result<>> start();
  // Ends watches and tunnels, refuses requests. Stop the http::Server that uses handler() after this.
  Task<> stop();

  // Makes these the endpoints of the service `kubernetes`: the living masters, as whoever leads sees them. Each server
  // adds its own address when it starts; no server removes another's by itself.
  Task<Result<>> publishMasters(std::vector<std::string> addresses);

  // For http::Server. Any number of servers may use it.
  http::Handler handler();
  client::Caches& caches();
  WatchCache& watchCache();
  Registry& registry();
  Tokens& tokens();
  // The API as a component of the server sees it, e.g. "deployment-controller".
  std::unique_ptr<client::Client> clientFor(std::string component);
  // Who, beside the nodes, sends to pods by EndpointSlices. They outlive stop().
  void addConsumers(EndpointConsumers& consumers);
  // Nodes whose agents are connected now.
  size_t connectedAgents() const;

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::apiserver
