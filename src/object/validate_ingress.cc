// Rules of Ingresses and IngressClasses, with Kubernetes' texts (pkg/apis/networking/validation).
#include "base/strings.h"
#include "object/names.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

constexpr size_t kControllerLimit = 250;

// A name of hosts: one, or all one label below.
std::string checkHost(std::string_view host) {
  return host.find('*') == std::string_view::npos ? checkDns1123Subdomain(host) : checkWildcardDns1123Subdomain(host);
}

void port(const json::object& service, const std::string& path, Context& context) {
  const json::object* port = child(service, "port");
  std::string_view name = port ? text(*port, "name") : "";
  const json::value* number = port ? port->if_contains("number") : nullptr;
  const bool numbered = number && number->is_int64() && number->get_int64() != 0;
  if (!name.empty() && numbered) {
    context.problems.invalid(path, "", "cannot set both port name & port number");
  } else if (!name.empty()) {
    if (std::string problem = checkPortName(name); !problem.empty())
      context.problems.invalid(path + ".service.port.name", json::value(name), problem);
  } else if (numbered) {
    if (std::string problem = checkPort(number->get_int64()); !problem.empty())
      context.problems.invalid(path + ".service.port.number", *number, problem);
  } else {
    context.problems.required(path, "port name or number is required");
  }
}

void backend(const json::object& backend, const std::string& path, Context& context) {
  const json::object* service = child(backend, "service");
  const json::object* resource = child(backend, "resource");
  if (service && resource) {
    context.problems.invalid(path, "", "cannot set both resource and service backends");
  } else if (resource) {
    for (std::string_view key : {"kind", "name"})
      if (text(*resource, key).empty()) context.problems.required(fmt::format("{}.resource.{}", path, key));
  } else if (service) {
    std::string_view name = text(*service, "name");
    if (name.empty())
      context.problems.required(path + ".service.name");
    else if (std::string problem = checkDns1035Label(name); !problem.empty())
      context.problems.invalid(path + ".service.name", json::value(name), problem);
    port(*service, path, context);
  } else {
    context.problems.invalid(path, "", "resource or service backend is required");
  }
}

void urlPath(const json::object& rule, const std::string& path, Context& context) {
  const json::value* type = rule.if_contains("pathType");
  if (!type || !type->is_string()) {
    context.problems.required(path + ".pathType", "pathType must be specified");
    return;
  }
  const json::value at(text(rule, "path"));
  std::string_view value = at.get_string();
  const std::string field = path + ".path";
  if (*type == "ImplementationSpecific") {
    if (!value.empty() && value[0] != '/') context.problems.invalid(field, at, "must be an absolute path");
  } else if (*type == "Exact" || *type == "Prefix") {
    if (!value.starts_with('/')) context.problems.invalid(field, at, "must be an absolute path");
    for (std::string_view part : {"//", "/./", "/../", "%2f", "%2F"})
      if (value.find(part) != std::string_view::npos)
        context.problems.invalid(field, at, fmt::format("must not contain '{}'", part));
    for (std::string_view end : {"/..", "/."})
      if (value.ends_with(end)) context.problems.invalid(field, at, fmt::format("cannot end with '{}'", end));
  } else {
    context.problems.notSupported(path + ".pathType", *type, {"Exact", "ImplementationSpecific", "Prefix"});
  }
}

void rule(const json::object& rule, const std::string& path, Context& context) {
  if (std::string_view host = text(rule, "host"); !host.empty()) {
    if (checkIp(host).empty())
      context.problems.invalid(path + ".host", json::value(host), "must be a DNS name, not an IP address");
    else if (std::string problem = checkHost(host); !problem.empty())
      context.problems.invalid(path + ".host", json::value(host), problem);
  }
  const json::object* http = child(rule, "http");
  if (!http) return;
  const json::array* paths = list(*http, "paths");
  if (!paths || paths->empty()) context.problems.required(path + ".http.paths");
  for (size_t i = 0; paths && i < paths->size(); ++i) {
    const json::object* one = (*paths)[i].if_object();
    if (!one) continue;
    const std::string at = fmt::format("{}.http.paths[{}]", path, i);
    urlPath(*one, at, context);
    static const json::object kNone;
    const json::object* to = child(*one, "backend");
    backend(to ? *to : kNone, at + ".backend", context);
  }
}

void ingressSpec(const json::object& spec, const json::object*, Context& context) {
  const json::array* rules = list(spec, "rules");
  const json::object* fallback = child(spec, "defaultBackend");
  if ((!rules || rules->empty()) && !fallback) {
    context.problems.invalid(context.path, json::value(json::array()),
                             "either `defaultBackend` or `rules` must be specified");
  }
  if (fallback) backend(*fallback, context.at("defaultBackend"), context);
  for (size_t i = 0; rules && i < rules->size(); ++i)
    if (const json::object* one = (*rules)[i].if_object())
      rule(*one, fmt::format("{}[{}]", context.at("rules"), i), context);
  const json::array* tls = list(spec, "tls");
  for (size_t i = 0; tls && i < tls->size(); ++i) {
    const json::object* one = (*tls)[i].if_object();
    if (!one) continue;
    const std::string at = fmt::format("{}[{}]", context.at("tls"), i);
    const json::array* hosts = list(*one, "hosts");
    for (size_t j = 0; hosts && j < hosts->size(); ++j) {
      if (!(*hosts)[j].is_string()) continue;
      if (std::string problem = checkHost((*hosts)[j].get_string()); !problem.empty())
        context.problems.invalid(fmt::format("{}.hosts[{}]", at, j), (*hosts)[j], problem);
    }
    std::string_view secret = text(*one, "secretName");
    if (std::string problem = secret.empty() ? "" : checkDns1123Subdomain(secret); !problem.empty())
      context.problems.invalid(at + ".secretName", json::value(secret), problem);
  }
  const json::value* name = spec.if_contains("ingressClassName");
  if (name && name->is_string())
    if (std::string problem = checkDns1123Subdomain(name->get_string()); !problem.empty())
      context.problems.invalid(context.at("ingressClassName"), *name, problem);
}

void ingress(const json::object& ingress, const json::object*, Context& context) {
  if (context.update) return;
  const json::object* metadata = child(ingress, "metadata");
  const json::object* annotations = metadata ? child(*metadata, "annotations") : nullptr;
  const json::value* name = annotations ? annotations->if_contains("kubernetes.io/ingress.class") : nullptr;
  const json::object* spec = child(ingress, "spec");
  const json::value* given = spec ? spec->if_contains("ingressClassName") : nullptr;
  if (name && given && !given->is_null())
    context.problems.invalid("annotations.kubernetes.io/ingress.class", *name,
                             "can not be set when the class field is also set");
}

void ingressClassSpec(const json::object& spec, const json::object* before, Context& context) {
  std::string_view controller = text(spec, "controller");
  const std::string at = context.at("controller");
  if (before && text(*before, "controller") != controller) {
    context.problems.invalid(at, json::value(controller), "field is immutable");
  } else if (controller.empty()) {
    context.problems.required(at);
  } else if (controller.size() > kControllerLimit) {
    context.problems.tooLong(at, kControllerLimit);
  } else {
    size_t slash = controller.find('/');
    if (slash == std::string_view::npos || slash + 1 == controller.size())
      context.problems.invalid(at, json::value(controller), "must be a domain-prefixed path (such as \"acme.io/foo\")");
    else if (std::string problem = checkDns1123Subdomain(controller.substr(0, slash)); !problem.empty())
      context.problems.invalid(at, json::value(controller), problem);
  }
  const json::object* parameters = child(spec, "parameters");
  if (!parameters) return;
  const std::string path = context.at("parameters");
  for (std::string_view key : {"kind", "name"})
    if (text(*parameters, key).empty()) context.problems.required(path + "." + std::string(key));
  std::string_view scope = text(*parameters, "scope");
  const json::value* ns = parameters->if_contains("namespace");
  if (scope == "Namespace" && (!ns || !ns->is_string() || ns->get_string().empty()))
    context.problems.required(path + ".namespace", "`parameters.scope` is set to 'Namespace'");
  else if (scope == "Cluster" && ns && !ns->is_null())
    context.problems.forbidden(path + ".namespace", "`parameters.scope` is set to 'Cluster'");
  else if (scope != "Namespace" && scope != "Cluster")
    context.problems.notSupported(path + ".scope", json::value(scope), {"Cluster", "Namespace"});
}

constexpr Entry kRules[] = {{"ingress", ingress}, {"ingressSpec", ingressSpec}, {"ingressClassSpec", ingressClassSpec}};

}  // namespace

std::span<const Entry> ingressRules() {
  return kRules;
}

}  // namespace dhow::object::rules
