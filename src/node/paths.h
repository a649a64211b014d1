// Where a node keeps its things. Every path function is here.
//
//   <data>/images/                              the image store
//   <data>/pods/<ns>_<name>_<uid>/              one pod
//     pod.json                                  as last seen at the API (0600)
//     objects.json                              the config maps and secrets that it uses, as last seen (0600)
//     tokens.json                               its service account's tokens (0600): a reboot without a master needs
//     them status.json                               its status as last computed here volumes/<kind>/<volume>/ 0750
//     hosts, resolv.conf                        mounted as /etc/hosts and /etc/resolv.conf
//     subpaths/
//     <container>/<attempt>.log[.1 ...]         logs, CRI format
//     <container>/<attempt>.termination         mounted at terminationMessagePath
//   <run>/sandboxes/                            the runtime's state
#pragma once

#include <string>

namespace dhow::node {

struct NodePaths {
  std::string data, run;

  std::string images() const { return data + "/images"; }
  std::string pods() const { return data + "/pods"; }
  std::string network() const { return run + "/network"; }
  std::string sandboxes() const { return run + "/sandboxes"; }
};

struct PodPaths {
  PodPaths(const NodePaths& node, std::string_view ns, std::string_view name, std::string_view uid)
      : root(node.pods() + "/" + std::string(ns) + "_" + std::string(name) + "_" + std::string(uid)) {}
  explicit PodPaths(std::string folder) : root(std::move(folder)) {}
  std::string root;

  std::string pod() const { return root + "/pod.json"; }
  std::string objects() const { return root + "/objects.json"; }
  std::string tokens() const { return root + "/tokens.json"; }
  std::string status() const { return root + "/status.json"; }
  std::string volumes() const { return root + "/volumes"; }
  std::string volume(std::string_view kind, std::string_view name) const {
    return volumes() + "/" + std::string(kind) + "/" + std::string(name);
  }
  std::string hosts() const { return root + "/hosts"; }
  std::string resolvConf() const { return root + "/resolv.conf"; }
  std::string container(std::string_view name) const { return root + "/" + std::string(name); }
  std::string log(std::string_view name, int64_t attempt) const {
    return container(name) + "/" + std::to_string(attempt) + ".log";
  }
  std::string terminationMessage(std::string_view name, int64_t attempt) const {
    return container(name) + "/" + std::to_string(attempt) + ".termination";
  }
};

}  // namespace dhow::node
