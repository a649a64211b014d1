// Where a cluster of this machine keeps its things. Every path function is here.
//
//   <data>/kubeconfig       one context for each cluster that is up (contexts.h)
//   <data>/clusters/<name>/
//     cluster.json          what was asked for and which ranges and ports were chosen
//     programs/<id>/        dhow and dhow-shim of the cluster's own (programs.h); links/<process> leads each process to
//     its kubeconfig            the administrator's pki/                  authority, identities, keys (0700)
//     masters/<master>/     one machine: master.json, its identities, store (store.db, or etcd/ for its member), log;
//                           audit/ where the cluster is restricted
//     region/               log of the region's process
//     snapshots/            of the store, saved by hand or by the leading master
//     registry/             content of the cluster's registry
//     engine/               the Docker engine's images, containers, volumes
//     nodes/<node>/         one machine: node.json, its identity, var/ (images, pods, logs); machine.json when it was
//                           made through the region's API
//   /run/dhow/<name>/       sockets and state that a reboot may forget
#pragma once

#include <string>

namespace dhow::platform {

inline constexpr const char* kDefaultDataDir = "/var/lib/dhow";
inline constexpr const char* kRunDir = "/run/dhow";

// The programs that a cluster, or a host of one, has of its own (programs.h).
struct ProgramPaths {
  std::string root;  // of all its data

  std::string programs() const { return root + "/programs"; }
  std::string program(const std::string& id) const { return programs() + "/" + id; }
  std::string links() const { return programs() + "/links"; }
  std::string link(const std::string& process) const { return links() + "/" + process; }
  std::string linkedDhow(const std::string& process) const { return link(process) + "/dhow"; }
};

struct ClusterPaths : ProgramPaths {
  ClusterPaths(const std::string& dataDir, const std::string& name)
      : ProgramPaths{dataDir + "/clusters/" + name}, data(dataDir), run(std::string(kRunDir) + "/" + name) {}

  // From <data>/clusters/<name>.
  static ClusterPaths ofRoot(const std::string& root) {
    auto name = root.rfind('/');
    auto clusters = root.rfind('/', name - 1);
    return ClusterPaths(root.substr(0, clusters), root.substr(name + 1));
  }

  std::string data;
  std::string run;

  std::string config() const { return root + "/cluster.json"; }
  std::string kubeconfig() const { return root + "/kubeconfig"; }
  std::string pki() const { return root + "/pki"; }
  std::string pki(const std::string& file) const { return pki() + "/" + file; }
  std::string masters() const { return root + "/masters"; }
  std::string master(const std::string& master) const { return masters() + "/" + master; }
  std::string masterConfig(const std::string& master) const { return this->master(master) + "/master.json"; }
  std::string audit(const std::string& master) const { return this->master(master) + "/audit/audit.log"; }
  std::string member(const std::string& master) const { return this->master(master) + "/etcd"; }
  std::string store(const std::string& master) const { return this->master(master) + "/store.db"; }
  std::string snapshots() const { return root + "/snapshots"; }
  std::string region() const { return root + "/region"; }
  std::string registry() const { return root + "/registry"; }
  std::string engine() const { return root + "/engine"; }
  std::string nodes() const { return root + "/nodes"; }
  std::string node(const std::string& node) const { return nodes() + "/" + node; }
  std::string nodeConfig(const std::string& node) const { return this->node(node) + "/node.json"; }
  // There while the machine is stopped because somebody asked for that.
  std::string held(const std::string& folder) const { return folder + "/stopped"; }
  // There when a node of the plan was removed through the region's API: `up` does not make it again.
  std::string nodeRemoved(const std::string& node) const { return nodes() + "/." + node + ".removed"; }
  std::string nodeRecord(const std::string& node) const { return this->node(node) + "/machine.json"; }

  std::string lock() const { return run + "/lock"; }
  // Locked by the engine while it runs; there from before it is started until it is shut down.
  std::string engineLock() const { return run + "/engine.lock"; }
  std::string enginePid() const { return run + "/engine.pid"; }
  std::string dockerSocket() const { return run + "/docker.sock"; }
  std::string regionNamespace() const { return run + "/region.netns"; }
  std::string regionSocket() const { return run + "/region.sock"; }
  std::string machineNamespace(const std::string& machine) const { return run + "/" + machine + ".netns"; }
  std::string machines() const { return run + "/machines"; }
  // Where a process that starts tells that it is ready. Masters see this folder.
  std::string readiness() const { return run + "/ready"; }
  std::string ready(const std::string& process) const { return readiness() + "/" + process; }
  std::string memberReady(const std::string& master) const { return ready(master + "-etcd"); }
};

}  // namespace dhow::platform
