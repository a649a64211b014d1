#include <algorithm>
#include <numeric>

#include "backend_lines.h"
#include "base/strings.h"
#include "client/fields.h"
#include "gateway_model.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

// A match, and where its requests go. The order is the specification's, after the path.
struct Entry {
  const Match* match;
  const RouteModel* route;
  size_t rule, index;
  std::string to;

  auto order() const {
    return std::tuple(match->method ? 0 : 1, -static_cast<int64_t>(match->headers),
                      -static_cast<int64_t>(match->parameters), std::string_view(route->created),
                      std::string_view(route->key), rule, index);
  }
};
using Bucket = std::vector<Entry>;

std::string hostOf(const std::string& host) {
  return host.empty() ? "*" : host;
}

// How many hundredths each weight has; one that is not 0 has one at least.
std::vector<int64_t> sharesOf(const std::vector<int64_t>& weights) {
  const int64_t total = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  std::vector<int64_t> out;
  for (int64_t weight : weights) out.push_back(weight == 0 ? 0 : std::max<int64_t>(1, weight * kShares / total));
  // What is left over or missing, one by one, where it is nearest to what was asked.
  while (true) {
    const int64_t sum = std::accumulate(out.begin(), out.end(), int64_t{0});
    if (sum == kShares) return out;
    std::optional<size_t> at;
    auto due = [&](size_t i) { return weights[i] * kShares - out[i] * total; };
    for (size_t i = 0; i < out.size(); ++i) {
      if (weights[i] == 0 || (sum > kShares && out[i] == 1)) continue;
      if (!at || (sum < kShares ? due(i) > due(*at) : due(i) < due(*at))) at = i;
    }
    out[*at] += sum < kShares ? 1 : -1;
  }
}

// The sections that rules become.
class Sections {
 public:
  Sections(BackendResolver& resolver, Config& config) : resolver_(resolver), config_(config) {}

  std::string broken(bool tcp, const std::vector<ErrorPage>& pages) {
    Backend out;
    out.tcp = tcp;
    std::string name = tcp ? "rejected" : "broken";
    if (tcp) {
      out.lines = {"tcp-request content reject"};
    } else if (auto page = errorPageAnswer(pages, 500)) {
      name += "_" + shortDigest(*page);
      out.lines = {*std::move(page)};
    } else {
      out.lines = {
          "http-request return status 500 content-type 'text/plain; charset=utf-8' string 'no valid backend - 500'"};
    }
    config_.backends.emplace(name, std::move(out));
    return name;
  }

  // Where requests of a rule go that come in at a listener.
  std::string routeTo(const Frontend& frontend, const RouteModel& route, const RuleModel& rule, size_t index,
                      RuleContext context) {
    const bool tcp = frontend.mode != Frontend::Mode::kHttp;
    auto routed = [&](const std::string& name) { return ingress::routeOf(name, nameOf(route.route.kind), route.key); };
    if (!rule.problem.empty()) return routed(broken(tcp, *context.pages));
    std::vector<std::string> lines = timeoutLines(client::object(*rule.spec, {"timeouts"}));
    if (route.waf && !tcp) wafLines(lines, *route.waf, config_.files);
    context.files = &config_.files;
    context.mirror = [&](const json::object& ref) {
      ResolvedBackend resolved = resolver_.resolve(route.route, ref);
      return resolved.problem || resolved.unusable ? std::string() : resolved.address;
    };
    FilterLines filters = filterLines(array(*rule.spec, {"filters"}), context);
    lines.insert(lines.end(), filters.lines.begin(), filters.lines.end());
    if (filters.answers) {
      Backend out;
      const std::string name = "r_" + shortDigest(join(lines, "\n"));
      out.lines = std::move(lines);
      config_.backends.emplace(name, std::move(out));
      return routed(name);
    }
    std::vector<std::string> names;
    std::vector<int64_t> weights;
    eachObject(array(*rule.spec, {"backendRefs"}), [&](const json::object& ref) {
      const int64_t weight = std::clamp<int64_t>(number(ref, {"weight"}, 1), 0, 1'000'000);
      if (weight == 0) return;
      weights.push_back(weight);
      names.push_back(routed(section(route, rule, ref, lines, context, tcp)));
    });
    if (names.empty()) return routed(broken(tcp, *context.pages));
    if (std::all_of(names.begin(), names.end(), [&](const std::string& one) { return one == names[0]; }))
      return names[0];
    const std::string split =
        "split:" + shortDigest(fmt::format("{} {} {} {} {} {}", frontend.name, context.listener->name,
                                           nameOf(route.route.kind), route.key, index, join(names, " ")));
    const std::vector<int64_t> shares = sharesOf(weights);
    int64_t place = 0;
    for (size_t i = 0; i < names.size(); ++i)
      for (int64_t j = 0; j < shares[i]; ++j) config_.splits[fmt::format("{}:{}", split, place++)] = names[i];
    return split;
  }

 private:
  std::string section(const RouteModel& route, const RuleModel& rule, const json::object& ref,
                      const std::vector<std::string>& lines, const RuleContext& context, bool tcp) {
    ResolvedBackend resolved = resolver_.resolve(route.route, ref);
    if (resolved.problem || resolved.unusable || route.loops.contains(&ref)) return broken(tcp, *context.pages);
    Backend& out = resolved.backend;
    out.lines.insert(out.lines.begin(), "balance roundrobin");
    out.lines.insert(out.lines.end(), lines.begin(), lines.end());
    const FilterLines own = filterLines(array(ref, {"filters"}), context);
    out.lines.insert(out.lines.end(), own.lines.begin(), own.lines.end());
    std::string content;
    if (!tcp) {
      errorPageLines(out.lines, *context.pages);
      if (route.affinity && !isSplit(rule)) content = affinity(route, out);
    }
    content += join(out.lines, "\n") + "\n" + out.serverOptions;
    const std::string name = fmt::format("{}_{}_{}", tcp ? "t" : "b", resolved.name, shortDigest(content));
    config_.backends.emplace(name, std::move(out));
    return name;
  }

  // What the section is beside its lines.
  static std::string affinity(const RouteModel& route, Backend& out) {
    const Annotations::Affinity& cookie = *route.affinity;
    const std::string owner = fmt::format("{}/{}", nameOf(route.route.kind), route.key);
    const std::vector<std::string> first = affinityLines(cookie, owner);
    out.lines.insert(out.lines.begin() + 1, first.begin(), first.end());
    out.sessions.emplace(
        kTablePrefix + shortDigest(fmt::format("{}|{}|{}|{}", owner, out.service, out.port, cookie.name)), cookie.idle);
    for (std::string& line : sessionLines(cookie, out.sessions->table)) out.lines.push_back(std::move(line));
    return fmt::format("{}\n", cookie.idle);
  }

  BackendResolver& resolver_;
  Config& config_;
};

// The requests of one host at one port.
class Site {
 public:
  // `acls`: the names of those that the frontend has.
  Site(Frontend& frontend, std::set<std::string>& acls, Config& config, std::string name)
      : frontend_(frontend), acls_(acls), config_(config), name_(std::move(name)) {}

  void add(Entry entry) {
    if (entry.match->type == Match::Path::kExact) {
      exact_[entry.match->path].push_back(std::move(entry));
    } else if (entry.match->type == Match::Path::kRegex) {
      patterns_[{-static_cast<int64_t>(entry.match->path.size()), entry.match->path}].push_back(std::move(entry));
    } else {
      std::string path = entry.match->path;
      while (path.ends_with('/')) path.pop_back();
      prefixes_[path + "/"].push_back(std::move(entry));
    }
  }

  void finish() {
    for (auto& [path, bucket] : exact_) config_.exact.emplace(name_ + path, choice("=" + path, bucket));
    // What no exact path has answered goes on to the others.
    for (auto& [path, bucket] : exact_) choose("=" + path, bucket, frontend_.afterExact, "");
    for (auto& [path, bucket] : patterns_) {
      sort(bucket);
      for (const Entry& entry : bucket)
        line(frontend_.afterExact, entry,
             fmt::format("!{{ var(txn.to) -m found }} {{ var(txn.site) -m str {} }} {}", quoted(name_),
                         acl("path -m reg -- " + quoted(fmt::format("^(?:{})$", path.second)))));
    }
    for (auto& [path, bucket] : prefixes_) config_.prefixes.emplace(name_ + path, choice(path, bucket));
    std::vector<std::string> longestFirst;
    for (const auto& [path, bucket] : prefixes_) longestFirst.push_back(path);
    std::sort(longestFirst.begin(), longestFirst.end(), [](const std::string& a, const std::string& b) {
      return a.size() == b.size() ? a < b : a.size() > b.size();
    });
    for (const std::string& path : longestFirst) {
      const std::string* next = nullptr;
      for (std::string above = path; next == nullptr && above.size() > 1;) {
        above.resize(above.rfind('/', above.size() - 2) + 1);
        if (auto found = prefixes_.find(above); found != prefixes_.end()) next = &found->first;
      }
      choose(path, prefixes_[path], frontend_.afterPrefixes, next ? choice(*next, prefixes_[*next]) : "");
    }
  }

 private:
  static void sort(Bucket& bucket) {
    std::sort(bucket.begin(), bucket.end(), [](const Entry& a, const Entry& b) { return a.order() < b.order(); });
  }

  std::string acl(const std::string& condition) {
    std::string name = "m_" + shortDigest(condition);
    std::string line = fmt::format("acl {} {}", name, condition);
    if (acls_.insert(name).second) frontend_.acls.push_back(std::move(line));
    return name;
  }

  void line(std::vector<std::string>& lines, const Entry& entry, std::string condition) {
    for (const std::string& one : entry.match->conditions) condition += " " + acl(one);
    lines.push_back(fmt::format("http-request set-var(txn.to) str({}) if {}", entry.to, condition));
  }

  // The route of a bucket: where all its requests go, or the name of a choice.
  std::string choice(const std::string& path, Bucket& bucket) {
    sort(bucket);
    if (bucket[0].match->conditions.empty()) return bucket[0].to;
    return "choice:" + shortDigest(name_ + " " + path);
  }

  // Lines that turn a choice into a route, or leave it to `next`; empty: to nobody.
  void choose(const std::string& path, Bucket& bucket, std::vector<std::string>& lines, const std::string& next) {
    const std::string name = choice(path, bucket);
    if (!name.starts_with("choice:")) return;
    const std::string mine = fmt::format("{{ var(txn.to) -m str {} }}", name);
    for (const Entry& entry : bucket) {
      line(lines, entry, mine);
      if (entry.match->conditions.empty()) return;
    }
    if (next.empty())
      lines.push_back(fmt::format("http-request unset-var(txn.to) if {}", mine));
    else
      lines.push_back(fmt::format("http-request set-var(txn.to) str({}) if {}", next, mine));
  }

  Frontend& frontend_;
  std::set<std::string>& acls_;
  Config& config_;
  const std::string name_;
  std::map<std::string, Bucket> exact_, prefixes_;
  std::map<std::pair<int64_t, std::string>, Bucket> patterns_;  // the longest first
};

void addCertificates(Frontend& frontend, const GatewayListener& listener, Config& config) {
  for (size_t i = 0; i < listener.certificates.size(); ++i) {
    const std::string name = fmt::format("{}_{}.pem", frontend.name,
                                         shortDigest(fmt::format("{} {} {}", listener.name, listener.hostname, i)));
    Certificate certificate{listener.certificates[i], "", {listener.hostname}, frontend.name};
    if (listener.hostname.empty()) {
      // The first of the list is for all names; its own would be in the way of other listeners'.
      certificate.hosts = {"none.invalid"};
      if (frontend.certificate.empty()) frontend.certificate = name;
    }
    config.certificates.emplace(name, std::move(certificate));
  }
}

class Port {
 public:
  Port(Gateway& gateway, uint16_t port, uint16_t nodePort, Config& config) : gateway_(gateway), config_(config) {
    frontend_.name = fmt::format("g{}", nodePort);
    frontend_.port = port;
    frontend_.owner = "Gateway/" + gateway.object->key();
    frontend_.anyDepth = true;
    frontend_.forwarders = gateway.forwarders;
    for (GatewayListener& listener : gateway.listeners) {
      if (listener.port != port || !listener.served()) continue;
      frontend_.listeners = {{nodePort, listener.endsTls()}};
      frontend_.mode = listener.isHttp()      ? Frontend::Mode::kHttp
                       : listener.passthrough ? Frontend::Mode::kTls
                                              : Frontend::Mode::kTcp;
      addCertificates(frontend_, listener, config);
      if (!listener.clientAuthorities.empty()) {
        frontend_.clientCertificates = fmt::format("ca_{}.pem", shortDigest(listener.clientAuthorities));
        config.files.emplace(frontend_.clientCertificates, listener.clientAuthorities);
      }
      hosts_.push_back(listener.hostname);
      if (frontend_.mode == Frontend::Mode::kHttp && listener.endsTls()) {
        // Looked up as sites are, under another name.
        const std::string name = fmt::format("l{}|{}", frontend_.name, hostOf(listener.hostname));
        config.sites.emplace(name, name);
        frontend_.names.insert(hostOf(listener.hostname));
      }
      addSite(listener.hostname);
    }
  }

  bool served() const { return !hosts_.empty(); }

  void addRoute(const RouteModel& route, Sections& sections) {
    for (const Attachment& attachment : route.attachments) {
      const GatewayListener& listener = *attachment.listener;
      if (attachment.gateway != &gateway_ || listener.port != frontend_.port || !listener.served()) continue;
      for (const std::string& host : attachment.hosts) {
        // A request belongs to one listener, that with the most specific hostname.
        const std::string* best = bestHost(hosts_, host);
        if (best == nullptr || *best != listener.hostname) continue;
        const std::string site = addSite(host);
        if (frontend_.mode != Frontend::Mode::kHttp) {
          if (!route.rules.empty())
            config_.exact.emplace(site, sections.routeTo(frontend_, route, route.rules[0], 0,
                                                         {&listener, &gateway_.pages, "", {}, nullptr}));
          continue;
        }
        for (size_t i = 0; i < route.rules.size(); ++i) addRule(route, i, site, listener, sections);
      }
    }
  }

  void finish() {
    for (auto& [name, site] : sites_) site.finish();
    if (frontend_.mode == Frontend::Mode::kHttp) errorPages();
    config_.frontends.push_back(std::move(frontend_));
  }

 private:
  void errorPages() {
    for (const ErrorPage& page : gateway_.pages)
      if (page.whole) frontend_.errorFiles.emplace(page.status, page.file);
    if (auto answer = errorPageAnswer(gateway_.pages, 404)) {
      frontend_.otherwise = "r_" + shortDigest(*answer);
      config_.backends[frontend_.otherwise].lines = {*std::move(answer)};
    }
  }

  void addRule(const RouteModel& route, size_t index, const std::string& site, const GatewayListener& listener,
               Sections& sections) {
    const RuleModel& rule = route.rules[index];
    for (size_t i = 0; i < rule.matches.size(); ++i) {
      const Match& match = rule.matches[i];
      RuleContext context{
          &listener, &gateway_.pages, match.type == Match::Path::kPrefix ? match.path : "", {}, nullptr};
      std::string to = sections.routeTo(frontend_, route, rule, index, context);
      sites_.at(site).add({&match, &route, index, i, std::move(to)});
    }
  }

  std::string addSite(const std::string& host) {
    std::string name = fmt::format("{}|{}", frontend_.name, hostOf(host));
    config_.sites.emplace(name, name);
    if (host.starts_with("*.")) frontend_.depths.insert(static_cast<int>(std::count(host.begin(), host.end(), '.')));
    sites_.try_emplace(name, frontend_, acls_, config_, name);
    return name;
  }

  const Gateway& gateway_;
  Config& config_;
  Frontend frontend_;
  std::set<std::string> acls_;
  std::vector<std::string> hosts_;  // of listeners
  std::map<std::string, Site> sites_;
};

}  // namespace

void addFrontends(std::vector<Gateway>& gateways, const std::vector<RouteModel>& routes, BackendResolver& resolver,
                  Config& config) {
  Sections sections(resolver, config);
  std::set<uint16_t> taken;
  for (Gateway& gateway : gateways) {
    std::set<uint16_t> ports;
    for (const GatewayListener& listener : gateway.listeners)
      if (gateway.accepted.status && listener.served()) ports.insert(listener.port);
    for (uint16_t port : ports) {
      auto nodePort = gateway.nodePorts.find(port);
      if (nodePort == gateway.nodePorts.end() || !taken.insert(nodePort->second).second) continue;
      Port one(gateway, port, nodePort->second, config);
      for (const RouteModel& route : routes) one.addRoute(route, sections);
      one.finish();
    }
  }
}

}  // namespace dhow::ingress
