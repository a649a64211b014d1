#include "container.h"

#include "base/time.h"
#include "fields.h"

namespace dhow::engine {

std::string_view statusName(Status status) {
  switch (status) {
    case Status::kCreated: return "created";
    case Status::kRunning: return "running";
    case Status::kPaused: return "paused";
    case Status::kRestarting: return "restarting";
    case Status::kRemoving: return "removing";
    case Status::kExited: return "exited";
    case Status::kDead: return "dead";
  }
  return "dead";
}

namespace {

Status statusOf(std::string_view name) {
  for (auto status :
       {Status::kCreated, Status::kRunning, Status::kPaused, Status::kRestarting, Status::kRemoving, Status::kExited}) {
    if (statusName(status) == name) return status;
  }
  return Status::kDead;
}

json::object record(const MountPoint& mount) {
  json::object options;
  for (const auto& [key, value] : mount.options) options[key] = value;
  return {{"type", mount.type},
          {"name", mount.name},
          {"source", mount.source},
          {"destination", mount.destination},
          {"mode", mount.mode},
          {"writable", mount.writable},
          {"propagation", mount.propagation},
          {"options", options}};
}

MountPoint mountOf(const json::object& record) {
  MountPoint mount{
      text(record, "type"), text(record, "name"),        text(record, "source"),      text(record, "destination"),
      text(record, "mode"), boolean(record, "writable"), text(record, "propagation"), {}};
  for (const auto& [key, value] : child(record, "options")) {
    if (value.is_string()) mount.options.emplace_back(key, value.get_string());
  }
  return mount;
}

WallTime timeOf(const json::object& object, std::string_view name) {
  return parseTime(text(object, name)).value_or(WallTime{});
}

json::object record(const State& state) {
  return {{"status", statusName(state.status)},
          {"exitCode", state.exitCode},
          {"oomKilled", state.oomKilled},
          {"error", state.error},
          {"startedAt", formatTimeNano(state.startedAt)},
          {"finishedAt", formatTimeNano(state.finishedAt)}};
}

// What a running container holds on the network, so that a restarted engine can take it over.
json::object record(const Attachment& attachment) {
  return {{"hostInterface", attachment.hostInterface},
          {"interface", attachment.interface},
          {"address", attachment.address.str()},
          {"gateway", attachment.gateway.str()},
          {"mac", attachment.mac},
          {"mtu", attachment.mtu}};
}

std::optional<Attachment> attachmentOf(const json::object& record, const std::string& id) {
  auto address = IpPrefix::parse(text(record, "address"));
  if (!address.ok()) return std::nullopt;
  Attachment out;
  out.containerId = id;
  out.interface = text(record, "interface");
  out.hostInterface = text(record, "hostInterface");
  out.address = *address;
  if (auto gateway = IpAddress::parse(text(record, "gateway")); gateway.ok()) out.gateway = *gateway;
  out.mac = text(record, "mac");
  out.mtu = static_cast<int>(integer(record, "mtu"));
  return out;
}

}  // namespace

bool Container::tty() const {
  return boolean(config, "Tty");
}
bool Container::autoRemove() const {
  return boolean(hostConfig, "AutoRemove");
}

json::object toRecord(const Container& container) {
  json::array mounts;
  for (const auto& mount : container.mounts) mounts.push_back(record(mount));
  return {{"id", container.id},
          {"name", container.name},
          {"created", formatTimeNano(container.created)},
          {"imageId", container.imageId},
          {"imageName", container.imageName},
          {"config", container.config},
          {"hostConfig", container.hostConfig},
          {"mounts", std::move(mounts)}};
}

json::object toStateRecord(const Container& container, const State& state) {
  json::array ports;
  for (const auto& port : container.ports) {
    ports.push_back(json::object{{"hostAddress", port.hostAddress.str()},
                                 {"hostPort", port.hostPort},
                                 {"containerAddress", port.containerAddress.str()},
                                 {"containerPort", port.containerPort},
                                 {"protocol", protocolName(port.protocol)}});
  }
  json::object out{{"state", record(state)},
                   {"restartCount", container.restartCount},
                   {"stoppedByUser", container.stoppedByUser},
                   {"ports", std::move(ports)}};
  if (container.network) out["network"] = record(*container.network);
  return out;
}

Result<ContainerPtr> fromRecord(Loop& loop, const json::object& in, const json::object& fares) {
  auto container = std::make_shared<Container>(loop);
  container->id = text(in, "id");
  container->name = text(in, "name");
  container->imageId = text(in, "imageId");
  if (container->id.empty() || container->name.empty() || container->imageId.empty())
    return Error(Code::kDataLoss, "a container's record is damaged");
  container->created = timeOf(in, "created");
  container->imageName = text(in, "imageName");
  container->config = child(in, "config");
  container->hostConfig = child(in, "hostConfig");
  for (const auto& mount : list(in, "mounts")) {
    if (mount.is_object()) container->mounts.push_back(mountOf(mount.get_object()));
  }
  const auto& state = child(fares, "state");
  if (!state.empty()) container->state.status = statusOf(text(state, "status"));
  container->state.exitCode = static_cast<int>(integer(state, "exitCode"));
  container->state.oomKilled = boolean(state, "oomKilled");
  container->state.error = text(state, "error");
  container->state.startedAt = timeOf(state, "startedAt");
  container->state.finishedAt = timeOf(state, "finishedAt");
  container->restartCount = static_cast<int>(integer(fares, "restartCount"));
  container->stoppedByUser = boolean(fares, "stoppedByUser");
  container->network = attachmentOf(child(fares, "network"), container->id);
  for (const auto& item : list(fares, "ports")) {
    if (!item.is_object()) continue;
    const auto& port = item.get_object();
    PublishedPort published;
    if (auto address = IpAddress::parse(text(port, "hostAddress")); address.ok()) published.hostAddress = *address;
    if (auto address = IpAddress::parse(text(port, "containerAddress")); address.ok())
      published.containerAddress = *address;
    published.hostPort = static_cast<uint16_t>(integer(port, "hostPort"));
    published.containerPort = static_cast<uint16_t>(integer(port, "containerPort"));
    if (auto protocol = parseProtocol(text(port, "protocol")); protocol.ok()) published.protocol = *protocol;
    container->ports.push_back(published);
  }
  if (!container->state.running()) {
    container->network.reset();
    container->ports.clear();
  }
  return container;
}

}  // namespace dhow::engine
