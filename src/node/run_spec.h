// From a pod's documents to the runtime's specifications. Pure but for looking up users in the image and making
// subPaths.
#pragma once

#include <string>
#include <vector>

#include "env.h"
#include "image/spec.h"
#include "image/store.h"
#include "paths.h"
#include "runtime/spec.h"

namespace dhow::node {

// Addresses without those that are none: the second one of a cluster with one family.
inline std::vector<std::string> withoutEmpty(std::vector<std::string> addresses) {
  std::erase(addresses, "");
  return addresses;
}

struct NodeFacts {
  std::string name;
  std::vector<std::string> addresses;  // the primary one first; never empty
  std::string cgroupParent;
  std::string dnsAddress, domain;
  std::string resolvConf;  // text of the node's own
  std::string hosts;       // text of the node's own /etc/hosts
  std::string hostname;    // of the machine, for pods on its network
  std::string seccompDir;  // of localhost profiles
  uint64_t memory = 0;     // bytes of capacity
  uint64_t logMaxSize = 10 << 20;
  uint32_t logMaxFiles = 5;
  std::map<std::string, std::string> allocatable;
};

// Annotations on sandboxes and containers, by which a restarted agent knows them.
inline constexpr std::string_view kNoteNamespace = "dhow.io/pod-namespace";
inline constexpr std::string_view kNoteName = "dhow.io/pod-name";
inline constexpr std::string_view kNoteUid = "dhow.io/pod-uid";
inline constexpr std::string_view kNoteAddress = "dhow.io/pod-address";
inline constexpr std::string_view kNoteSecondAddress = "dhow.io/pod-address6";
inline constexpr std::string_view kNoteLink = "dhow.io/pod-link";
inline constexpr std::string_view kNoteContainer = "dhow.io/container";
inline constexpr std::string_view kNoteAttempt = "dhow.io/attempt";
std::string noteOf(const std::vector<std::pair<std::string, std::string>>& notes, std::string_view key);

std::string podHostname(const json::object& pod);
bool hostNetworkOf(const json::object& pod);
bool hasOwnUsers(const json::object& pod);  // hostUsers: false
std::vector<uint32_t> supplementalGroups(const json::object& podSpec);
std::optional<uint32_t> fsGroupOf(const json::object& podSpec);

runtime::SandboxSpec sandboxSpec(const json::object& pod, const NodeFacts& node, std::string id);
runtime::Resources containerResources(const json::object& container);
runtime::Resources podResources(const json::object& podSpec);
int oomScoreAdj(const json::object& podSpec, const json::object& container, uint64_t nodeMemory);

std::string hostsFile(const json::object& pod, const NodeFacts& node, const std::vector<std::string>& podIps);
std::string resolvFile(const json::object& pod, const NodeFacts& node);

struct ContainerInputs {
  const json::object* pod = nullptr;
  const json::object* container = nullptr;
  const NodeFacts* node = nullptr;
  const PodPaths* paths = nullptr;
  const FieldContext* fields = nullptr;
  const image::Image* image = nullptr;
  image::Snapshot snapshot;
  std::string id;
  int64_t attempt = 0;
};
struct ContainerBuild {
  runtime::ContainerSpec spec;
  std::string stopSignal;  // "SIGTERM"
};
// kFailedPrecondition: CreateContainerConfigError, with the kubelet's words. kNotFound: nothing to run.
Result<ContainerBuild> buildContainer(const ContainerInputs& inputs);
// Its process alone, for commands that are run inside it later. `command` replaces what it runs.
Result<runtime::ProcessSpec> buildProcess(const ContainerInputs& inputs, std::vector<std::string> command);
// Where a volume lies on this node; nothing for a kind that is not known.
std::optional<std::string> volumePath(const json::object& volume, const PodPaths& paths);
int signalNumber(std::string_view name);  // "SIGTERM", "TERM" or "15"; SIGTERM when unknown

}  // namespace dhow::node
