#include "client/pod_ports.h"

#include "client/fields.h"

namespace dhow::client {

std::vector<PodPort> podPorts(const Object& pod) {
  constexpr int64_t kLast = 65535;
  std::vector<PodPort> out;
  for (std::string_view list : {"containers", "initContainers"}) {
    for (const json::value& container : array(pod.root(), {"spec", list})) {
      if (!container.is_object()) continue;
      if (list == "initContainers" && text(container.get_object(), "restartPolicy") != "Always") continue;
      for (const json::value& value : array(container.get_object(), {"ports"})) {
        if (!value.is_object()) continue;
        const json::object& port = value.get_object();
        const int64_t containerPort = number(port, {"containerPort"}, 0);
        if (containerPort <= 0 || containerPort > kLast) continue;
        PodPort& one = out.emplace_back();
        one.name = text(port, "name");
        if (auto protocol = text(port, "protocol"); !protocol.empty()) one.protocol = protocol;
        one.number = static_cast<uint16_t>(containerPort);
      }
    }
  }
  return out;
}

}  // namespace dhow::client
