#include "pod_address.h"

#include <boost/json/serialize.hpp>

#include "client/fields.h"

namespace dhow::apiserver {

namespace {

namespace json = boost::json;

json::object some(const json::object& from, std::initializer_list<std::string_view> names) {
  json::object out;
  for (std::string_view name : names) {
    if (const json::value* value = from.if_contains(name)) out[name] = *value;
  }
  return out;
}

json::array namedPorts(const json::object& spec, std::string_view list) {
  json::array out;
  for (const json::value& container : client::array(spec, {list})) {
    if (!container.is_object()) continue;
    json::array ports;
    for (const json::value& port : client::array(container.get_object(), {"ports"})) {
      if (port.is_object() && !client::text(port.get_object(), "name").empty())
        ports.push_back(some(port.get_object(), {"name", "containerPort", "protocol"}));
    }
    if (ports.empty()) continue;
    json::object entry = some(container.get_object(), {"restartPolicy"});
    entry["ports"] = std::move(ports);
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace

std::string renderPodAddress(const object::Object& pod) {
  const json::object& from = client::object(pod.root(), {"spec"});
  json::object spec = some(from, {"hostNetwork", "nodeName"});
  for (std::string_view list : {"containers", "initContainers"}) {
    json::array ports = namedPorts(from, list);
    if (!ports.empty()) spec[list] = std::move(ports);
  }
  return json::serialize(json::object{
      {"kind", "Pod"},
      {"apiVersion", "v1"},
      {"metadata",
       some(pod.metadata(), {"name", "namespace", "uid", "resourceVersion", "deletionTimestamp", "labels"})},
      {"spec", std::move(spec)},
      {"status", some(client::object(pod.root(), {"status"}), {"phase", "podIP", "podIPs", "hostIP"})}});
}

}  // namespace dhow::apiserver
