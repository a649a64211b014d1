#include <algorithm>

#include "backend_lines.h"
#include "base/strings.h"
#include "client/fields.h"
#include "credentials.h"
#include "gateway_model.h"
#include "service_servers.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

Verdict unresolved(std::string_view reason, std::string message) {
  return {"ResolvedRefs", false, std::string(reason), std::move(message)};
}

bool isService(const json::object& ref) {
  const auto kind = text(ref, "kind");
  return text(ref, "group").empty() && (kind.empty() || kind == "Service");
}

}  // namespace

BackendResolver::BackendResolver(const GatewayDocuments& documents, Config& config)
    : documents_(documents), config_(config) {
  std::vector<ObjectPtr> sorted = documents.backendTlsPolicies;
  std::sort(sorted.begin(), sorted.end(), [](const ObjectPtr& a, const ObjectPtr& b) {
    return std::tuple(text(a->root(), {"metadata", "creationTimestamp"}), a->key()) <
           std::tuple(text(b->root(), {"metadata", "creationTimestamp"}), b->key());
  });
  for (const ObjectPtr& one : sorted) readPolicy(one);
}

void BackendResolver::readPolicy(const ObjectPtr& object) {
  Policy out{object, "", "", "", {}, true};
  const json::object& validation = client::object(object->root(), {"spec", "validation"});
  Verdict accepted{"Accepted", true, "Accepted", "the policy is accepted"};
  Verdict resolved{"ResolvedRefs", true, "ResolvedRefs", "what it refers to is there"};
  out.hostname = out.verifiedName = text(validation, "hostname");
  const json::array& names = array(validation, {"subjectAltNames"});
  if (names.size() == 1 && names[0].is_object() && text(names[0].get_object(), "type") == "Hostname")
    out.verifiedName = text(names[0].get_object(), "hostname");
  else if (!names.empty())
    accepted = {"Accepted", false, "Invalid", "of subjectAltNames one of type Hostname is served"};
  if (!isWord(out.hostname, "-.") || !isWord(out.verifiedName, "-."))
    accepted = {"Accepted", false, "Invalid", "a name of the backend is no hostname"};
  const json::array& refs = array(validation, {"caCertificateRefs"});
  eachObject(refs, [&](const json::object& ref) {
    if (!text(ref, "group").empty() || text(ref, "kind") != "ConfigMap") {
      resolved =
          unresolved("InvalidKind", fmt::format("authorities come from a ConfigMap, not from a {}", text(ref, "kind")));
      return;
    }
    ObjectPtr map = documents_.configMap(object->ns(), text(ref, "name"));
    auto pem = map ? authoritiesOfConfigMap(*map) : Result<std::string>(Error(Code::kNotFound, "it is not there"));
    if (pem.ok())
      out.authorities += *pem;
    else
      resolved = unresolved("InvalidCACertificateRef", fmt::format("the config map \"{}\" is not used: {}",
                                                                   text(ref, "name"), pem.error().message()));
  });
  if (refs.empty() && text(validation, "wellKnownCACertificates") != "System")
    accepted = {"Accepted", false, "Invalid",
                "it names no authority: caCertificateRefs, or wellKnownCACertificates System"};
  else if (!refs.empty() && out.authorities.empty())
    accepted = {"Accepted", false, "NoValidCACertificate", "no authority that it names can be used"};
  // The older has a target.
  eachObject(array(object->root(), {"spec", "targetRefs"}), [&](const json::object& ref) {
    const std::string target = fmt::format("{}/{}:{}", object->ns(), text(ref, "name"), text(ref, "sectionName"));
    if (!isService(ref))
      accepted = {"Accepted", false, "Invalid", "its targets are Services"};
    else if (auto [older, fresh] = targets_.emplace(target, policies_.size());
             !fresh && older->second != policies_.size())
      accepted = {"Accepted", false, "Conflicted",
                  fmt::format("the older policy \"{}\" has the same target", policies_[older->second].object->name())};
  });
  out.usable = accepted.status;
  out.verdicts = {std::move(accepted), std::move(resolved)};
  policies_.push_back(std::move(out));
}

// The one of the port before that of the whole service.
const BackendResolver::Policy* BackendResolver::policyOf(std::string_view ns, std::string_view service,
                                                         std::string_view port) const {
  for (std::string_view section : {port, std::string_view()}) {
    auto found = targets_.find(fmt::format("{}/{}:{}", ns, service, section));
    if (found != targets_.end()) return &policies_[found->second];
  }
  return nullptr;
}

ResolvedBackend BackendResolver::resolve(const Route& route, const json::object& ref) {
  ResolvedBackend out;
  const object::Object& object = *route.object;
  const std::string_view name = text(ref, "name");
  const std::string_view ns = text(ref, "namespace").empty() ? object.ns() : text(ref, "namespace");
  const int64_t number = client::number(ref, {"port"}, 0);
  if (!isService(ref)) {
    out.problem = unresolved("InvalidKind", fmt::format("a backend is a Service, not a {}", text(ref, "kind")));
    return out;
  }
  if (ns != object.ns() && !granted(documents_.grants, nameOf(route.kind), object.ns(), "", "Service", ns, name)) {
    out.problem = unresolved("RefNotPermitted",
                             fmt::format("no ReferenceGrant of namespace \"{}\" allows the service \"{}\"", ns, name));
    return out;
  }
  ObjectPtr service = documents_.service(ns, name);
  auto port = service ? findPort(*service, "", number) : std::nullopt;
  if (!service) {
    out.problem = unresolved("BackendNotFound", fmt::format("the service \"{}/{}\" is not there", ns, name));
  } else if (!port) {
    out.problem = unresolved("BackendNotFound", fmt::format("the service \"{}/{}\" has no port {}", ns, name, number));
  } else if (!port->externalName.empty()) {
    // It could name what its author may not reach (CVE-2021-25740).
    out.problem =
        unresolved("BackendNotFound", fmt::format("the service \"{}/{}\" is a name elsewhere: not served", ns, name));
  }
  if (out.problem) return out;
  out.name = fmt::format("{}_{}_{}", ns, name, number);
  out.address = addressOf(*service, number);
  Backend& backend = out.backend;
  backend.service = fmt::format("{}/{}", ns, name);
  backend.port = port->name;
  backend.servers = serversOf(documents_.slices(ns, name), port->name);
  backend.tcp = route.kind == RouteKind::kTls || route.kind == RouteKind::kTcp;
  if (backend.tcp) return out;
  backend.lines = loopLines(*service);
  if (const Policy* policy = policyOf(ns, name, port->name)) {
    out.unusable = !policy->usable;
    if (out.unusable) return out;
    std::string file = "system-ca";
    if (!policy->authorities.empty()) {
      file = fmt::format("ca_{}.pem", shortDigest(policy->authorities));
      config_.files.emplace(file, policy->authorities);
    }
    backend.serverOptions =
        fmt::format("ssl verify required ca-file @{} sni str({}) verifyhost {} alpn {}", file, policy->hostname,
                    policy->verifiedName, route.kind == RouteKind::kGrpc ? "h2" : "h2,http/1.1");
  } else {
    using Protocol = Annotations::Protocol;
    Protocol protocol = protocolOf(port->appProtocol);
    if (route.kind == RouteKind::kGrpc && protocol == Protocol::kHttp) protocol = Protocol::kGrpc;
    if (route.kind == RouteKind::kGrpc && protocol == Protocol::kHttps) protocol = Protocol::kGrpcs;
    backend.serverOptions = serverOptions(protocol, {});
  }
  return out;
}

std::vector<AttachmentVerdict> BackendResolver::policies(const std::vector<RouteModel>& routes) const {
  std::map<std::string, std::map<std::string, const Gateway*>> users;  // by service
  for (const RouteModel& route : routes)
    for (const Attachment& attachment : route.attachments)
      eachObject(array(route.spec(), {"rules"}), [&](const json::object& rule) {
        eachObject(array(rule, {"backendRefs"}), [&](const json::object& ref) {
          const auto ns = text(ref, "namespace").empty() ? route.route.object->ns() : text(ref, "namespace");
          if (isService(ref))
            users[fmt::format("{}/{}", ns, text(ref, "name"))].emplace(attachment.gateway->object->key(),
                                                                       attachment.gateway);
        });
      });
  std::vector<AttachmentVerdict> out;
  for (const Policy& policy : policies_) {
    AttachmentVerdict one{policy.object, {}};
    std::map<std::string, const Gateway*> all;
    eachObject(array(policy.object->root(), {"spec", "targetRefs"}), [&](const json::object& ref) {
      auto found = users.find(fmt::format("{}/{}", policy.object->ns(), text(ref, "name")));
      if (found != users.end() && isService(ref)) all.insert(found->second.begin(), found->second.end());
    });
    for (const auto& [key, gateway] : all)
      one.parents.push_back({{{"group", kGatewayGroup},
                              {"kind", "Gateway"},
                              {"namespace", gateway->object->ns()},
                              {"name", gateway->object->name()}},
                             policy.verdicts});
    out.push_back(std::move(one));
  }
  return out;
}

std::set<std::string> policyConfigMaps(const object::Object& policy) {
  std::set<std::string> out;
  eachObject(array(policy.root(), {"spec", "validation", "caCertificateRefs"}), [&](const json::object& ref) {
    if (text(ref, "group").empty() && text(ref, "kind") == "ConfigMap")
      out.insert(fmt::format("{}/{}", policy.ns(), text(ref, "name")));
  });
  return out;
}

}  // namespace dhow::ingress
