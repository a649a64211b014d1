#include "render.h"

#include <algorithm>

#include "base/strings.h"

namespace dhow::ingress {

namespace {

constexpr std::string_view kDefaults = R"(defaults
  mode http
  option dontlognull
  option http-keep-alive
  option idle-close-on-response
  option redispatch 1
  retries 3
  retry-on conn-failure empty-response
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 75s
  timeout queue 10s
  timeout tunnel 1h
)";

// Which backend; see Config. A lookup that finds nothing leaves its variable as it was.
std::string routing(const Config& config, const Layout& layout) {
  std::string out = fmt::format(R"(  http-request set-var(txn.host) req.hdr(host),host_only,lower
  http-request set-var(txn.parent) var(txn.host),field(2,.,0)
  http-request set-var(txn.site) str(i)
  http-request set-var(txn.site) var(txn.site),concat(|,txn.host),map_str({0})
  http-request set-var(txn.wild) str(i)
  http-request set-var(txn.site) var(txn.wild),concat(|*.,txn.parent),map_str({0}) unless {{ var(txn.site) -m beg i| }}
  http-request set-var(txn.site) str(i|*) unless {{ var(txn.site) -m beg i| }}
  http-request set-var(txn.path) path
  http-request set-var(txn.key) var(txn.site),concat(,txn.path)
  http-request set-var(txn.to) var(txn.key),map_str({1})
)",
                                layout.map("sites"), layout.map("exact"));
  if (!config.patterns.empty())
    out += fmt::format("  http-request set-var(txn.to) var(txn.key),map_reg({}) unless {{ var(txn.to) -m found }}\n",
                       layout.map("patterns"));
  out += fmt::format(R"(  http-request set-var(txn.key) var(txn.key),concat(/)
  http-request set-var(txn.to) var(txn.key),map_beg({}) unless {{ var(txn.to) -m found }}
)",
                     layout.map("prefixes"));
  for (const std::string& line : config.choices) out += "  " + line + "\n";
  out += fmt::format(R"(  http-request set-var(txn.share) rand(100)
  http-request set-var(txn.to) var(txn.to),concat(:,txn.share),map_str({}) if {{ var(txn.to) -m beg split: }}
)",
                     layout.map("splits"));
  return out;
}

// What backends are told about the client; what a client says of itself is not believed.
constexpr std::string_view kForwarding = R"(  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Real-IP %[src]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Forwarded-Proto http unless { ssl_fc }
  http-request set-header X-Forwarded-Proto https if { ssl_fc }
  http-request set-header X-Forwarded-Scheme http unless { ssl_fc }
  http-request set-header X-Forwarded-Scheme https if { ssl_fc }
  http-request del-header ssl-client-verify
  http-request del-header ssl-client-subject-dn
  http-request del-header ssl-client-cert
  http-request del-header X-Forwarded-Prefix
  http-request set-header X-Request-ID %[uuid] unless { req.hdr(X-Request-ID) -m found }
  use_backend %[var(txn.to)] if { var(txn.to) -m found }
  default_backend nothing
)";

// "@name" in a line or option is the path of that file.
std::string withFiles(std::string line, const Config& config, const Layout& layout) {
  for (const auto& [name, content] : config.files) {
    const std::string mark = "@" + name;
    for (size_t at = line.find(mark); at != std::string::npos; at = line.find(mark, at + 1))
      line.replace(at, mark.size(), layout.file(name));
  }
  return line;
}

}  // namespace

Rendered renderConfig(const Config& config, const std::map<std::string, Slots>& slots, const Layout& layout) {
  Rendered out;
  std::string& text = out.config;
  text = fmt::format(R"(global
  master-worker
  user haproxy
  group haproxy
  no strict-limits
  maxconn {}
  hard-stop-after {}s
  stats socket {} mode 600 level admin expose-fd listeners
  ssl-default-bind-options ssl-min-ver TLSv1.2
  tune.ssl.default-dh-param 2048
)",
                     layout.maxConnections, layout.hardStopSeconds, layout.socket);
  text += kDefaults;
  if (!layout.dnsAddress.empty())
    text +=
        fmt::format("resolvers cluster\n  nameserver node {}:53\n  accepted_payload_size 4096\n", layout.dnsAddress);
  for (const std::string& section : config.userlists) text += section;
  text += "frontend edge\n";
  for (const Listener& listener : config.listeners) {
    text += fmt::format("  bind {}:{}", layout.address, listener.port);
    if (listener.tls)
      text += fmt::format(" ssl crt-list {} alpn h2,http/1.1 crt-ignore-err all ca-ignore-err all",
                          layout.certificateList());
    text += "\n";
  }
  text += routing(config, layout);
  text += kForwarding;
  text +=
      "backend nothing\n  http-request return status 404 content-type 'text/plain; charset=utf-8' string 'default "
      "backend - 404'\n";
  size_t line = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  for (const auto& [name, backend] : config.backends) {
    out.backends[line] = name;
    std::string section = fmt::format("backend {}\n", name);
    for (const std::string& one : backend.lines) section += "  " + withFiles(one, config, layout) + "\n";
    section += "  http-request disable-l7-retry unless METH_GET\n";
    auto placed = slots.find(name);
    for (size_t i = 0; placed != slots.end() && i < placed->second.size(); ++i) {
      const auto& server = placed->second[i];
      section +=
          fmt::format("  server s{} {}:{} {}{}\n", i, server ? server->address : "127.0.0.1", server ? server->port : 1,
                      backend.serverOptions, server && !server->leaving ? "" : " disabled");
    }
    line += static_cast<size_t>(std::count(section.begin(), section.end(), '\n'));
    text += section;
  }
  return out;
}

std::string renderMap(const std::map<std::string, std::string>& map) {
  std::string out;
  for (const auto& [key, value] : map) out += fmt::format("{} {}\n", key, value);
  return out;
}

std::string renderPatterns(const Config& config) {
  std::string out;
  for (const auto& [pattern, route] : config.patterns) out += fmt::format("{} {}\n", pattern, route);
  return out;
}

std::string certificateFilter(const Certificate& certificate, const Layout& layout) {
  std::string out;
  if (!certificate.options.empty()) {
    std::string options = certificate.options;
    if (size_t at = options.find('@'); at != std::string::npos)
      options = options.substr(0, at) + layout.file(options.substr(at + 1));
    out += "[" + options + "]";
  }
  for (const std::string& host : certificate.hosts) out += (out.empty() ? "" : " ") + host;
  return out;
}

std::string renderCertificateList(const Config& config, const Layout& layout) {
  std::string out = layout.folder + "/default.pem\n";
  for (const auto& [name, certificate] : config.certificates)
    out += fmt::format("{} {}\n", layout.certificate(name), certificateFilter(certificate, layout));
  return out;
}

}  // namespace dhow::ingress
