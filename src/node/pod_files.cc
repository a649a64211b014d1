// /etc/hosts and /etc/resolv.conf of a pod, its hostname, its sandbox.
#include <algorithm>

#include "base/saturate.h"
#include "base/strings.h"
#include "pod_status.h"
#include "run_spec.h"

namespace dhow::node {

std::string noteOf(const std::vector<std::pair<std::string, std::string>>& notes, std::string_view key) {
  for (const auto& [name, value] : notes) {
    if (name == key) return value;
  }
  return {};
}

std::string podHostname(const json::object& pod) {
  std::string_view given = text(pod, {"spec", "hostname"});
  std::string name(given.empty() ? text(pod, {"metadata", "name"}) : given);
  if (name.size() > 63) {
    name.resize(63);
    while (!name.empty() && (name.back() == '-' || name.back() == '.')) name.pop_back();
  }
  return name;
}

bool hostNetworkOf(const json::object& pod) {
  return flag(pod, {"spec", "hostNetwork"});
}

bool hasOwnUsers(const json::object& pod) {
  return !flag(pod, {"spec", "hostUsers"}, true);
}

std::vector<uint32_t> supplementalGroups(const json::object& spec) {
  std::vector<uint32_t> out;
  for (const json::value& group : array(spec, {"securityContext", "supplementalGroups"})) {
    if (group.is_int64()) out.push_back(static_cast<uint32_t>(group.get_int64()));
  }
  if (auto group = fsGroupOf(spec)) out.push_back(*group);
  return out;
}

std::optional<uint32_t> fsGroupOf(const json::object& spec) {
  auto group = number(spec, {"securityContext", "fsGroup"});
  if (!group) return std::nullopt;
  return static_cast<uint32_t>(*group);
}

namespace {

constexpr int64_t kMostMilli = 1'000'000'000;  // a million processors; the kernel knows no more

uint64_t sharesOf(int64_t milli) {
  return static_cast<uint64_t>(std::max<int64_t>(2, std::min(milli, kMostMilli) * 1024 / 1000));
}
int64_t quotaOf(int64_t milli) {
  return std::max<int64_t>(1000, std::min(milli, kMostMilli) * 100);
}
void add(int64_t& sum, int64_t more) {
  sum = saturatingAdd(sum, more);
}

}  // namespace

runtime::Resources containerResources(const json::object& container) {
  runtime::Resources out;
  auto cpuLimit = quantityMilli(text(container, {"resources", "limits", "cpu"})).value_or(0);
  auto cpuRequest = quantityMilli(text(container, {"resources", "requests", "cpu"})).value_or(cpuLimit);
  auto memory = quantityValue(text(container, {"resources", "limits", "memory"})).value_or(0);
  if (cpuRequest > 0) out.cpuShares = sharesOf(cpuRequest);
  if (cpuLimit > 0) {
    out.cpuPeriod = 100000;
    out.cpuQuota = quotaOf(cpuLimit);
  }
  if (memory > 0) out.memory = out.memorySwap = memory;
  return out;
}

runtime::Resources podResources(const json::object& spec) {
  runtime::Resources out;
  int64_t request = 0, cpu = 0, memory = 0;
  bool allCpu = true, allMemory = true;
  // Init containers run one after another and before the others: the larger counts. Sidecars run beside all.
  int64_t initRequest = 0, initCpu = 0, initMemory = 0, sideRequest = 0, sideCpu = 0, sideMemory = 0;
  for (std::string_view list : {"initContainers", "containers"}) {
    for (const json::value& entry : array(spec, {list})) {
      if (!entry.is_object()) continue;
      const json::object& container = entry.get_object();
      auto cpuLimit = quantityMilli(text(container, {"resources", "limits", "cpu"})).value_or(0);
      auto cpuRequest = quantityMilli(text(container, {"resources", "requests", "cpu"})).value_or(cpuLimit);
      auto memoryLimit = quantityValue(text(container, {"resources", "limits", "memory"})).value_or(0);
      if (cpuLimit <= 0) allCpu = false;
      if (memoryLimit <= 0) allMemory = false;
      if (list == "containers" || text(container, "restartPolicy") == "Always") {
        add(request, cpuRequest);
        add(cpu, cpuLimit);
        add(memory, memoryLimit);
        if (list == "initContainers") {
          add(sideRequest, cpuRequest);
          add(sideCpu, cpuLimit);
          add(sideMemory, memoryLimit);
        }
      } else {
        initRequest = std::max(initRequest, saturatingAdd(sideRequest, cpuRequest));
        initCpu = std::max(initCpu, saturatingAdd(sideCpu, cpuLimit));
        initMemory = std::max(initMemory, saturatingAdd(sideMemory, memoryLimit));
      }
    }
  }
  out.cpuShares = sharesOf(std::max(request, initRequest));
  if (allCpu) {
    out.cpuPeriod = 100000;
    out.cpuQuota = quotaOf(std::max(cpu, initCpu));
  }
  if (allMemory) out.memory = std::max(memory, initMemory);
  return out;
}

int oomScoreAdj(const json::object& spec, const json::object& container, uint64_t nodeMemory) {
  std::string_view qos = qosClass(spec);
  std::string_view priority = text(spec, "priorityClassName");
  if (qos == "Guaranteed" || priority == "system-node-critical") return -997;
  if (qos == "BestEffort") return 1000;
  auto limit = quantityValue(text(container, {"resources", "limits", "memory"})).value_or(0);
  auto request = quantityValue(text(container, {"resources", "requests", "memory"})).value_or(limit);
  if (nodeMemory == 0) return 999;
  const double share = static_cast<double>(request) / static_cast<double>(nodeMemory);
  return static_cast<int>(std::clamp(1000 - 1000 * share, 3.0, 999.0));
}

runtime::SandboxSpec sandboxSpec(const json::object& pod, const NodeFacts& node, std::string id) {
  const json::object& spec = object(pod, {"spec"});
  runtime::SandboxSpec out;
  out.id = std::move(id);
  const bool host = hostNetworkOf(pod);
  out.hostname = host ? node.hostname : podHostname(pod);
  std::string_view subdomain = text(spec, "subdomain");
  if (flag(spec, {"setHostnameAsFQDN"}) && !subdomain.empty()) {
    out.hostname =
        fmt::format("{}.{}.{}.svc.{}", out.hostname, subdomain, text(pod, {"metadata", "namespace"}), node.domain);
  }
  if (host) {
    out.net = runtime::Namespace::host();
    out.uts = runtime::Namespace::host();
  }
  if (flag(spec, {"hostIPC"})) out.ipc = runtime::Namespace::host();
  out.sharedPid = flag(spec, {"shareProcessNamespace"});
  out.ownUsers = hasOwnUsers(pod);
  std::string_view qos = qosClass(spec);
  std::string tree = node.cgroupParent == "/" ? "" : node.cgroupParent;
  if (qos != "Guaranteed") tree += "/" + toLower(qos);
  out.cgroup = fmt::format("{}/pod{}", tree, text(pod, {"metadata", "uid"}));
  out.resources = podResources(spec);
  for (const json::value& entry : array(spec, {"securityContext", "sysctls"})) {
    if (!entry.is_object()) continue;
    out.sysctls.emplace_back(std::string(text(entry.get_object(), "name")),
                             std::string(text(entry.get_object(), "value")));
  }
  out.annotations = {{std::string(kNoteNamespace), std::string(text(pod, {"metadata", "namespace"}))},
                     {std::string(kNoteName), std::string(text(pod, {"metadata", "name"}))},
                     {std::string(kNoteUid), std::string(text(pod, {"metadata", "uid"}))}};
  return out;
}

std::string hostsFile(const json::object& pod, const NodeFacts& node, const std::vector<std::string>& podIps) {
  std::string out;
  if (hostNetworkOf(pod)) {
    out = "# The node's own hosts file.\n" + node.hosts;
    if (!out.ends_with('\n')) out += '\n';
  } else {
    out =
        "# Written by the node for this pod.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";
    const std::string hostname = podHostname(pod);
    std::string_view subdomain = text(pod, {"spec", "subdomain"});
    const std::string name = subdomain.empty()
                                 ? hostname
                                 : fmt::format("{}.{}.{}.svc.{}\t{}", hostname, subdomain,
                                               text(pod, {"metadata", "namespace"}), node.domain, hostname);
    for (const std::string& podIp : podIps) out += fmt::format("{}\t{}\n", podIp, name);
  }
  const json::array& aliases = array(pod, {"spec", "hostAliases"});
  if (!aliases.empty()) out += "\n# Entries added by hostAliases.\n";
  for (const json::value& entry : aliases) {
    if (!entry.is_object()) continue;
    out += fmt::format("{}\t{}\n", text(entry.get_object(), "ip"),
                       join(strings(array(entry.get_object(), {"hostnames"})), "\t"));
  }
  return out;
}

std::string resolvFile(const json::object& pod, const NodeFacts& node) {
  const json::object& spec = object(pod, {"spec"});
  std::string_view policy = text(spec, "dnsPolicy");
  const bool host = hostNetworkOf(pod);
  const bool none = policy == "None";
  const bool own = policy == "Default" || ((policy.empty() || policy == "ClusterFirst") && host);
  std::vector<std::string> servers, search;
  std::vector<std::pair<std::string, std::string>> options;
  for (const std::string& line : split(node.resolvConf, '\n')) {
    auto words = split(std::string(trim(line)), ' ');
    if (words.empty()) continue;
    if (words[0] == "nameserver" && own && words.size() > 1) servers.push_back(words[1]);
    if ((words[0] == "search" || words[0] == "domain") && !none) search.assign(words.begin() + 1, words.end());
    if (words[0] != "options" || !own) continue;
    for (size_t i = 1; i < words.size(); ++i) {
      auto parts = splitOnce(words[i], ':');
      options.emplace_back(parts ? std::string(parts->first) : words[i], parts ? std::string(parts->second) : "");
    }
  }
  if (!own && !none) {
    servers = {node.dnsAddress};
    std::string_view ns = text(pod, {"metadata", "namespace"});
    std::vector<std::string> cluster = {fmt::format("{}.svc.{}", ns, node.domain), "svc." + node.domain, node.domain};
    for (const std::string& domain : search) {
      if (std::find(cluster.begin(), cluster.end(), domain) == cluster.end() && !domain.empty())
        cluster.push_back(domain);
    }
    search = std::move(cluster);
    options = {{"ndots", "5"}};
  }
  const json::object& config = object(spec, {"dnsConfig"});
  for (const std::string& server : strings(array(config, {"nameservers"}))) {
    if (std::find(servers.begin(), servers.end(), server) == servers.end()) servers.push_back(server);
  }
  for (const std::string& domain : strings(array(config, {"searches"}))) {
    if (std::find(search.begin(), search.end(), domain) == search.end()) search.push_back(domain);
  }
  for (const json::value& entry : array(config, {"options"})) {
    if (!entry.is_object()) continue;
    std::string name(text(entry.get_object(), "name"));
    std::erase_if(options, [&](const auto& option) { return option.first == name; });
    options.emplace_back(name, std::string(text(entry.get_object(), "value")));
  }
  if (servers.size() > 3) servers.resize(3);             // what libc reads
  constexpr size_t kMostDomains = 32, kMostText = 2048;  // Kubernetes' limits
  size_t length = 0, count = 0;
  while (count < search.size() && count < kMostDomains) {
    length += search[count].size() + (count == 0 ? 0 : 1);
    if (length > kMostText) break;
    count++;
  }
  search.resize(count);
  std::string out;
  if (!search.empty()) out += "search " + join(search, " ") + "\n";
  for (const std::string& server : servers) out += "nameserver " + server + "\n";
  if (!options.empty()) {
    out += "options";
    for (const auto& [name, value] : options) out += " " + name + (value.empty() ? "" : ":" + value);
    out += "\n";
  }
  return out;
}

}  // namespace dhow::node
