// Where a host that belongs to a cluster of separate hosts keeps its things. Every path function is here.
//
//   <data>/host/
//     host.json             what this host is (config.h)
//     programs/<id>/        dhow and dhow-shim of the host's own; links/<service> leads each service to its
//     pki/                  of a master: authority and keys (0700); of a node: ca.crt alone
//     master/               master.json, its identities, store.db or etcd/, audit/
//     node/                 node.json, its identity, var/ (images, pods, logs)
//     snapshots/            of the store, saved by hand or by the leading master
//   /run/dhow/host/         lock, pid of a `dhow service run`, sockets, the runtime's state
//   /etc/dhow/kubeconfig    the administrator's, on a master
#pragma once

#include <string>

#include "platform/layout.h"

namespace dhow::host {

inline constexpr const char* kKubeconfig = "/etc/dhow/kubeconfig";
inline constexpr const char* kRegistries = "/etc/dhow/registries.yaml";
inline constexpr const char* kRunDir = "/run/dhow/host";

struct HostPaths : platform::ProgramPaths {
  explicit HostPaths(const std::string& dataDir = platform::kDefaultDataDir) : ProgramPaths{dataDir + "/host"} {}

  std::string config() const { return root + "/host.json"; }
  std::string pki() const { return root + "/pki"; }
  std::string pki(const std::string& file) const { return pki() + "/" + file; }
  std::string authority() const { return pki("ca.crt"); }
  std::string master() const { return root + "/master"; }
  std::string masterConfig() const { return master() + "/master.json"; }
  std::string store() const { return master() + "/store.db"; }
  std::string member() const { return master() + "/etcd"; }
  std::string audit() const { return master() + "/audit/audit.log"; }
  std::string node() const { return root + "/node"; }
  std::string nodeConfig() const { return node() + "/node.json"; }
  std::string nodeIdentity() const { return node() + "/node"; }  // a stem (platform/identities.h)
  std::string snapshots() const { return root + "/snapshots"; }

  std::string run() const { return kRunDir; }
  std::string lock() const { return run() + "/lock"; }
  std::string ready(const std::string& service) const { return run() + "/" + service + ".ready"; }
  std::string memberReady() const { return ready("dhow-member"); }  // of that service
};

}  // namespace dhow::host
