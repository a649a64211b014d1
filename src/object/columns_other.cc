// Computed columns of all kinds but pods.
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "columns.h"
#include "object/selector.h"
#include "object/views.h"

namespace dhow::object::columns {
namespace {

namespace json = boost::json;

std::string orNone(std::string text) {
  return text.empty() ? "<none>" : text;
}

json::value ageColumn(const Object& object, WallTime now) {
  return json::value(age(api::ConfigMap(object).metadata().creationTimestamp(), now));
}

api::PodSpec templateSpec(const Object& object, bool direct) {
  return direct ? api::PodTemplate(object).template_().spec() : api::Deployment(object).spec().template_().spec();
}

std::string containers(const api::PodSpec& spec, bool images) {
  std::vector<std::string> out;
  for (api::Container container : spec.containers()) out.emplace_back(images ? container.image() : container.name());
  return join(out, ",");
}

json::value containerNames(const Object& o, WallTime) {
  return json::value(containers(templateSpec(o, false), false));
}
json::value containerImages(const Object& o, WallTime) {
  return json::value(containers(templateSpec(o, false), true));
}
json::value templateContainerNames(const Object& o, WallTime) {
  return json::value(containers(templateSpec(o, true), false));
}
json::value templateContainerImages(const Object& o, WallTime) {
  return json::value(containers(templateSpec(o, true), true));
}

std::string labelsText(const api::MapView<std::string_view>& labels) {
  std::vector<std::string> out;
  for (auto [key, value] : labels) out.push_back(fmt::format("{}={}", key, value));
  std::sort(out.begin(), out.end());
  return orNone(join(out, ","));
}

json::value templateLabels(const Object& o, WallTime) {
  return json::value(labelsText(api::PodTemplate(o).template_().metadata().labels()));
}
json::value serviceSelector(const Object& o, WallTime) {
  return json::value(labelsText(api::Service(o).spec().selector()));
}

json::value labelSelector(const Object& o, WallTime) {
  const json::value* selector = object::find(o.root(), {"spec", "selector"});
  auto parsed = LabelSelector::fromDocument(selector);
  if (!selector || !parsed.ok()) return "<none>";
  return json::value(orNone(parsed->text()));
}

json::value podSelector(const Object& o, WallTime) {
  auto parsed = LabelSelector::fromDocument(object::find(o.root(), {"spec", "podSelector"}));
  return json::value(parsed.ok() ? orNone(parsed->text()) : "<error>");
}

json::value deploymentReady(const Object& o, WallTime) {
  api::Deployment deployment(o);
  return json::value(fmt::format("{}/{}", deployment.status().readyReplicas(), deployment.spec().replicas()));
}

json::value nodeStatus(const Object& o, WallTime) {
  api::Node node(o);
  std::string out = "Unknown";
  for (api::NodeCondition condition : node.status().conditions()) {
    if (condition.type() == "Ready") out = condition.status() == "True" ? "Ready" : "NotReady";
  }
  if (node.spec().unschedulable()) out += ",SchedulingDisabled";
  return json::value(out);
}

json::value nodeRoles(const Object& o, WallTime) {
  constexpr std::string_view kPrefix = "node-role.kubernetes.io/";
  std::vector<std::string> roles;
  for (auto [key, value] : api::Node(o).metadata().labels()) {
    if (key.starts_with(kPrefix) && key.size() > kPrefix.size())
      roles.emplace_back(key.substr(kPrefix.size()));
    else if (key == "kubernetes.io/role" && !value.empty())
      roles.emplace_back(value);
  }
  std::sort(roles.begin(), roles.end());
  return json::value(orNone(join(roles, ",")));
}

json::value nodeAddress(const Object& o, std::string_view type) {
  for (api::NodeAddress address : api::Node(o).status().addresses())
    if (address.type() == type) return json::value(address.address());
  return "<none>";
}
json::value nodeInternalIP(const Object& o, WallTime) {
  return nodeAddress(o, "InternalIP");
}
json::value nodeExternalIP(const Object& o, WallTime) {
  return nodeAddress(o, "ExternalIP");
}

json::value serviceClusterIP(const Object& o, WallTime) {
  auto ips = api::Service(o).spec().clusterIPs();
  if (!ips.empty()) return json::value(ips[0]);
  return json::value(orNone(std::string(api::Service(o).spec().clusterIP())));
}

json::value serviceExternalIP(const Object& o, WallTime) {
  api::Service service(o);
  std::vector<std::string> external;
  for (std::string_view ip : service.spec().externalIPs()) external.emplace_back(ip);
  std::string_view type = service.spec().type();
  if (type == "ExternalName") return json::value(service.spec().externalName());
  if (type != "LoadBalancer") return json::value(orNone(join(external, ",")));
  std::vector<std::string> out;
  for (api::LoadBalancerIngress ingress : service.status().loadBalancer().ingress()) {
    out.emplace_back(ingress.ip().empty() ? ingress.hostname() : ingress.ip());
  }
  std::sort(out.begin(), out.end());
  out.insert(out.end(), external.begin(), external.end());
  return json::value(out.empty() ? "<pending>" : join(out, ","));
}

json::value servicePorts(const Object& o, WallTime) {
  std::vector<std::string> out;
  for (api::ServicePort port : api::Service(o).spec().ports()) {
    out.push_back(port.nodePort() > 0 ? fmt::format("{}:{}/{}", port.port(), port.nodePort(), port.protocol())
                                      : fmt::format("{}/{}", port.port(), port.protocol()));
  }
  return json::value(orNone(join(out, ",")));
}

json::value dataCount(const Object& o, WallTime) {
  api::ConfigMap map(o);
  return json::value(std::to_string(map.data().size() + map.binaryData().size()));
}

json::value secretsCount(const Object& o, WallTime) {
  return json::value(std::to_string(api::ServiceAccount(o).secrets().size()));
}

json::value roleRef(const Object& o, WallTime) {
  api::RoleRef ref = api::RoleBinding(o).roleRef();
  return json::value(fmt::format("{}/{}", ref.kind(), ref.name()));
}

json::value subjects(const Object& o, std::string_view kind) {
  std::vector<std::string> out;
  for (api::Subject subject : api::RoleBinding(o).subjects())
    if (subject.kind() == kind) {
      out.push_back(kind == "ServiceAccount" ? fmt::format("{}/{}", subject.namespace_(), subject.name())
                                             : std::string(subject.name()));
    }
  return json::value(join(out, ", "));
}
json::value subjectUsers(const Object& o, WallTime) {
  return subjects(o, "User");
}
json::value subjectGroups(const Object& o, WallTime) {
  return subjects(o, "Group");
}
json::value subjectServiceAccounts(const Object& o, WallTime) {
  return subjects(o, "ServiceAccount");
}

// "a,b,c + 2 more..." as kubectl shortens lists.
std::string shortened(const std::vector<std::string>& items, size_t limit) {
  if (items.size() <= limit) return join(items, ",");
  return fmt::format("{} + {} more...", join(std::span(items).first(limit), ","), items.size() - limit);
}

json::value endpointsAddresses(const Object& o, WallTime) {
  std::vector<std::string> out;
  for (api::EndpointSubset subset : api::Endpoints(o).subsets())
    for (api::EndpointAddress address : subset.addresses()) {
      if (subset.ports().empty()) out.emplace_back(address.ip());
      for (api::EndpointPort port : subset.ports()) out.push_back(fmt::format("{}:{}", address.ip(), port.port()));
    }
  return json::value(orNone(shortened(out, 3)));
}

json::value endpointSlicePorts(const Object& o, WallTime) {
  std::vector<std::string> out;
  for (api::discovery::EndpointPort port : api::EndpointSlice(o).ports()) {
    out.push_back(port.hasPort() ? std::to_string(port.port()) : std::string(port.name().empty() ? "*" : port.name()));
  }
  return json::value(out.empty() ? "<unset>" : shortened(out, 3));
}

json::value endpointSliceAddresses(const Object& o, WallTime) {
  std::vector<std::string> out;
  for (api::Endpoint endpoint : api::EndpointSlice(o).endpoints())
    for (std::string_view address : endpoint.addresses()) out.emplace_back(address);
  return json::value(out.empty() ? "<unset>" : shortened(out, 3));
}

// Both forms of events are read: core's and events.k8s.io's.
std::string_view either(const Object& o, std::initializer_list<std::string_view> a,
                        std::initializer_list<std::string_view> b) {
  for (const auto& path : {a, b})
    if (const json::value* value = object::find(o.root(), path);
        value && value->is_string() && !value->get_string().empty())
      return value->get_string();
  return {};
}

std::string eventAge(const Object& o, WallTime now, bool last) {
  std::string_view text = last ? either(o, {"lastTimestamp"}, {"deprecatedLastTimestamp"})
                               : either(o, {"firstTimestamp"}, {"deprecatedFirstTimestamp"});
  if (last) {
    if (std::string_view series = either(o, {"series", "lastObservedTime"}, {}); !series.empty()) text = series;
  }
  if (text.empty()) text = either(o, {"eventTime"}, {});
  return age(parseTime(text), now);
}

json::value eventLastSeen(const Object& o, WallTime now) {
  return json::value(eventAge(o, now, true));
}
json::value eventFirstSeen(const Object& o, WallTime now) {
  return json::value(eventAge(o, now, false));
}

json::value eventObject(const Object& o, WallTime) {
  std::string kind = toLower(either(o, {"involvedObject", "kind"}, {"regarding", "kind"}));
  return json::value(kind + "/" + std::string(either(o, {"involvedObject", "name"}, {"regarding", "name"})));
}

json::value eventSource(const Object& o, WallTime) {
  std::string out(either(o, {"source", "component"}, {"deprecatedSource", "component"}));
  if (out.empty()) out = either(o, {"reportingComponent"}, {"reportingController"});
  std::string_view host = either(o, {"source", "host"}, {"deprecatedSource", "host"});
  return json::value(host.empty() ? out : out + ", " + std::string(host));
}

json::value eventMessage(const Object& o, WallTime) {
  return json::value(trim(either(o, {"message"}, {"note"})));
}

json::value eventCount(const Object& o, WallTime) {
  int64_t count = 0;
  for (std::initializer_list<std::string_view> path :
       {std::initializer_list<std::string_view>{"count"}, {"deprecatedCount"}, {"series", "count"}})
    if (const json::value* value = object::find(o.root(), path); value && value->is_int64()) count = value->get_int64();
  return json::value(std::to_string(std::max<int64_t>(count, 1)));
}

json::value certificateDuration(const Object& o, WallTime) {
  api::CertificateSigningRequestSpec spec = api::CertificateSigningRequest(o).spec();
  if (!spec.hasExpirationSeconds()) return "<none>";
  return json::value(humanDuration(std::chrono::seconds(spec.expirationSeconds())));
}

json::value certificateCondition(const Object& o, WallTime) {
  bool approved = false, denied = false, failed = false;
  api::CertificateSigningRequestStatus status = api::CertificateSigningRequest(o).status();
  for (api::CertificateSigningRequestCondition condition : status.conditions()) {
    approved = approved || condition.type() == "Approved";
    denied = denied || condition.type() == "Denied";
    failed = failed || condition.type() == "Failed";
  }
  std::string out = denied ? "Denied" : approved ? "Approved" : "Pending";
  if (failed) out += ",Failed";
  if (!status.certificate().empty()) out += ",Issued";
  return json::value(out);
}

json::value poolAddresses(const Object& o, WallTime) {
  std::vector<std::string> out;
  for (std::string_view range : api::AddressPool(o).spec().addresses()) out.emplace_back(range);
  return json::value(orNone(join(out, ",")));
}

json::value poolReady(const Object& o, WallTime) {
  api::AddressPoolStatus status = api::AddressPool(o).status();
  for (const auto& condition : status.conditions()) {
    if (condition.type() == "Ready") return json::value(condition.status());
  }
  return json::value("Unknown");
}

json::value ingressHosts(const Object& o, WallTime) {
  constexpr size_t limit = 3;
  std::vector<std::string> hosts;
  auto rules = api::Ingress(o).spec().rules();
  bool more = false;
  for (api::IngressRule rule : rules) {
    more = more || hosts.size() == limit;
    if (!more && !rule.host().empty()) hosts.emplace_back(rule.host());
  }
  if (hosts.empty()) return "*";
  std::string out = join(hosts, ",");
  return json::value(more ? fmt::format("{} + {} more...", out, rules.size() - limit) : out);
}

json::value ingressAddress(const Object& o, WallTime) {
  std::vector<std::string> out;
  for (api::IngressLoadBalancerIngress ingress : api::Ingress(o).status().loadBalancer().ingress())
    out.emplace_back(ingress.ip().empty() ? ingress.hostname() : ingress.ip());
  return json::value(join(out, ","));
}

json::value ingressPorts(const Object& o, WallTime) {
  return api::Ingress(o).spec().tls().empty() ? "80" : "80, 443";
}

json::value ingressClassParameters(const Object& o, WallTime) {
  api::IngressClassSpec spec = api::IngressClass(o).spec();
  if (!spec.hasParameters()) return "<none>";
  api::IngressClassParametersReference parameters = spec.parameters();
  std::string out(parameters.kind());
  if (parameters.hasApiGroup()) out += "." + std::string(parameters.apiGroup());
  return json::value(out + "/" + std::string(parameters.name()));
}

json::value conditionStatus(const Object& o, std::string_view type) {
  for (api::Condition condition : api::GatewayClass(o).status().conditions())
    if (condition.type() == type) return json::value(condition.status());
  return "";
}
json::value gatewayAccepted(const Object& o, WallTime) {
  return conditionStatus(o, "Accepted");
}
json::value gatewayProgrammed(const Object& o, WallTime) {
  return conditionStatus(o, "Programmed");
}

// As a custom resource's column shows the first of several.
json::value gatewayAddress(const Object& o, WallTime) {
  auto addresses = api::Gateway(o).status().addresses();
  return addresses.empty() ? json::value("") : json::value(addresses[0].value());
}

// A list in a custom resource's column is JSON.
json::value routeHostnames(const Object& o, WallTime) {
  const json::value* hosts = object::find(o.root(), {"spec", "hostnames"});
  return hosts && hosts->is_array() ? json::value(json::serialize(*hosts)) : json::value("");
}

constexpr Entry kColumns[] = {{"age", ageColumn},
                              {"containerNames", containerNames},
                              {"containerImages", containerImages},
                              {"templateContainerNames", templateContainerNames},
                              {"templateContainerImages", templateContainerImages},
                              {"templateLabels", templateLabels},
                              {"serviceSelector", serviceSelector},
                              {"labelSelector", labelSelector},
                              {"deploymentReady", deploymentReady},
                              {"nodeStatus", nodeStatus},
                              {"nodeRoles", nodeRoles},
                              {"nodeInternalIP", nodeInternalIP},
                              {"nodeExternalIP", nodeExternalIP},
                              {"serviceClusterIP", serviceClusterIP},
                              {"serviceExternalIP", serviceExternalIP},
                              {"servicePorts", servicePorts},
                              {"dataCount", dataCount},
                              {"secretsCount", secretsCount},
                              {"roleRef", roleRef},
                              {"subjectUsers", subjectUsers},
                              {"subjectGroups", subjectGroups},
                              {"subjectServiceAccounts", subjectServiceAccounts},
                              {"endpointsAddresses", endpointsAddresses},
                              {"endpointSlicePorts", endpointSlicePorts},
                              {"endpointSliceAddresses", endpointSliceAddresses},
                              {"podSelector", podSelector},
                              {"eventLastSeen", eventLastSeen},
                              {"eventFirstSeen", eventFirstSeen},
                              {"eventObject", eventObject},
                              {"eventSource", eventSource},
                              {"eventMessage", eventMessage},
                              {"eventCount", eventCount},
                              {"ingressHosts", ingressHosts},
                              {"ingressAddress", ingressAddress},
                              {"ingressPorts", ingressPorts},
                              {"ingressClassParameters", ingressClassParameters},
                              {"gatewayAccepted", gatewayAccepted},
                              {"gatewayProgrammed", gatewayProgrammed},
                              {"gatewayAddress", gatewayAddress},
                              {"routeHostnames", routeHostnames},
                              {"certificateDuration", certificateDuration},
                              {"certificateCondition", certificateCondition},
                              {"poolAddresses", poolAddresses},
                              {"poolReady", poolReady}};

}  // namespace

std::string age(std::optional<WallTime> time, WallTime now) {
  return time ? humanDuration(now - *time) : "<unknown>";
}

std::span<const Entry> otherColumns() {
  return kColumns;
}

}  // namespace dhow::object::columns
