#include "frontend_lines.h"

#include <algorithm>

#include "access_record.h"
#include "base/strings.h"
#include "text.h"

namespace dhow::ingress {

namespace {

using Lines = std::vector<FrontendLine>;
using Mode = Frontend::Mode;

// A listener's id is its port, and with this added that of the one where a worker takes over what came to that port.
constexpr int kHandedOver = 100'000;
// The same of the one on the node's IPv6 address.
constexpr int kSix = 200'000;
// By which a worker proves that it is one.
constexpr std::string_view kHandoverHeader = "X-Dhow-Handover";
constexpr int kMostForwarders = 5;  // one behind the other
constexpr std::string_view kUnlessFound = " unless { var(txn.to) -m found }", kNotFound = "!{ var(txn.to) -m found }";

std::string_view ruleOf(const Frontend& frontend) {
  return frontend.mode == Mode::kHttp ? "http-request" : "tcp-request content";
}

void binds(Lines& out, const Frontend& frontend, const Layout& layout) {
  auto bind = [&](const Listener& listener, const std::string& address, int id) {
    std::string line = fmt::format("bind {} id {}", endpointText(address, listener.port), id);
    if (listener.tls) {
      line += " ssl crt-list " + layout.certificateList(frontend.name);
      // An Ingress's sections look at what was found wrong with a certificate; a Gateway lets in none that is.
      line += frontend.clientCertificates.empty()
                  ? " crt-ignore-err all ca-ignore-err all"
                  : " verify required ca-file " + layout.file(frontend.clientCertificates);
      if (frontend.mode == Mode::kHttp) line += " alpn h2,http/1.1";
    }
    out.push_back({std::move(line)});
  };
  for (const Listener& listener : frontend.listeners) {
    if (listener.v4 && !layout.address.empty()) bind(listener, layout.address, listener.port);
    if (listener.v6 && !layout.address6.empty()) bind(listener, layout.address6, kSix + listener.port);
  }
}

// Load balancers in front say whose connection it is; of anybody else it would be a lie.
void proxies(Lines& out, const Frontend& frontend) {
  for (std::string& line : linesOfWords("tcp-request connection expect-proxy layer4 if { src", frontend.proxies, " }"))
    out.push_back({std::move(line)});
}

// Which entry of the map of sites counts for a name: its own, or that of the wildcard above it with the most labels, or
// that of all. A lookup that finds nothing leaves its variable as it was. `guard`: only if.
struct Lookup {
  std::string_view name;    // a variable
  std::string_view result;  // a variable
  std::string prefix;       // of entries
  std::string_view guard;
  bool certain = true;  // nothing found is the entry of all
};
void lookup(Lines& out, const Frontend& frontend, const Layout& layout, const Lookup& l) {
  const std::string_view rule = ruleOf(frontend);
  const std::string map = layout.map("sites"), found = fmt::format("{{ var({}) -m beg {}| }}", l.result, l.prefix);
  auto add = [&](const std::string& line, const std::string& condition) {
    const std::string all = fmt::format("{}{}{}", l.guard, l.guard.empty() || condition.empty() ? "" : " ", condition);
    out.push_back({fmt::format("{} {}{}{}", rule, line, all.empty() ? "" : " if ", all)});
  };
  add(fmt::format("set-var({}) str({})", l.result, l.prefix), "");
  add(fmt::format("set-var({}) var({}),concat(|,{}),map_str({})", l.result, l.result, l.name, map), "");
  auto above = [&](const std::string& parent, const std::string& condition) {
    add(fmt::format("set-var(txn.parent) {}", parent), "");
    add(fmt::format("set-var({}) str({}),concat(|*.,txn.parent),map_str({})", l.result, l.prefix, map), condition);
  };
  if (!frontend.anyDepth) above(fmt::format("var({}),field(2,.,0)", l.name), "!" + found);
  for (auto depth = frontend.depths.rbegin(); depth != frontend.depths.rend(); ++depth)
    above(fmt::format("var({}),field(-1,.,{})", l.name, *depth),
          fmt::format("!{} {{ var({}),field(-{},.) -m found }}", found, l.name, *depth + 1));
  add(l.certain ? fmt::format("set-var({}) str({}|*)", l.result, l.prefix)
                : fmt::format("set-var({}) str({}|*),map_str({})", l.result, l.prefix, map),
      "!" + found);
}

void sites(Lines& out, const Frontend& frontend, const Layout& layout, std::string_view guard = "") {
  lookup(out, frontend, layout, {"txn.host", "txn.site", frontend.name, guard, true});
}

// A client that knows that a certificate is for two names may ask for both on one connection. What is decided by the
// name that it began with, as which client certificate it must show, does not hold for the other (RFC 9110, 15.5.20).
void misdirected(Lines& out, const Frontend& frontend, const Layout& layout) {
  if (frontend.names.size() < 2) return;
  constexpr std::string_view kOther = "{ ssl_fc_has_sni } !{ var(txn.sni),strcmp(txn.host) eq 0 }";
  out.push_back({"http-request set-var(txn.sni) ssl_fc_sni,lower"});
  const std::string prefix = "l" + frontend.name;
  lookup(out, frontend, layout, {"txn.sni", "txn.begun", prefix, kOther, false});
  lookup(out, frontend, layout, {"txn.host", "txn.asked", prefix, kOther, false});
  out.push_back(
      {fmt::format("http-request return status 421 content-type 'text/plain; charset=utf-8' string 'misdirected "
                   "request' if {} {{ var(txn.asked) -m beg {}| }} !{{ var(txn.asked),strcmp(txn.begun) eq 0 }}",
                   kOther, prefix)});
}

void ownLines(Lines& out, const Frontend& frontend, std::vector<std::string> Frontend::* list) {
  for (size_t i = 0; i < (frontend.*list).size(); ++i) out.push_back({(frontend.*list)[i], list, i});
}

void splits(Lines& out, const Frontend& frontend, const Layout& layout) {
  const std::string_view rule = ruleOf(frontend);
  out.push_back({fmt::format("{} set-var(txn.share) rand({})", rule, kShares)});
  out.push_back(
      {fmt::format("{} set-var(txn.to) var(txn.to),concat(:,txn.share),map_str({}) if {{ var(txn.to) -m beg split: }}",
                   rule, layout.map("splits"))});
}

// A line for each request, and one of JSON for each connection of mode tcp. What clients say is bounded and escaped.
constexpr std::string_view kConnection =
    "{\"time\":\"%[date,utime(%Y-%m-%dT%H:%M:%S)].%[date(0,ms),mod(1000),add(1000),concat(),bytes(1,3)]Z\",\"client\":"
    "\"%ci\",\"host\":\"%[var(txn.host),bytes(0,256),json(utf8s)]\",\"protocol\":\"TCP\",\"bytes_in\":%U,\"bytes_out\":"
    "%B,"
    "\"duration_ms\":%Tt,\"connect_ms\":%Tc,\"gateway\":\"@owner\",\"route\":\"%[var(txn.to),field(2,@)]\","
    "\"namespace\":\"%[be_name,field(2,_)]\",\"service\":\"%[be_name,field(3,_)]\",\"server\":\"%si:%sp\","
    "\"tls\":\"%sslv\",\"end\":\"%ts\"}";

void log(Lines& out, const Frontend& frontend) {
  out.push_back({"log stdout len 32768 format raw local0"});
  if (frontend.mode == Mode::kHttp) {
    for (std::string& line : recordLines(frontend.owner)) out.push_back({std::move(line)});
    return;
  }
  std::string format(kConnection);
  constexpr std::string_view mark = "@owner";
  format.replace(format.find(mark), mark.size(), frontend.owner);
  out.push_back({"log-format '" + format + "'"});
}

std::string handoverBackend(std::string_view frontend) {
  return fmt::format("handover_{}", frontend);
}

// Ids of listeners, each as one that counts from each of `firsts`.
std::vector<std::string> idsOf(const Frontend& frontend, std::initializer_list<int> firsts, bool onlyTls) {
  std::vector<std::string> out;
  for (const Listener& listener : frontend.listeners) {
    if (onlyTls && !listener.tls) continue;
    for (int first : firsts) out.push_back(std::to_string(first + listener.port));
  }
  return out;
}

// What the worker that a reload replaces is still asked, on connections that clients keep, it leaves to the next one,
// which alone knows routes and servers: HAProxy takes no command for the sections of a worker that stops. Nobody else
// may speak for clients on these listeners.
void handover(Lines& out, const Frontend& frontend, const Layout& layout) {
  auto add = [&](std::string line) { out.push_back({std::move(line)}); };
  auto acl = [&](std::string_view name, const std::vector<std::string>& ids) {
    for (std::string& line : linesOfWords(fmt::format("acl {} so_id", name), ids)) add(std::move(line));
  };
  for (const Listener& listener : frontend.listeners)
    add(fmt::format("bind {} accept-proxy id {}", Layout::handover(listener.port), kHandedOver + listener.port));
  acl("handed", idsOf(frontend, {kHandedOver}, false));
  add(fmt::format("http-request deny deny_status 403 if handed !{{ req.hdr({}) -m str {} }}", kHandoverHeader,
                  layout.handoverSecret));
  add(fmt::format("http-request del-header {}", kHandoverHeader));
  const std::vector<std::string> encrypted = idsOf(frontend, {0, kSix, kHandedOver}, true);
  acl("encrypted", encrypted);
  if (!encrypted.empty()) add("http-request set-var(txn.tls) bool(true) if encrypted");
}

// What proxies in front say of their client, in headers: it is the address nearest to them that is none of theirs, as
// with nginx's real_ip_recursive. What somebody else says is overwritten.
void forwarded(Lines& out, const Frontend& frontend) {
  if (frontend.forwarders.empty()) return;
  auto add = [&](std::string line) { out.push_back({std::move(line)}); };
  for (std::string& line : linesOfWords("acl forwarder src", frontend.forwarders)) add(std::move(line));
  // The worker before has done all this already.
  add("http-request set-var(txn.proxy) src if forwarder !handed");
  add("acl proxied var(txn.proxy) -m found");
  add("acl kept var(txn.proxy) -m found");
  for (std::string& line : linesOfWords("acl kept so_id", idsOf(frontend, {kHandedOver}, false))) add(std::move(line));
  for (int hop = 1; hop <= kMostForwarders; ++hop) {
    const std::string said = fmt::format("req.hdr(X-Forwarded-For,-{})", hop);
    add(fmt::format("http-request set-var(txn.last) bool(true) if proxied !{{ {} -m ip 0.0.0.0/0 ::/0 }}", said));
    add(fmt::format("http-request set-src {} if proxied forwarder !{{ var(txn.last) -m found }}", said));
  }
  constexpr std::string_view kOne = "{ req.fhdr_cnt(X-Forwarded-For) eq 1 }";
  add(fmt::format("http-request replace-header X-Forwarded-For (.*) '\\1, %[var(txn.proxy)]' if proxied {}", kOne));
  add(fmt::format("http-request add-header X-Forwarded-For %[var(txn.proxy)] if proxied !{}", kOne));
  add("http-request set-var(txn.tls) bool(true) if kept { req.hdr(X-Forwarded-Proto) -m str -i https }");
  add("http-request unset-var(txn.tls) if kept { req.hdr(X-Forwarded-Proto) -m str -i http }");
}

// txn.to: where the request goes, by host and path.
void route(Lines& out, const Frontend& frontend, const Layout& layout) {
  auto add = [&](std::string line) { out.push_back({std::move(line)}); };
  const std::string exact = layout.map("exact"), prefixes = layout.map("prefixes");
  const bool own = !frontend.afterExact.empty() || !frontend.afterPrefixes.empty();
  const std::string_view unlessFound = own ? "" : kUnlessFound;
  if (!own) {
    // Mostly the host is a site, and nothing else can have the request. One with a slash would look like a path.
    const std::string key = fmt::format("str({}|),concat(,txn.host)", frontend.name);
    std::string plain = "!{ var(txn.host) -m sub / }";
    const std::string first = "http-request set-var(txn.to) " + key;
    if (frontend.routes.exact) {
      add(fmt::format("{},concat(,txn.path),map_str({}) if {}", first, exact, plain));
      plain += fmt::format(" {}", kNotFound);
    }
    add(fmt::format("{},concat(,txn.path,/),map_beg({}) if {}", first, prefixes, plain));
  }
  if (own || frontend.routes.otherHosts) {
    sites(out, frontend, layout, own ? "" : kNotFound);
    add(fmt::format("http-request set-var(txn.key) var(txn.site),concat(,txn.path){}", unlessFound));
    add(fmt::format("http-request set-var(txn.to) var(txn.key),map_str({}){}", exact, unlessFound));
    ownLines(out, frontend, &Frontend::afterExact);
    add(fmt::format("http-request set-var(txn.key) var(txn.key),concat(/){}", unlessFound));
    add(fmt::format("http-request set-var(txn.to) var(txn.key),map_beg({}){}", prefixes, kUnlessFound));
    ownLines(out, frontend, &Frontend::afterPrefixes);
  }
  if (own || frontend.routes.splits) splits(out, frontend, layout);
}

void requests(Lines& out, const Frontend& frontend, const Layout& layout) {
  auto add = [&](std::string line) { out.push_back({std::move(line)}); };
  handover(out, frontend, layout);
  forwarded(out, frontend);
  add("http-request set-var(txn.host) req.hdr(host),host_only,lower");
  misdirected(out, frontend, layout);
  add("http-request set-var(txn.path) path");
  route(out, frontend, layout);
  // What backends are told about the client; what a client says of itself is not believed.
  auto unlessKept = [&](std::string_view header) {
    return frontend.forwarders.empty() ? std::string() : fmt::format(" unless kept {{ req.hdr({}) -m found }}", header);
  };
  add("http-request set-header X-Forwarded-For %ci" + unlessKept("X-Forwarded-For"));
  add("http-request set-header X-Real-IP %ci");
  add("http-request set-header X-Forwarded-Host %[req.hdr(host)]" + unlessKept("X-Forwarded-Host"));
  add("http-request set-header X-Forwarded-Port " +
      (frontend.port > 0 ? std::to_string(frontend.port) : std::string("%fp")) + unlessKept("X-Forwarded-Port"));
  for (std::string_view header : {"X-Forwarded-Proto", "X-Forwarded-Scheme"}) {
    // A worker that hands over has said so, and of a proxy that is trusted txn.tls tells.
    if (frontend.forwarders.empty()) {
      add(fmt::format("http-request set-header {} %[ssl_fc,iif(https,http)] unless handed", header));
      continue;
    }
    add(fmt::format("http-request set-header {} http unless {{ var(txn.tls) -m found }}", header));
    add(fmt::format("http-request set-header {} https if {{ var(txn.tls) -m found }}", header));
  }
  add("http-request del-header ssl-client- -m beg");
  add("http-request del-header X-Forwarded-Prefix");
  add(fmt::format("http-request set-header X-Request-ID %[{}] unless {{ req.hdr(X-Request-ID) -m found }}",
                  layout.accessLog ? "unique-id" : "uuid"));
  // A client's certificate cannot be handed over.
  add(fmt::format("use_backend {} if {{ stopping }} !{{ ssl_c_used }}", handoverBackend(frontend.name)));
  add("use_backend %[var(txn.to),field(1,@)] if { var(txn.to) -m found }");
  for (const auto& [status, file] : frontend.errorFiles) add(fmt::format("errorfile {} {}", status, layout.file(file)));
  add("default_backend " + (frontend.otherwise.empty() ? "nothing" : frontend.otherwise));
}

void connections(Lines& out, const Frontend& frontend, const Layout& layout) {
  auto add = [&](std::string line) { out.push_back({std::move(line)}); };
  if (frontend.mode == Mode::kTls) {
    add("tcp-request inspect-delay 5s");
    add("tcp-request content set-var(txn.host) req.ssl_sni,lower if { req.ssl_hello_type 1 }");
  } else {
    add("tcp-request content set-var(txn.host) ssl_fc_sni,lower");
  }
  sites(out, frontend, layout);
  add(fmt::format("tcp-request content set-var(txn.to) var(txn.site),map_str({})", layout.map("exact")));
  splits(out, frontend, layout);
  add("tcp-request content reject unless { var(txn.to) -m found }");
  add("use_backend %[var(txn.to),field(1,@)]");
}

}  // namespace

std::vector<FrontendLine> frontendLines(const Frontend& frontend, const Layout& layout) {
  Lines out;
  if (frontend.mode != Mode::kHttp) out.push_back({"mode tcp"});
  binds(out, frontend, layout);
  proxies(out, frontend);
  if (layout.accessLog) log(out, frontend);
  ownLines(out, frontend, &Frontend::acls);
  if (frontend.mode == Mode::kHttp)
    requests(out, frontend, layout);
  else
    connections(out, frontend, layout);
  return out;
}

std::vector<std::string> handoverLines(const Frontend& frontend, const Layout& layout) {
  if (frontend.mode != Mode::kHttp) return {};
  std::vector<std::string> out = {
      "backend " + handoverBackend(frontend.name),
      "  http-request set-log-level silent",  // who takes a request logs it
      fmt::format("  http-request set-header {} {}", kHandoverHeader, layout.handoverSecret)};
  // In the version that the client speaks: calls of gRPC stay in HTTP/2, WebSockets in HTTP/1.1.
  for (const Listener& listener : frontend.listeners) {
    for (int version : {1, 2}) {
      const std::string name = fmt::format("port{}_h{}", listener.port, version);
      out.push_back(fmt::format("  use-server {} if {{ so_id {} {} {} }} {{ fc_http_major {} }}", name, listener.port,
                                kHandedOver + listener.port, kSix + listener.port, version));
      out.push_back(fmt::format("  server {} {} send-proxy-v2{}", name, Layout::handover(listener.port),
                                version == 2 ? " proto h2" : ""));
    }
  }
  return out;
}

}  // namespace dhow::ingress
