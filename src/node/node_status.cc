#include "node_status.h"

#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/version.h"
#include "client/node_lease.h"
#include "object/labels.h"

namespace dhow::node {

namespace {

using client::kRenewEvery;
using dhow::object::resources::kLeases;
using dhow::object::resources::kNodes;

constexpr Duration kStatusEvery = std::chrono::minutes(5);
constexpr uint64_t kMemoryLow = 100 << 20;
constexpr double kDiskLow = 0.1;
constexpr const char* kVersion = "v1.35.0";  // of the API

std::string firstLine(const std::string& path) {
  auto bytes = readFile(path, 4096);
  return bytes.ok() ? std::string(trim(std::string_view(*bytes).substr(0, bytes->find('\n')))) : std::string();
}

uint64_t memInfo(std::string_view name) {
  auto bytes = readFile("/proc/meminfo", 64 << 10);
  if (!bytes.ok()) return 0;
  const size_t at = bytes->find(std::string(name) + ":");
  if (at == std::string::npos) return 0;
  return std::strtoull(bytes->c_str() + at + name.size() + 1, nullptr, 10) << 10;
}

double diskFree(const std::string& path) {
  struct statvfs info{};
  if (::statvfs(path.c_str(), &info) != 0 || info.f_blocks == 0) return 1;
  return static_cast<double>(info.f_bavail) / static_cast<double>(info.f_blocks);
}

json::object mapOf(const std::map<std::string, std::string>& values) {
  json::object out;
  for (const auto& [key, value] : values) out[key] = value;
  return out;
}

}  // namespace

MachineFacts readMachine(const std::string& dataDir) {
  MachineFacts out;
  out.cpus = std::max<long>(1, ::sysconf(_SC_NPROCESSORS_ONLN));
  out.memory = memInfo("MemTotal");
  struct statvfs info{};
  if (::statvfs(dataDir.c_str(), &info) == 0) out.storage = static_cast<uint64_t>(info.f_blocks) * info.f_frsize;
  out.machineId = firstLine("/etc/machine-id");
  out.bootId = firstLine("/proc/sys/kernel/random/boot_id");
  out.systemUuid = firstLine("/sys/class/dmi/id/product_uuid");
  if (out.systemUuid.empty()) out.systemUuid = out.machineId;
  struct utsname names{};
  if (::uname(&names) == 0) {
    out.kernel = names.release;
    out.hostname = names.nodename;
    const std::string machine = names.machine;
    out.architecture = machine == "x86_64" ? "amd64" : machine == "aarch64" ? "arm64" : machine;
  }
  auto release = readFile("/etc/os-release", 64 << 10);
  for (const std::string& line : split(release.ok() ? *release : std::string(), '\n')) {
    if (!line.starts_with("PRETTY_NAME=")) continue;
    std::string_view value(line);
    value.remove_prefix(12);
    if (value.size() > 1 && value.front() == '"') value = value.substr(1, value.size() - 2);
    out.osImage = value;
  }
  return out;
}

std::map<std::string, std::string> capacityOf(const MachineFacts& machine, const NodeOptions& options) {
  std::map<std::string, std::string> out = {{"cpu", std::to_string(machine.cpus)},
                                            {"memory", fmt::format("{}Ki", machine.memory >> 10)},
                                            {"ephemeral-storage", fmt::format("{}Ki", machine.storage >> 10)},
                                            {"pods", std::to_string(options.maxPods)}};
  for (const auto& [name, value] : options.resources) out[name] = value;
  return out;
}

std::map<std::string, std::string> allocatableOf(const std::map<std::string, std::string>& capacity,
                                                 const NodeOptions& options) {
  std::map<std::string, std::string> out = capacity;
  for (const auto& [name, value] : options.reserved) {
    auto found = out.find(name);
    if (found == out.end()) continue;
    auto whole = dhow::object::Quantity::parse(found->second);
    auto part = dhow::object::Quantity::parse(value);
    if (!whole.ok() || !part.ok()) continue;
    dhow::object::Quantity left = *whole - *part;
    found->second = left.sign() < 0 ? "0" : left.text();
  }
  return out;
}

NodeStatus::NodeStatus(Loop& loop, client::Client& client, client::Client& leases, const NodeOptions& options,
                       MachineFacts machine, Images& images)
    : loop_(loop),
      client_(client),
      leases_(leases),
      options_(options),
      machine_(std::move(machine)),
      images_(images),
      changed_(loop),
      leaseWake_(loop),
      gate_(loop) {}

void NodeStatus::start() {
  gate_.spawn(keepNode(this));
  gate_.spawn(keepLease(this));
}

Task<> NodeStatus::stop() {
  stopping_ = true;
  changed_.notify();
  leaseWake_.notify();
  co_await gate_.close();
}

void NodeStatus::setNetworkReady(bool ready) {
  if (networkReady_ == ready) return;
  networkReady_ = ready;
  changed_.notify();
}

void NodeStatus::setServesIngress(bool serves) {
  if (servesIngress_.value_or(false) == serves) return;
  servesIngress_ = serves;
  changed_.notify();
}

void NodeStatus::setIngressLeaves(bool leaves) {
  if (std::exchange(ingressLeaves_, leaves) != leaves) changed_.notify();
}

void NodeStatus::poke() {
  changed_.notify();
  leaseWake_.notify();
}

json::object NodeStatus::metadata() const {
  json::object labels = mapOf(options_.labels);
  labels[object::kHostnameLabel] = options_.name;
  labels["kubernetes.io/os"] = "linux";
  labels["kubernetes.io/arch"] = machine_.architecture;
  labels["beta.kubernetes.io/os"] = "linux";
  labels["beta.kubernetes.io/arch"] = machine_.architecture;
  if (!options_.zone.empty()) labels[object::kZoneLabel] = options_.zone;
  if (!options_.region.empty()) labels[object::kRegionLabel] = options_.region;
  json::object annotations{{client::kFencesItself, "true"}};
  if (!options_.program.empty()) annotations[client::kRunsProgram] = options_.program;
  return {{"name", options_.name}, {"labels", std::move(labels)}, {"annotations", std::move(annotations)}};
}

json::object NodeStatus::conditionOf(std::string_view type, bool holds, std::string_view reason,
                                     std::string_view message) const {
  const std::string_view status = holds ? "True" : "False";
  std::optional<WallTime> since;
  for (const json::value& value : array(reported_, {"conditions"})) {
    if (!value.is_object() || text(value.get_object(), "type") != type) continue;
    if (text(value.get_object(), "status") == status) since = client::time(value.get_object(), {"lastTransitionTime"});
  }
  return {{"type", type},
          {"status", status},
          {"reason", reason},
          {"message", message},
          {"lastTransitionTime", timeValue(since.value_or(loop_.wallNow()))}};
}

json::array NodeStatus::conditions() const {
  const uint64_t available = memInfo("MemAvailable");
  const bool memoryLow = available > 0 && available < kMemoryLow;
  const bool diskLow = diskFree(options_.dataDir) < kDiskLow / 2;
  json::array out;
  out.push_back(memoryLow ? conditionOf("MemoryPressure", true, "KubeletHasInsufficientMemory",
                                        "kubelet has insufficient memory available")
                          : conditionOf("MemoryPressure", false, "KubeletHasSufficientMemory",
                                        "kubelet has sufficient memory available"));
  out.push_back(diskLow
                    ? conditionOf("DiskPressure", true, "KubeletHasDiskPressure", "kubelet has disk pressure")
                    : conditionOf("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"));
  out.push_back(conditionOf("PIDPressure", false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"));
  out.push_back(networkReady_
                    ? conditionOf("Ready", true, "KubeletReady", "kubelet is posting ready status")
                    : conditionOf("Ready", false, "KubeletNotReady",
                                  "container runtime network not ready: no pod range was given to this node yet"));
  if (servesIngress_) {
    out.push_back(*servesIngress_ && ingressLeaves_
                      ? conditionOf(client::kServesIngress, true, client::kIngressLeaves, "who is served here still is")
                  : *servesIngress_
                      ? conditionOf(client::kServesIngress, true, "HAProxyRuns", "Ingresses are served here")
                      : conditionOf(client::kServesIngress, false, "HAProxyDoesNotRun", "no Ingress is served here"));
  }
  return out;
}

json::object NodeStatus::status() const {
  const auto capacity = capacityOf(machine_, options_);
  const std::string version = thisProgram().version.text();
  json::array images;
  for (const image::ImagePtr& image : images_.list()) {
    if (images.size() == 50) break;
    json::array names;
    for (const std::string& name : image->repoDigests) names.push_back(json::string(name));
    for (const std::string& name : image->repoTags) names.push_back(json::string(name));
    images.push_back(json::object{{"names", std::move(names)}, {"sizeBytes", static_cast<int64_t>(image->size)}});
  }
  json::array addresses;
  for (const std::string& address : nodeAddressesOf(options_))
    addresses.push_back(json::object{{"type", "InternalIP"}, {"address", address}});
  addresses.push_back(json::object{{"type", "Hostname"}, {"address", options_.name}});
  return {{"capacity", mapOf(capacity)},
          {"allocatable", mapOf(allocatableOf(capacity, options_))},
          {"conditions", conditions()},
          {"addresses", std::move(addresses)},
          {"nodeInfo", json::object{{"machineID", machine_.machineId},
                                    {"systemUUID", machine_.systemUuid},
                                    {"bootID", machine_.bootId},
                                    {"kernelVersion", machine_.kernel},
                                    {"osImage", machine_.osImage},
                                    {"containerRuntimeVersion", "dhow://" + version},
                                    {"kubeletVersion", fmt::format("{}+dhow.{}", kVersion, version)},
                                    {"kubeProxyVersion", ""},
                                    {"operatingSystem", "linux"},
                                    {"architecture", machine_.architecture}}},
          {"runtimeHandlers",
           json::array{json::object{
               {"name", ""},
               {"features", json::object{{"recursiveReadOnlyMounts", true}, {"userNamespaces", userNamespaces_}}}}}},
          {"images", std::move(images)}};
}

Task<Result<>> NodeStatus::writeNode() {
  ObjectPtr node;
  if (!registered_) {
    json::object wanted{{"apiVersion", "v1"}, {"kind", "Node"}, {"metadata", metadata()}, {"status", status()}};
    json::object spec;
    json::array taints;
    for (const Taint& taint : options_.taints) {
      taints.push_back(json::object{{"key", taint.key}, {"value", taint.value}, {"effect", taint.effect}});
    }
    if (!taints.empty()) spec["taints"] = std::move(taints);
    wanted["spec"] = std::move(spec);
    auto made = co_await client_.create(kNodes, "", std::move(wanted));
    if (made.ok()) {
      node = std::move(*made);
    } else if (made.error().is(Code::kAlreadyExists)) {
      json::object own = metadata();
      json::object labels{{"metadata", json::object{{"labels", own["labels"]}, {"annotations", own["annotations"]}}}};
      auto patched =
          co_await client_.patch(kNodes, "", options_.name, "", client::PatchType::kMerge, std::move(labels));
      if (!patched.ok()) co_return std::move(patched).error();
      node = std::move(*patched);
    } else {
      co_return std::move(made).error();
    }
    uid_ = node->uid();
  }
  json::object fresh = status();
  auto written = co_await client_.patch(kNodes, "", options_.name, "status", client::PatchType::kStrategicMerge,
                                        json::object{{"status", replacing(fresh, {"addresses"})}});
  if (!written.ok()) {
    // Somebody deleted it: it is made anew.
    if (written.error().is(Code::kNotFound)) registered_ = false;
    co_return std::move(written).error();
  }
  reported_ = std::move(fresh);
  if (!registered_) log::info("node", "registered as {}", options_.name);
  registered_ = true;
  if (onRegistered) onRegistered();
  if (onRange) onRange(**written);
  co_return Result<>();
}

Task<> NodeStatus::keepNode(NodeStatus* self) {
  Duration delay = std::chrono::milliseconds(200);
  while (!self->stopping_) {
    auto written = co_await self->writeNode();
    if (self->stopping_) break;
    if (written.ok()) {
      delay = std::chrono::milliseconds(200);
      // Woken by changes; the facts are looked at again now and then.
      const json::array before = array(self->reported_, {"conditions"});
      // What changed while the last state was being written is due at once.
      auto isDue = [&] {
        return std::exchange(self->statusDue_, false) || !self->registered_ || self->conditions() != before;
      };
      bool due = isDue();
      while (!due && !self->stopping_) {
        const bool woken = co_await self->changed_.waitFor(kStatusEvery);
        due = !woken || isDue();
      }
      continue;
    }
    log::warn("node", "node status not written: {}", written.error().message());
    co_await self->changed_.waitFor(delay);
    delay = std::min<Duration>(delay * 2, std::chrono::seconds(10));
  }
}

Task<Result<>> NodeStatus::writeLease() {
  const std::string ns = "kube-node-lease";
  json::object spec{{"holderIdentity", options_.name},
                    {"leaseDurationSeconds", client::kLeaseSeconds},
                    {"renewTime", formatTimeMicro(loop_.wallNow())}};
  if (!lease_) {
    json::object metadata{{"name", options_.name}, {"namespace", ns}};
    if (!uid_.empty()) {
      metadata["ownerReferences"] =
          json::array{json::object{{"apiVersion", "v1"}, {"kind", "Node"}, {"name", options_.name}, {"uid", uid_}}};
    }
    json::object body{
        {"apiVersion", "coordination.k8s.io/v1"}, {"kind", "Lease"}, {"metadata", std::move(metadata)}, {"spec", spec}};
    auto made = co_await leases_.create(kLeases, ns, std::move(body));
    if (made.ok()) {
      lease_ = std::move(*made);
      co_return Result<>();
    }
    if (!made.error().is(Code::kAlreadyExists)) co_return std::move(made).error();
    auto found = co_await leases_.get(kLeases, ns, options_.name);
    if (!found.ok()) co_return std::move(found).error();
    lease_ = std::move(*found);
  }
  auto written = co_await leases_.patch(kLeases, ns, options_.name, "", client::PatchType::kMerge,
                                        json::object{{"spec", std::move(spec)}});
  if (!written.ok()) {
    if (written.error().is(Code::kNotFound)) lease_.reset();
    co_return std::move(written).error();
  }
  co_return Result<>();
}

// The client asks one master after the other. When all have refused in a row, there was none at the first refusal that
// could have taken anything from this node; one that came later has not looked for long.
void NodeStatus::refused(TimePoint sent) {
  const size_t masters = std::max<size_t>(options_.servers.size(), 1);
  refusals_.push_back(sent);
  while (refusals_.size() > masters) refusals_.pop_front();
  if (refusals_.size() == masters && onRenewed) onRenewed(refusals_.front());
}

Task<> NodeStatus::keepLease(NodeStatus* self) {
  Duration delay = std::chrono::milliseconds(200);
  while (!self->stopping_) {
    const TimePoint sent = self->loop_.now();
    auto written = co_await self->writeLease();
    if (self->stopping_) break;
    if (written.ok() || written.error().errnum() != ECONNREFUSED) self->refusals_.clear();
    if (!written.ok() && written.error().errnum() == ECONNREFUSED) self->refused(sent);
    if (written.ok()) {
      delay = std::chrono::milliseconds(200);
      if (self->onRenewed) self->onRenewed(sent);
      const TimePoint now = self->loop_.now();
      if (!self->leaseWritten_ || now - *self->leaseWritten_ > 2 * kRenewEvery) {
        self->statusDue_ = true;
        self->changed_.notify();
      }
      self->leaseWritten_ = now;
      // Not woken by pokes: they come with contact, when the lease has just been written or is about to be.
      const TimePoint next = self->loop_.now() + kRenewEvery;
      while (self->loop_.now() < next && !self->stopping_) co_await self->leaseWake_.waitFor(next - self->loop_.now());
      continue;
    }
    co_await self->leaseWake_.waitFor(delay);
    delay = std::min<Duration>(delay * 2, kRenewEvery / 2);
  }
}

}  // namespace dhow::node
