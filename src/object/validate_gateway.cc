// Rules of the Gateway API's kinds, as its custom resources' schemas and their CEL rules have them.
#include "base/strings.h"
#include "object/names.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

constexpr size_t kHostnames = 16;
constexpr size_t kRouteRules = 16;

bool isProtocol(std::string_view name) {
  for (std::string_view known : {"HTTP", "HTTPS", "TLS", "TCP", "UDP"})
    if (name == known) return true;
  return name.find('/') != std::string_view::npos;  // an implementation's own: example.com/bar
}

void hostname(const json::value& value, const std::string& at, Context& context) {
  if (!value.is_string()) return;
  std::string_view host = value.get_string();
  std::string problem = host.starts_with('*') ? checkWildcardDns1123Subdomain(host) : checkDns1123Subdomain(host);
  if (problem.empty() && checkIp(host).empty()) problem = "must be a DNS name, not an IP address";
  if (!problem.empty()) context.problems.invalid(at, value, problem);
}

void gatewayListener(const json::object& listener, const json::object*, Context& context) {
  std::string_view protocol = text(listener, "protocol");
  if (!protocol.empty() && !isProtocol(protocol))
    context.problems.notSupported(context.at("protocol"), json::value(protocol),
                                  {"HTTP", "HTTPS", "TLS", "TCP", "UDP"});
  if (const json::value* host = listener.if_contains("hostname")) {
    hostname(*host, context.at("hostname"), context);
    if ((protocol == "TCP" || protocol == "UDP") && host->is_string() && !host->get_string().empty())
      context.problems.invalid(context.path, "", "hostname must not be specified for protocols ['TCP', 'UDP']");
  }
  const json::object* tls = child(listener, "tls");
  if (tls && (protocol == "HTTP" || protocol == "TCP" || protocol == "UDP"))
    context.problems.invalid(context.path, "", "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']");
  if (!tls) {
    if (protocol == "HTTPS" || protocol == "TLS") context.problems.required(context.at("tls"));
    return;
  }
  const std::string_view mode = text(*tls, "mode");
  if (protocol == "HTTPS" && mode == "Passthrough")
    context.problems.invalid(context.path, "", "tls mode must be Terminate for protocol HTTPS");
  const json::array* certificates = list(*tls, "certificateRefs");
  const json::object* options = child(*tls, "options");
  if (mode != "Passthrough" && (!certificates || certificates->empty()) && (!options || options->empty()))
    context.problems.invalid(context.at("tls"), "",
                             "certificateRefs or options must be specified when mode is Terminate");
}

void hostnames(const json::object& spec, Context& context) {
  const json::array* hosts = list(spec, "hostnames");
  if (hosts && hosts->size() > kHostnames)
    context.problems.invalid(context.at("hostnames"), static_cast<int64_t>(hosts->size()),
                             "must have at most 16 items");
  for (size_t i = 0; hosts && i < hosts->size(); ++i)
    hostname((*hosts)[i], fmt::format("{}[{}]", context.at("hostnames"), i), context);
}

// What a rule redirects it does not send on, and no filter that only makes sense once is there twice.
void routeRules(const json::object& spec, Context& context) {
  const json::array* rules = list(spec, "rules");
  if (rules && rules->size() > kRouteRules)
    context.problems.invalid(context.at("rules"), static_cast<int64_t>(rules->size()), "must have at most 16 items");
  for (size_t i = 0; rules && i < rules->size(); ++i) {
    const json::object* rule = (*rules)[i].if_object();
    const json::array* filters = rule ? list(*rule, "filters") : nullptr;
    if (!filters) continue;
    const std::string at = fmt::format("{}[{}]", context.at("rules"), i);
    size_t redirects = 0, rewrites = 0;
    for (const json::value& filter : *filters) {
      std::string_view type = filter.is_object() ? text(filter.get_object(), "type") : "";
      redirects += type == "RequestRedirect" ? 1 : 0;
      rewrites += type == "URLRewrite" ? 1 : 0;
    }
    const json::array* backends = list(*rule, "backendRefs");
    if (redirects && backends && !backends->empty())
      context.problems.invalid(at, "", "RequestRedirect filter must not be used together with backendRefs");
    if (redirects && rewrites)
      context.problems.invalid(
          at + ".filters", "",
          "May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both");
    if (redirects > 1) context.problems.invalid(at + ".filters", "", "RequestRedirect filter cannot be repeated");
    if (rewrites > 1) context.problems.invalid(at + ".filters", "", "URLRewrite filter cannot be repeated");
  }
}

void httpRoute(const json::object& spec, const json::object*, Context& context) {
  hostnames(spec, context);
  routeRules(spec, context);
}

void tlsRoute(const json::object& spec, const json::object*, Context& context) {
  hostnames(spec, context);
}

// A filter has the field of its type, and no other.
void routeFilter(const json::object& filter, const json::object*, Context& context) {
  struct Pair {
    std::string_view type, field;
  };
  constexpr Pair pairs[] = {{"RequestHeaderModifier", "requestHeaderModifier"},
                            {"ResponseHeaderModifier", "responseHeaderModifier"},
                            {"RequestMirror", "requestMirror"},
                            {"RequestRedirect", "requestRedirect"},
                            {"URLRewrite", "urlRewrite"},
                            {"CORS", "cors"},
                            {"ExtensionRef", "extensionRef"}};
  std::string_view type = text(filter, "type");
  for (const Pair& pair : pairs) {
    const bool there = child(filter, pair.field) != nullptr;
    if (there && type != pair.type)
      context.problems.invalid(
          context.path, "", fmt::format("filter.{0} must be nil if the filter.type is not {1}", pair.field, pair.type));
    if (!there && type == pair.type)
      context.problems.invalid(context.path, "",
                               fmt::format("filter.{0} must be specified for {1} filter.type", pair.field, pair.type));
  }
}

void httpPathMatch(const json::object& match, const json::object*, Context& context) {
  std::string_view type = text(match, "type");
  std::string_view value = text(match, "value");
  if (type != "Exact" && type != "PathPrefix") return;
  if (!value.empty() && !value.starts_with('/'))
    context.problems.invalid(
        context.path, "", "value must be an absolute path and start with '/' when type one of ['Exact', 'PathPrefix']");
  for (std::string_view part : {"//", "/./", "/../", "%2f", "%2F", "#"})
    if (value.find(part) != std::string_view::npos)
      context.problems.invalid(context.path, "",
                               fmt::format("must not contain '{}' when type one of ['Exact', 'PathPrefix']", part));
  for (std::string_view end : {"/..", "/."})
    if (value.ends_with(end))
      context.problems.invalid(context.path, "",
                               fmt::format("must not end with '{}' when type one of ['Exact', 'PathPrefix']", end));
}

void httpRedirect(const json::object& redirect, const json::object*, Context& context) {
  const json::value* code = redirect.if_contains("statusCode");
  if (!code || !code->is_int64()) return;
  for (int64_t known : {301, 302, 303, 307, 308})
    if (code->get_int64() == known) return;
  context.problems.notSupported(context.at("statusCode"), *code, {"301", "302", "303", "307", "308"});
}

// GEP-2257: up to four pairs of digits and h, m, s or ms.
void routeTimeouts(const json::object& timeouts, const json::object*, Context& context) {
  for (std::string_view key : {"request", "backendRequest"}) {
    std::string_view text = rules::text(timeouts, key);
    if (text.empty()) continue;
    size_t at = 0, pairs = 0;
    bool good = true;
    while (good && at < text.size()) {
      size_t digits = 0;
      while (at < text.size() && text[at] >= '0' && text[at] <= '9') ++at, ++digits;
      const std::string_view rest = text.substr(at);
      const size_t unit =
          rest.starts_with("ms") ? 2 : rest.starts_with('h') || rest.starts_with('m') || rest.starts_with('s');
      good = digits > 0 && digits <= 5 && unit > 0 && ++pairs <= 4;
      at += unit;
    }
    if (!good)
      context.problems.invalid(context.at(key), json::value(text), "should match '^([0-9]{1,5}(h|m|s|ms)){1,4}$'");
  }
}

void gatewayClass(const json::object& spec, const json::object* before, Context& context) {
  const json::value name(text(spec, "controllerName"));
  std::string_view controller = name.get_string();
  if (before && text(*before, "controllerName") != controller)
    context.problems.invalid(context.at("controllerName"), name, "Value is immutable");
  const size_t slash = controller.find('/');
  if (!controller.empty() && (slash == std::string_view::npos || slash + 1 == controller.size() ||
                              !checkDns1123Subdomain(controller.substr(0, slash)).empty()))
    context.problems.invalid(context.at("controllerName"), name,
                             "must be a domain-prefixed path (such as \"acme.io/foo\")");
}

constexpr Entry kRules[] = {{"gatewayListener", gatewayListener},
                            {"httpRoute", httpRoute},
                            {"grpcRoute", httpRoute},
                            {"tlsRoute", tlsRoute},
                            {"routeFilter", routeFilter},
                            {"httpPathMatch", httpPathMatch},
                            {"httpRedirect", httpRedirect},
                            {"routeTimeouts", routeTimeouts},
                            {"gatewayClass", gatewayClass}};

}  // namespace

std::span<const Entry> gatewayRules() {
  return kRules;
}

}  // namespace dhow::object::rules
