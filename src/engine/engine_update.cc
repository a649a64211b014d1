// Changing a container's limits and restart policy, running or not.
#include "create.h"
#include "engine/engine.h"
#include "errors.h"
#include "fields.h"
#include "launch.h"

namespace dhow::engine {

namespace {

constexpr const char* kLimits[] = {"Memory",      "MemorySwap", "MemoryReservation", "NanoCpus",
                                   "CpuShares",   "CpuQuota",   "CpuPeriod",         "PidsLimit",
                                   "BlkioWeight", "CpusetCpus", "CpusetMems"};

bool given(const json::value& value) {
  if (value.is_string()) return !value.get_string().empty();
  if (value.is_int64()) return value.get_int64() != 0;
  return value.is_uint64() && value.get_uint64() != 0;
}

// The new HostConfig; it is checked as that of a new container.
Result<json::object> merged(const Container& container, const json::object& wanted,
                            std::vector<std::string>& warnings) {
  json::object host = container.hostConfig;
  for (const char* name : kLimits) {
    if (auto* value = field(wanted, name); value && given(*value)) host[name] = *value;
  }
  // One way of saying it replaces the other.
  bool period = integer(wanted, "CpuPeriod") > 0 || integer(wanted, "CpuQuota") > 0;
  if (period && integer(wanted, "NanoCpus") == 0 && integer(host, "NanoCpus") > 0)
    return Error(Code::kBadRequest,
                 "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set");
  if (integer(wanted, "NanoCpus") > 0 && !period && integer(host, "CpuPeriod") + integer(host, "CpuQuota") > 0)
    return Error(Code::kBadRequest,
                 "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set");
  if (integer(wanted, "Memory") > 0 && integer(wanted, "MemorySwap") == 0 && integer(host, "MemorySwap") > 0 &&
      integer(host, "MemorySwap") < integer(wanted, "Memory"))
    return Error(Code::kConflict,
                 "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same "
                 "time");
  if (const auto& policy = child(wanted, "RestartPolicy"); !text(policy, "Name").empty()) {
    if (container.autoRemove())
      return Error(Code::kConflict, "Restart policy cannot be updated because AutoRemove is enabled for the container");
    host["RestartPolicy"] = policy;
  }
  RETURN_IF_ERROR(checkLimits(host, warnings));
  return host;
}

}  // namespace

Task<Result<std::vector<std::string>>> Engine::update(std::string ref, json::object wanted) {
  CO_ASSIGN_OR_RETURN(auto container, find(ref));
  auto turn = co_await container->turn.take();
  if (container->removed) co_return noSuchContainer(ref);
  std::vector<std::string> warnings;
  CO_ASSIGN_OR_RETURN(auto host, merged(*container, wanted, warnings));
  auto before = std::exchange(container->hostConfig, std::move(host));
  if (container->state.running() && container->sandbox) {
    auto sandbox = container->sandbox;
    auto limited = co_await sandbox->update(container->id, resourcesOf(container->hostConfig));
    if (!limited.ok() && !hasEnded(limited.error())) {
      container->hostConfig = std::move(before);
      co_return std::move(limited).error().wrap("Cannot update container " + container->id);
    }
  }
  auto saved = saveRecord(*container);
  if (!saved.ok()) {
    std::swap(container->hostConfig, before);
    if (auto sandbox = container->sandbox)
      (void)(co_await sandbox->update(container->id, resourcesOf(container->hostConfig))).ok();
    co_return std::move(saved).error().wrap("Cannot update container " + container->id);
  }
  emit(*container, "update");
  co_return warnings;
}

}  // namespace dhow::engine
