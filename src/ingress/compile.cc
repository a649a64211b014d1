#include "ingress/compile.h"

#include <arpa/inet.h>

#include <algorithm>

#include "backend_lines.h"
#include "base/digest.h"
#include "base/strings.h"
#include "client/fields.h"
#include "credentials.h"
#include "external_name.h"
#include "filter_lines.h"
#include "patterns.h"
#include "service_servers.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

namespace json = boost::json;

constexpr std::string_view kAllHosts = "*";
constexpr const char* kFrontend = "i";  // Ingresses share one, with both their ports
constexpr std::string_view kSitePrefix = "i|";
constexpr size_t kUsersDigest = 32;  // long enough that nobody finds a list of the same name as another's

class Compiler {
 public:
  explicit Compiler(const Documents& documents) : documents_(documents) {}
  Compiled run();

 private:
  struct Source {
    ObjectPtr ingress;
    ParsedAnnotations annotations;
    std::set<std::string> tlsHosts;
    std::string users, clientCertificates;  // names of what its lines need
    std::vector<ErrorPage> pages;
    std::string mirror, defaultBackend;  // "address:port" of services
    BackendTls backendTls;
  };
  void problem(const Source& source, std::string_view reason, std::string message) {
    out_.problems.push_back({source.ingress, std::string(reason), std::move(message)});
  }
  void certificates(Source& source);
  void protection(Source& source);
  void backendTls(Source& source, const ObjectPtr& secret);
  void errorPages(Source& source);
  void mirror(Source& source);
  void defaultBackend(Source& source);
  void rules(Source& source);
  void proxies();
  void paths(Source& source, const std::string& host, const json::array& paths);
  void path(Source& source, const std::string& host, const json::object& entry);
  void canary(const Source& source, const std::string& key, bool exact, const std::string& host,
              const std::string& path, const std::string& route);
  std::string site(const std::string& host);
  std::string notFoundPage(const Source& source);
  void elsewhere(const Source& source, const ServicePort& port, Backend& backend);
  struct Section {
    std::string route;
    Backend* backend;
  };
  Section section(const Source& source, const std::string& label, const Place& place,
                  const std::optional<ServicePort>& port, const ObjectPtr& service);
  std::string routeTo(const Source& source, const json::object& backend, Place place);
  std::string defaultRoute(const Source& source, Place place);
  Place placeOf(const Source& source, const std::string& host, const std::string& path) const;
  bool take(const Source& source, std::map<std::string, std::string>& map, const std::string& key,
            const std::string& route, const std::string& host, const std::string& path);

  const Documents& documents_;
  Compiled out_;
  Frontend frontend_;
  std::map<std::string, std::string> owners_;                   // of a route's place -> Ingress
  std::vector<std::pair<std::string, std::string>> fallbacks_;  // site, route: after all rules
  struct Pattern {
    std::string site, path, route;
  };
  std::vector<Pattern> patterns_;
};

std::string Compiler::site(const std::string& host) {
  std::string name = std::string(kSitePrefix) + (host.empty() ? std::string(kAllHosts) : host);
  out_.config.sites.emplace(name, name);
  return name;
}

void Compiler::certificates(Source& source) {
  const ObjectPtr& ingress = source.ingress;
  std::string options;
  if (!source.clientCertificates.empty()) options = "verify optional ca-file @" + source.clientCertificates;
  for (const auto& value : array(ingress->root(), {"spec", "tls"})) {
    if (!value.is_object()) continue;
    std::vector<std::string> hosts = client::strings(array(value.get_object(), {"hosts"}));
    const std::string secretName(text(value.get_object(), "secretName"));
    std::sort(hosts.begin(), hosts.end());
    for (const std::string& host : hosts) source.tlsHosts.insert(host);
    if (hosts.empty()) {
      for (const auto& rule : array(ingress->root(), {"spec", "rules"}))
        if (rule.is_object()) source.tlsHosts.emplace(text(rule.get_object(), "host"));
    }
    if (secretName.empty()) continue;  // the node's own certificate
    ObjectPtr secret = documents_.secret(ingress->ns(), secretName);
    if (!secret) {
      problem(source, "SecretMissing",
              fmt::format("the secret \"{}\" is not there: a self-signed certificate stands in for it", secretName));
      continue;
    }
    auto pem = certificateOf(*secret);
    if (!pem.ok()) {
      problem(source, "CertificateInvalid",
              fmt::format("the secret \"{}\" is not used, a self-signed certificate stands in for it: {}", secretName,
                          pem.error().message()));
      continue;
    }
    Certificate certificate{std::move(*pem), options, hosts, kFrontend};
    const std::string name =
        fmt::format("{}_{}_{}.pem", ingress->ns(), secretName, shortDigest(join(hosts, ",") + options));
    out_.config.certificates.emplace(name, std::move(certificate));
  }
}

// Users and authorities come first: without them nothing is served that asks for them.
void Compiler::protection(Source& source) {
  Annotations& a = source.annotations.values;
  auto secretNamed = [&](std::string_view name, std::string_view annotation) -> ObjectPtr {
    if (auto parts = splitOnce(name, '/')) {
      if (parts->first != source.ingress->ns()) {
        a.closed = fmt::format("{} names a secret of another namespace", annotation);
        return nullptr;
      }
      name = parts->second;
    }
    ObjectPtr secret = documents_.secret(source.ingress->ns(), name);
    if (!secret) a.closed = fmt::format("the secret \"{}\" that {} names is not there", name, annotation);
    return secret;
  };
  if (!a.authSecret.empty()) {
    if (ObjectPtr secret = secretNamed(a.authSecret, "auth-secret")) {
      std::vector<std::string> problems;
      auto users = usersOf(*secret, a.authMap, problems);
      for (std::string& one : problems) problem(source, "AnnotationInvalid", std::move(one));
      if (users.ok()) {
        source.users = kUsersPrefix + sha256Hex(*users).substr(0, kUsersDigest);
        out_.config.files.emplace(source.users, std::move(*users));
      } else {
        a.closed = fmt::format("the secret \"{}\": {}", a.authSecret, users.error().message());
      }
    }
  }
  if (!a.clientCertificateSecret.empty() && a.clientCertificate != Annotations::Verify::kOff) {
    if (ObjectPtr secret = secretNamed(a.clientCertificateSecret, "auth-tls-secret")) {
      auto authorities = authoritiesOf(*secret);
      if (authorities.ok()) {
        source.clientCertificates = fmt::format("ca_{}.pem", shortDigest(*authorities));
        out_.config.files.emplace(source.clientCertificates, std::move(*authorities));
      } else {
        a.closed = fmt::format("the secret \"{}\": {}", a.clientCertificateSecret, authorities.error().message());
      }
    }
  }
  if (!a.backendSecret.empty() || a.verifyBackends)
    backendTls(source, secretNamed(a.backendSecret, "proxy-ssl-secret"));
  if (!a.closed.empty()) problem(source, "IngressClosed", fmt::format("nothing is served but 503: {}", a.closed));
}

void Compiler::backendTls(Source& source, const ObjectPtr& secret) {
  Annotations& a = source.annotations.values;
  if (!secret) return;
  if (a.verifyBackends) {
    auto authorities = authoritiesOf(*secret);
    if (!authorities.ok()) {
      a.closed = fmt::format("the secret \"{}\": {}", a.backendSecret, authorities.error().message());
      return;
    }
    source.backendTls.authorities = fmt::format("ca_{}.pem", shortDigest(*authorities));
    out_.config.files.emplace(source.backendTls.authorities, std::move(*authorities));
  }
  if (client::text(secret->root(), {"data", "tls.crt"}).empty()) return;
  auto certificate = certificateOf(*secret);
  if (!certificate.ok()) {
    problem(
        source, "CertificateInvalid",
        fmt::format("the secret \"{}\" is not shown to backends: {}", a.backendSecret, certificate.error().message()));
    return;
  }
  source.backendTls.certificate = fmt::format("own_{}.pem", shortDigest(*certificate));
  out_.config.files.emplace(source.backendTls.certificate, std::move(*certificate));
}

void Compiler::errorPages(Source& source) {
  const std::string& name = source.annotations.values.errorPages;
  if (name.empty()) return;
  ObjectPtr map = documents_.configMap(source.ingress->ns(), name);
  if (!map) {
    problem(source, "ConfigMapMissing", fmt::format("the config map \"{}\" that error-pages names is not there", name));
    return;
  }
  std::vector<std::string> problems;
  source.pages = errorPagesOf(*map, out_.config.files, problems);
  for (std::string& one : problems) problem(source, "ErrorPageInvalid", std::move(one));
}

void Compiler::mirror(Source& source) {
  const auto& asked = source.annotations.values.mirror;
  if (!asked) return;
  ObjectPtr service = documents_.service(source.ingress->ns(), asked->service);
  source.mirror = service ? addressOf(*service, asked->port) : "";
  if (source.mirror.empty())
    problem(source, "ServiceMissing",
            fmt::format("the service \"{}\" that mirror-target names has no address with port {}", asked->service,
                        asked->port));
}

void Compiler::defaultBackend(Source& source) {
  const Annotations& a = source.annotations.values;
  if (a.defaultBackend.empty()) {
    if (!a.customErrors.empty())
      problem(source, "AnnotationInvalid",
              "the annotation nginx.ingress.kubernetes.io/custom-http-errors is not used: "
              "nginx.ingress.kubernetes.io/default-backend, which is asked instead, is missing beside it");
    return;
  }
  ObjectPtr service = documents_.service(source.ingress->ns(), a.defaultBackend);
  source.defaultBackend = service ? addressOf(*service, firstPort(*service)) : "";
  if (source.defaultBackend.empty())
    problem(source, "ServiceMissing",
            fmt::format("the service \"{}\" that default-backend names has no address", a.defaultBackend));
}

// What answers where an Ingress has a page for what none of its paths is for.
std::string Compiler::notFoundPage(const Source& source) {
  auto answer = errorPageAnswer(source.pages, 404);
  if (!answer) return "";
  Backend out;
  out.lines = {*std::move(answer)};
  const std::string id = "r_" + shortDigest(out.lines[0]);
  out_.config.backends.emplace(id, std::move(out));
  return ingress::routeOf(id, "Ingress", source.ingress->key());
}

Place Compiler::placeOf(const Source& source, const std::string& host, const std::string& path) const {
  Place place;
  const Annotations& a = source.annotations.values;
  place.key = source.ingress->key();
  place.tls = source.tlsHosts.contains(host);
  place.root = path == "/" || path.empty();
  if (!a.rewriteTarget.empty() || !a.backendPathPrefix.empty()) place.path = path;
  place.users = source.users;
  place.clientCertificates = source.clientCertificates;
  place.pages = source.pages;
  place.mirror = source.mirror;
  return place;
}

// A service of type ExternalName.
void Compiler::elsewhere(const Source& source, const ServicePort& port, Backend& backend) {
  const std::string& name = port.externalName;
  // No other controller follows one, and here it might be the node's own.
  if (unsigned char bytes[4]; ::inet_pton(AF_INET, name.c_str(), bytes) == 1) {
    problem(source, "BackendNotServed", fmt::format("the externalName \"{}\" is an address and no name", name));
    return;
  }
  if (!isWord(name, "-._")) {
    problem(source, "BackendNotServed", fmt::format("the externalName \"{}\" is no name", name));
    return;
  }
  // A node may reach nothing by IPv6, which HAProxy would prefer.
  externalNameLines(backend.lines, name, port.number, documents_.ipv6Alone ? "ipv6" : "ipv4", backend.serverOptions,
                    out_.config.files);
}

// The route to the backend, which is made when it is not there yet.
std::string Compiler::routeTo(const Source& source, const json::object& backend, Place place) {
  const std::string_view name = text(backend, {"service", "name"});
  if (name.empty()) {
    problem(source, "BackendNotServed", "a backend that is no service is answered with 503");
    return section(source, "none", place, std::nullopt, nullptr).route;
  }
  const std::string portName(text(backend, {"service", "port", "name"}));
  const int64_t portNumber = number(backend, {"service", "port", "number"}, 0);
  const std::string portText = portName.empty() ? std::to_string(portNumber) : portName;
  const ObjectPtr service = documents_.service(source.ingress->ns(), name);
  const auto port = service ? findPort(*service, portName, portNumber) : std::nullopt;
  if (!service)
    problem(source, "ServiceMissing", fmt::format("the service \"{}\" is not there", name));
  else if (!port)
    problem(source, "ServiceMissing", fmt::format("the service \"{}\" has no port {}", name, portText));
  if (!source.defaultBackend.empty())
    place.errors =
        ErrorBackend{source.annotations.values.customErrors, source.defaultBackend, std::string(source.ingress->ns()),
                     std::string(source.ingress->name()),    std::string(name),     portText};
  const Section own =
      section(source, fmt::format("{}_{}_{}", source.ingress->ns(), name, portText), place, port, service);
  if (!place.errors || (port && !port->externalName.empty())) return own.route;
  const std::string instead = defaultRoute(source, place);
  own.backend->replaceable = true;
  return own.backend->served() ? own.route : instead;
}

// Where requests go while no pod of their own service is there.
std::string Compiler::defaultRoute(const Source& source, Place place) {
  const std::string& name = source.annotations.values.defaultBackend;
  const ObjectPtr service = documents_.service(source.ingress->ns(), name);
  const int64_t number = firstPort(*service);
  place.instead = std::exchange(place.errors, std::nullopt);
  return section(source, fmt::format("{}_{}_{}", source.ingress->ns(), name, number), place,
                 findPort(*service, "", number), service)
      .route;
}

// A section that leads to the service, or answers 503 where there is none.
Compiler::Section Compiler::section(const Source& source, const std::string& label, const Place& place,
                                    const std::optional<ServicePort>& port, const ObjectPtr& service) {
  const Annotations& a = source.annotations.values;
  Backend out;
  out.lines = backendLines(a, place, out_.config.files);
  if (port) {
    const std::vector<std::string> guard = loopLines(*service);
    out.lines.insert(out.lines.begin(), guard.begin(), guard.end());
    out.serverOptions = serverOptions(a.protocol.value_or(protocolOf(port->appProtocol)), a, source.backendTls);
    if (!port->externalName.empty()) {
      elsewhere(source, *port, out);
    } else {
      out.service = fmt::format("{}/{}", source.ingress->ns(), service->name());
      out.port = port->name;
      out.servers = serversOf(documents_.slices(source.ingress->ns(), service->name()), port->name);
      if (a.affinity) {
        out.sessions.emplace(kTablePrefix + shortDigest(fmt::format("{}|{}|{}|{}", source.ingress->key(), out.service,
                                                                    out.port, a.affinity->name)),
                             a.affinity->idle);
        for (std::string& line : sessionLines(*a.affinity, out.sessions->table)) out.lines.push_back(std::move(line));
      }
    }
  }
  std::string content = join(out.lines, "\n") + "\n" + out.serverOptions;
  if (out.sessions) content += fmt::format("\n{}", out.sessions->idle);
  const std::string id = fmt::format("b_{}_{}", label, shortDigest(content));
  Backend& there = out_.config.backends.emplace(id, std::move(out)).first->second;
  return {ingress::routeOf(id, "Ingress", source.ingress->key()), &there};
}

bool Compiler::take(const Source& source, std::map<std::string, std::string>& map, const std::string& key,
                    const std::string& route, const std::string& host, const std::string& path) {
  auto [at, fresh] = map.emplace(key, route);
  if (fresh) {
    owners_[key] = source.ingress->key();
    return true;
  }
  const std::string& owner = owners_[key];
  if (owner != source.ingress->key())
    problem(source, "Conflict",
            fmt::format("host \"{}\" and path \"{}\" are served by the older Ingress \"{}\"", host.empty() ? "*" : host,
                        path, owner));
  return false;
}

// Requests that a canary gets of a route that is there already.
void Compiler::canary(const Source& source, const std::string& key, bool exact, const std::string& host,
                      const std::string& path, const std::string& route) {
  auto& map = exact ? out_.config.exact : out_.config.prefixes;
  auto found = map.find(key);
  if (found == map.end()) {
    problem(source, "CanaryAlone",
            fmt::format("no other Ingress serves host \"{}\" and path \"{}\"", host.empty() ? "*" : host, path));
    return;
  }
  const Annotations::Canary& canary = *source.annotations.values.canary;
  const std::string main = found->second;
  std::string rest = main;
  if (canary.weight > 0) {
    const int share = std::min(kShares, (canary.weight * kShares + canary.total / 2) / canary.total);
    rest = "split:" + shortDigest(key + source.ingress->key());
    for (int i = 0; i < kShares; ++i) out_.config.splits[fmt::format("{}:{}", rest, i)] = i < share ? route : main;
  }
  if (canary.header.empty() && canary.cookie.empty()) {
    found->second = rest;
    return;
  }
  const std::string choice = "choice:" + shortDigest(key + "|" + route + rest);
  found->second = choice;
  const std::string mine = fmt::format("{{ var(txn.to) -m str {} }}", choice);
  auto choose = [&](const std::string& to, const std::string& condition) {
    frontend_.afterPrefixes.push_back(
        fmt::format("http-request set-var(txn.to) str({}) if {} {}", to, mine, condition));
  };
  if (!canary.header.empty()) {
    if (!canary.headerValue.empty()) {
      choose(route, fmt::format("{{ req.hdr({}) -m str {} }}", canary.header, quoted(canary.headerValue)));
    } else if (!canary.headerPattern.empty() && isPattern(canary.headerPattern)) {
      choose(route, fmt::format("{{ req.hdr({}) -m reg {} }}", canary.header, quoted(canary.headerPattern)));
    } else {
      choose(route, fmt::format("{{ req.hdr({}) -m str always }}", canary.header));
      choose(main, fmt::format("{{ req.hdr({}) -m str never }}", canary.header));
    }
  }
  if (!canary.cookie.empty()) {
    choose(route, fmt::format("{{ req.cook({}) -m str always }}", canary.cookie));
    choose(main, fmt::format("{{ req.cook({}) -m str never }}", canary.cookie));
  }
  choose(rest, "");
}

void Compiler::path(Source& source, const std::string& host, const json::object& entry) {
  const Annotations& a = source.annotations.values;
  std::string path(text(entry, "path"));
  if (path.empty()) path = "/";
  if (!mappable(path)) {
    problem(source, "PathNotServed", fmt::format("the path \"{}\" has a blank or a backslash", path));
    return;
  }
  const std::string type(text(entry, "pathType"));
  const std::string at = site(host);
  const bool regex = type == "ImplementationSpecific" && (a.useRegex || !a.rewriteTarget.empty());
  if ((regex || !a.rewriteTarget.empty()) && !isPattern(path)) {
    problem(source, "PathNotServed", fmt::format("the path \"{}\" is no regular expression", path));
    return;
  }
  const std::string route = routeTo(source, client::object(entry, {"backend"}), placeOf(source, host, path));
  const bool plain = path.find_first_of("()[]*+?^$|{}") == std::string::npos;
  if (regex && !plain) {
    if (a.canary) {
      problem(source, "CanaryAlone",
              fmt::format("the path \"{}\" is a regular expression: canaries of those are not served", path));
      return;
    }
    patterns_.push_back({at, path, route});
    return;
  }
  std::string key = at + path;
  const bool exact = type == "Exact";
  if (type == "Prefix") {
    while (key.ends_with('/')) key.pop_back();
    key += '/';
  }
  if (a.canary) {
    canary(source, key, exact, host, path, route);
    return;
  }
  take(source, exact ? out_.config.exact : out_.config.prefixes, key, route, host, path);
  // What is asked for at / counts even where / itself is not served.
  if (!a.appRoot.empty() && path != "/") {
    Place place = placeOf(source, host, "/");
    out_.config.exact.emplace(at + "/", routeTo(source, client::object(entry, {"backend"}), std::move(place)));
  }
}

void Compiler::rules(Source& source) {
  const json::object& root = source.ingress->root();
  const json::object& fallback = client::object(root, {"spec", "defaultBackend"});
  const bool canary = source.annotations.values.canary.has_value();
  std::set<std::string> hosts;
  for (const auto& value : array(root, {"spec", "rules"})) {
    if (!value.is_object()) continue;
    const std::string host(text(value.get_object(), "host"));
    hosts.insert(host);
    const std::string at = site(host);
    for (const auto& entry : array(value.get_object(), {"http", "paths"}))
      if (entry.is_object()) path(source, host, entry.get_object());
    for (const std::string& alias : source.annotations.values.aliases)
      out_.config.sites.emplace(std::string(kSitePrefix) + alias, at);
  }
  if (canary) return;
  if (fallback.empty()) {
    if (const std::string page = notFoundPage(source); !page.empty())
      for (const std::string& host : hosts) fallbacks_.emplace_back(site(host) + "/", page);
    return;
  }
  hosts.insert("");  // no rule matches: neither its own hosts' nor another's
  for (const std::string& host : hosts)
    fallbacks_.emplace_back(site(host) + "/", routeTo(source, fallback, placeOf(source, host, "/")));
}

void Compiler::proxies() {
  auto all = [&](std::string_view annotation) {
    std::set<std::string> out;
    for (const ObjectPtr& one : documents_.classes) {
      if (text(one->root(), {"spec", "controller"}) != kIngressController) continue;
      ParsedRanges parsed = parseRanges(*one, annotation);
      if (!parsed.problem.empty()) out_.problems.push_back({one, "AnnotationInvalid", std::move(parsed.problem)});
      out.insert(parsed.ranges.begin(), parsed.ranges.end());
    }
    return std::vector<std::string>(out.begin(), out.end());
  };
  frontend_.proxies = all(kProxyProtocolFrom);
  frontend_.forwarders = all(kForwardedHeadersFrom);
}

Compiled Compiler::run() {
  std::vector<Source> sources;
  for (const ObjectPtr& ingress : documents_.ingresses)
    if (!ingress->deleting()) sources.push_back({ingress, parseAnnotations(*ingress), {}, "", "", {}, "", "", {}});
  auto order = [](const Source& source) {
    return std::tuple(source.annotations.values.canary.has_value(),
                      text(source.ingress->root(), {"metadata", "creationTimestamp"}), source.ingress->key());
  };
  std::sort(sources.begin(), sources.end(), [&](const Source& a, const Source& b) { return order(a) < order(b); });
  for (Source& source : sources) {
    for (const std::string& text : source.annotations.problems) problem(source, "AnnotationInvalid", text);
    protection(source);
    errorPages(source);
    mirror(source);
    defaultBackend(source);
    certificates(source);
    rules(source);
  }
  for (auto& [key, route] : fallbacks_) out_.config.prefixes.emplace(key, route);
  // As nginx does: the longest first.
  std::sort(patterns_.begin(), patterns_.end(), [](const Pattern& a, const Pattern& b) {
    return std::tuple(b.path.size(), std::string_view(a.site), std::string_view(a.path)) <
           std::tuple(a.path.size(), std::string_view(b.site), std::string_view(b.path));
  });
  for (const Pattern& pattern : patterns_)
    frontend_.afterExact.push_back(
        fmt::format("http-request set-var(txn.to) str({}) if !{{ var(txn.to) -m found }} {{ var(txn.site) -m str {} }} "
                    "{{ path -i -m reg {} }}",
                    pattern.route, quoted(pattern.site), quoted("^" + pattern.path)));
  if (!sources.empty()) {
    frontend_.name = kFrontend;
    frontend_.listeners = {{kHttpPort, false}, {kHttpsPort, true}};
    proxies();
    out_.config.frontends.push_back(std::move(frontend_));
  }
  return std::move(out_);
}

}  // namespace

Compiled compile(const Documents& documents) {
  return Compiler(documents).run();
}

std::string_view classOf(const object::Object& ingress) {
  auto name = text(ingress.root(), {"spec", "ingressClassName"});
  return name.empty() ? ingress.annotation("kubernetes.io/ingress.class") : name;
}

std::set<std::string> configMapsOf(const object::Object& ingress) {
  const std::string name = parseAnnotations(ingress).values.errorPages;
  return name.empty() ? std::set<std::string>() : std::set<std::string>{name};
}

std::set<std::string> secretsOf(const object::Object& ingress) {
  std::set<std::string> out;
  for (const auto& value : array(ingress.root(), {"spec", "tls"}))
    if (value.is_object())
      if (auto name = text(value.get_object(), "secretName"); !name.empty()) out.emplace(name);
  const Annotations a = parseAnnotations(ingress).values;
  for (const std::string& name : {a.authSecret, a.clientCertificateSecret, a.backendSecret}) {
    auto parts = splitOnce(name, '/');
    if (parts && parts->first == ingress.ns()) out.emplace(parts->second);
    if (!parts && !name.empty()) out.insert(name);
  }
  return out;
}

}  // namespace dhow::ingress
