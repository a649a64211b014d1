#include <algorithm>

#include "base/digest.h"
#include "base/strings.h"
#include "client/fields.h"
#include "credentials.h"
#include "gateway_model.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

constexpr std::string_view kErrorPages = "dhow.io/error-pages";
constexpr size_t kMostListeners = 64;  // by the specification

Verdict no(std::string_view type, std::string_view reason, std::string message) {
  return {std::string(type), false, std::string(reason), std::move(message)};
}

// A reference to an object of its own namespace or of another.
struct Ref {
  std::string group, kind, ns, name;
};
Ref refOf(const json::object& ref, std::string_view ns, std::string_view kind) {
  Ref out{std::string(text(ref, "group")), std::string(text(ref, "kind")), std::string(text(ref, "namespace")),
          std::string(text(ref, "name"))};
  if (out.kind.empty()) out.kind = kind;
  if (out.ns.empty()) out.ns = ns;
  return out;
}

bool mayUse(const object::Object& gateway, const Ref& ref, const std::vector<ObjectPtr>& grants) {
  return ref.ns == gateway.ns() || granted(grants, "Gateway", gateway.ns(), "", ref.kind, ref.ns, ref.name);
}

// What validates clients at a port, if anything does.
const json::object* clientValidation(const json::object& gateway, uint16_t port) {
  const json::object& frontend = client::object(gateway, {"spec", "tls", "frontend"});
  const json::object* tls = &client::object(frontend, {"default"});
  eachObject(array(frontend, {"perPort"}), [&](const json::object& one) {
    if (number(one, {"port"}, 0) == port) tls = &client::object(one, {"tls"});
  });
  const json::object& validation = client::object(*tls, {"validation"});
  return validation.empty() ? nullptr : &validation;
}

std::vector<RouteKind> kindsFor(const GatewayListener& listener) {
  if (listener.isHttp()) return {RouteKind::kHttp, RouteKind::kGrpc};
  if (listener.protocol == "TLS" && listener.passthrough) return {RouteKind::kTls};
  if (listener.protocol == "TLS") return {RouteKind::kTls, RouteKind::kTcp};
  if (listener.protocol == "TCP") return {RouteKind::kTcp};
  return {};
}

void readKinds(GatewayListener& listener) {
  const std::vector<RouteKind> supported = kindsFor(listener);
  const json::array& asked = array(*listener.spec, {"allowedRoutes", "kinds"});
  if (asked.empty()) {
    listener.kinds = supported;
    return;
  }
  std::vector<std::string> others;
  eachObject(asked, [&](const json::object& one) {
    const auto group = client::has(one, {"group"}) ? text(one, "group") : kGatewayGroup;
    auto found = std::find_if(supported.begin(), supported.end(), [&](RouteKind kind) {
      return group == kGatewayGroup && nameOf(kind) == text(one, "kind");
    });
    if (found == supported.end())
      others.emplace_back(text(one, "kind"));
    else if (std::find(listener.kinds.begin(), listener.kinds.end(), *found) == listener.kinds.end())
      listener.kinds.push_back(*found);
  });
  if (!others.empty())
    listener.resolved =
        no("ResolvedRefs", "InvalidRouteKinds",
           fmt::format("not served by a listener of protocol {}: {}", listener.protocol, join(others, ", ")));
}

void readCertificates(GatewayListener& listener, const object::Object& gateway, const GatewayDocuments& documents) {
  auto problem = [&](std::string_view reason, std::string message) {
    listener.resolved = no("ResolvedRefs", reason, std::move(message));
  };
  const json::array& refs = array(*listener.spec, {"tls", "certificateRefs"});
  if (refs.empty()) problem("InvalidCertificateRef", "it names no certificate");
  eachObject(refs, [&](const json::object& one) {
    const Ref ref = refOf(one, gateway.ns(), "Secret");
    if (!ref.group.empty() || ref.kind != "Secret") {
      problem("InvalidCertificateRef", fmt::format("a certificate comes from a Secret, not from a {}", ref.kind));
      return;
    }
    if (!mayUse(gateway, ref, documents.grants)) {
      problem("RefNotPermitted",
              fmt::format("no ReferenceGrant of namespace \"{}\" allows the secret \"{}\"", ref.ns, ref.name));
      return;
    }
    ObjectPtr secret = documents.secret(ref.ns, ref.name);
    if (!secret) {
      problem("InvalidCertificateRef", fmt::format("the secret \"{}/{}\" is not there", ref.ns, ref.name));
      return;
    }
    auto pem = certificateOf(*secret);
    if (!pem.ok()) {
      problem("InvalidCertificateRef",
              fmt::format("the secret \"{}/{}\" is not used: {}", ref.ns, ref.name, pem.error().message()));
      return;
    }
    listener.certificates.push_back(std::move(*pem));
  });
}

// Clients that must show a certificate, and whose authorities are not known, are not served.
void readClientAuthorities(GatewayListener& listener, const object::Object& gateway,
                           const GatewayDocuments& documents) {
  const json::object* validation = clientValidation(gateway.root(), listener.port);
  if (validation == nullptr) return;
  if (text(*validation, "mode") == "AllowInsecureFallback") {
    listener.accepted = no("Accepted", "UnsupportedValue", "AllowInsecureFallback is not served");
    return;
  }
  eachObject(array(*validation, {"caCertificateRefs"}), [&](const json::object& one) {
    const Ref ref = refOf(one, gateway.ns(), "ConfigMap");
    if (!ref.group.empty() || ref.kind != "ConfigMap") {
      listener.resolved = no("ResolvedRefs", "InvalidCACertificateKind",
                             fmt::format("authorities come from a ConfigMap, not from a {}", ref.kind));
      return;
    }
    if (!mayUse(gateway, ref, documents.grants)) {
      listener.resolved =
          no("ResolvedRefs", "RefNotPermitted",
             fmt::format("no ReferenceGrant of namespace \"{}\" allows the config map \"{}\"", ref.ns, ref.name));
      return;
    }
    ObjectPtr map = documents.configMap(ref.ns, ref.name);
    auto pem = map ? authoritiesOfConfigMap(*map) : Result<std::string>(Error(Code::kNotFound, "it is not there"));
    if (pem.ok())
      listener.clientAuthorities += *pem;
    else
      listener.resolved =
          no("ResolvedRefs", "InvalidCACertificateRef",
             fmt::format("the config map \"{}/{}\" is not used: {}", ref.ns, ref.name, pem.error().message()));
  });
  if (listener.clientAuthorities.empty())
    listener.accepted = no("Accepted", "NoValidCACertificate", "no authority of clients' certificates can be used");
}

GatewayListener readListener(const json::object& spec, const object::Object& gateway,
                             const GatewayDocuments& documents) {
  GatewayListener out;
  out.spec = &spec;
  out.name = text(spec, "name");
  out.hostname = text(spec, "hostname");
  out.protocol = text(spec, "protocol");
  out.port = static_cast<uint16_t>(std::clamp<int64_t>(number(spec, {"port"}, 0), 0, UINT16_MAX));
  out.passthrough = text(spec, {"tls", "mode"}) == "Passthrough";
  if (kindsFor(out).empty()) {
    out.accepted = no("Accepted", "UnsupportedProtocol", fmt::format("protocol {} is not served", out.protocol));
    return out;
  }
  readKinds(out);
  if (out.endsTls()) {
    readCertificates(out, gateway, documents);
    readClientAuthorities(out, gateway, documents);
  }
  return out;
}

// What must be the same of all listeners of one port.
std::string transport(const GatewayListener& listener) {
  if (listener.protocol == "TLS") return listener.passthrough ? "TLS (Passthrough)" : "TLS (Terminate)";
  return listener.protocol;
}

void findConflicts(std::vector<GatewayListener>& listeners) {
  for (size_t i = 0; i < listeners.size(); ++i)
    for (size_t j = 0; j < listeners.size(); ++j) {
      GatewayListener& a = listeners[i];
      const GatewayListener& b = listeners[j];
      if (i == j || a.port != b.port || kindsFor(a).empty() || kindsFor(b).empty()) continue;
      std::string_view reason;
      if (transport(a) != transport(b) || a.protocol == "TCP")
        reason = "ProtocolConflict";
      else if (a.hostname == b.hostname)
        reason = "HostnameConflict";
      else
        continue;
      a.conflicted = {"Conflicted", true, std::string(reason),
                      fmt::format("the listener \"{}\" wants port {}, too", b.name, b.port)};
      a.accepted = no("Accepted", reason, a.conflicted.message);
    }
}

void judge(Gateway& gateway) {
  const json::object& spec = client::object(gateway.object->root(), {"spec"});
  const json::array& addresses = array(spec, {"addresses"});
  std::vector<std::string> invalid, unresolved;
  for (const GatewayListener& listener : gateway.listeners) {
    if (!listener.accepted.status) invalid.push_back(listener.name);
    if (!listener.resolved.status) unresolved.push_back(listener.name);
  }
  if (client::has(spec, {"infrastructure", "parametersRef"})) {
    gateway.accepted = no("Accepted", "InvalidParameters", "gateways of this class have no parameters");
  } else if (addresses.size() > 1) {
    gateway.accepted = no("Accepted", "UnsupportedAddress", "a gateway has one address");
  } else if (!addresses.empty() && addresses[0].is_object() && client::has(addresses[0].get_object(), {"type"}) &&
             text(addresses[0].get_object(), "type") != "IPAddress") {
    gateway.accepted = no("Accepted", "UnsupportedAddress", "an address is of type IPAddress");
  } else if (!invalid.empty()) {
    gateway.accepted = {"Accepted", invalid.size() < gateway.listeners.size(), "ListenersNotValid",
                        "not served: " + join(invalid, ", ")};
  }
  if (client::has(spec, {"tls", "backend", "clientCertificateRef"}))
    gateway.resolved = no("ResolvedRefs", "InvalidClientCertificateRef", "gateways show backends no certificate");
  else if (!unresolved.empty())
    gateway.resolved = no("ResolvedRefs", "ListenersNotResolved", "listeners: " + join(unresolved, ", "));
}

void readErrorPages(Gateway& gateway, const GatewayDocuments& documents, Files& files) {
  const std::string_view name = gateway.object->annotation(kErrorPages);
  if (name.empty()) return;
  std::vector<std::string> problems;
  if (ObjectPtr map = documents.configMap(gateway.object->ns(), name))
    gateway.pages = errorPagesOf(*map, files, problems);
  else
    problems.push_back(fmt::format("the config map \"{}\" that {} names is not there", name, kErrorPages));
  if (!problems.empty() && gateway.resolved.status)
    gateway.resolved = no("ResolvedRefs", "InvalidErrorPages", join(problems, "; "));
}

void readForwarders(Gateway& gateway) {
  ParsedRanges parsed = parseRanges(*gateway.object, kForwardedHeadersFrom);
  gateway.forwarders = std::move(parsed.ranges);
  if (!parsed.problem.empty() && gateway.resolved.status)
    gateway.resolved = no("ResolvedRefs", "InvalidAnnotation", std::move(parsed.problem));
}

}  // namespace

bool granted(const std::vector<ObjectPtr>& grants, std::string_view kind, std::string_view from,
             std::string_view toGroup, std::string_view toKind, std::string_view ns, std::string_view name) {
  for (const ObjectPtr& grant : grants) {
    if (grant->ns() != ns) continue;
    bool isFrom = false, isTo = false;
    eachObject(array(grant->root(), {"spec", "from"}), [&](const json::object& one) {
      isFrom = isFrom ||
               (text(one, "group") == kGatewayGroup && text(one, "kind") == kind && text(one, "namespace") == from);
    });
    eachObject(array(grant->root(), {"spec", "to"}), [&](const json::object& one) {
      const auto only = text(one, "name");
      isTo = isTo || (text(one, "group") == toGroup && text(one, "kind") == toKind && (only.empty() || only == name));
    });
    if (isFrom && isTo) return true;
  }
  return false;
}

Gateway readGateway(const ObjectPtr& object, const GatewayDocuments& documents, Files& files) {
  Gateway out;
  out.object = object;
  const json::array& listeners = array(object->root(), {"spec", "listeners"});
  eachObject(listeners, [&](const json::object& listener) {
    if (out.listeners.size() < kMostListeners) out.listeners.push_back(readListener(listener, *object, documents));
  });
  findConflicts(out.listeners);
  judge(out);
  if (listeners.size() > kMostListeners)
    out.accepted = no("Accepted", "Invalid", fmt::format("a gateway has at most {} listeners", kMostListeners));
  if (ObjectPtr service = documents.service(kGatewayServiceNamespace, gatewayService(*object)))
    out.nodePorts = nodePortsOf(*service);
  readErrorPages(out, documents, files);
  readForwarders(out);
  return out;
}

std::string gatewayService(const object::Object& gateway) {
  return "dhow-gateway-" + sha256Hex(gateway.key()).substr(0, 16);
}

std::map<uint16_t, uint16_t> nodePortsOf(const object::Object& service) {
  std::map<uint16_t, uint16_t> out;
  eachObject(array(service.root(), {"spec", "ports"}), [&](const json::object& port) {
    const int64_t own = number(port, {"port"}, 0), target = number(port, {"targetPort"}, 0);
    if (own > 0 && own <= UINT16_MAX && target >= kFirstGatewayPort && target <= kLastGatewayPort)
      out[static_cast<uint16_t>(own)] = static_cast<uint16_t>(target);
  });
  return out;
}

std::set<std::string> gatewaySecrets(const object::Object& gateway, const std::vector<ObjectPtr>& grants) {
  std::set<std::string> out;
  eachObject(array(gateway.root(), {"spec", "listeners"}), [&](const json::object& listener) {
    eachObject(array(listener, {"tls", "certificateRefs"}), [&](const json::object& one) {
      const Ref ref = refOf(one, gateway.ns(), "Secret");
      if (ref.group.empty() && ref.kind == "Secret" && mayUse(gateway, ref, grants))
        out.insert(ref.ns + "/" + ref.name);
    });
  });
  return out;
}

std::set<std::string> gatewayConfigMaps(const object::Object& gateway, const std::vector<ObjectPtr>& grants) {
  std::set<std::string> out;
  if (const std::string_view name = gateway.annotation(kErrorPages); !name.empty())
    out.insert(fmt::format("{}/{}", gateway.ns(), name));
  eachObject(array(gateway.root(), {"spec", "listeners"}), [&](const json::object& listener) {
    const auto port = static_cast<uint16_t>(number(listener, {"port"}, 0));
    const json::object* validation = clientValidation(gateway.root(), port);
    if (validation == nullptr) return;
    eachObject(array(*validation, {"caCertificateRefs"}), [&](const json::object& one) {
      const Ref ref = refOf(one, gateway.ns(), "ConfigMap");
      if (ref.group.empty() && ref.kind == "ConfigMap" && mayUse(gateway, ref, grants))
        out.insert(ref.ns + "/" + ref.name);
    });
  });
  return out;
}

}  // namespace dhow::ingress
