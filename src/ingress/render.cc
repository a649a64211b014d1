#include "render.h"

#include <algorithm>

#include "access_record.h"
#include "base/strings.h"
#include "filter_lines.h"
#include "frontend_lines.h"
#include "text.h"

namespace dhow::ingress {

namespace {

// A node that dies is known to be dead within nine seconds: until then a request may meet its pods again and again, and
// the last try begins later, after twelve. A packet that is lost is sent again after one second.
constexpr std::string_view kDefaults = R"(defaults
  mode http
  option dontlognull
  option http-keep-alive
  option idle-close-on-response
  option redispatch 1
  retries 4
  retry-on conn-failure empty-response
  timeout connect 3s
  timeout client 60s
  timeout server 60s
  timeout http-request 10s
  timeout http-keep-alive 75s
  timeout queue 10s
  timeout tunnel 1h
)";

constexpr size_t kLongestUser = 37;  // a UUID and a zero byte
constexpr size_t kMostUsers = 100'000;

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
  tune.http.logurilen {}
{})",
                     layout.maxConnections, layout.hardStopSeconds, layout.socket, kLongestRequestLine,
                     config.files.contains(kFilterFile) ? fmt::format("  tune.bufsize {}\n", kFilterBuffer) : "");
  text += kDefaults;
  if (!layout.dnsAddress.empty())
    text += fmt::format("resolvers cluster\n  nameserver node {}\n  accepted_payload_size 4096\n",
                        endpointText(layout.dnsAddress, 53));
  if (!layout.metrics.empty())
    text += fmt::format(
        "frontend metrics\n  bind unix@{} mode 600\n  http-request use-service prometheus-exporter if {{ path /metrics "
        "}}\n",
        layout.metrics);
  if (asksFilter(config.files)) text += filterBackend(layout.filter);
  for (const auto& [name, idle] : tablesOf(config).idle)
    text +=
        fmt::format("backend {}\n  stick-table type string len {} size {} expire {}s store gpt0,server_id,server_key\n",
                    name, kLongestUser, kMostUsers, idle);
  size_t line = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  for (size_t i = 0; i < config.frontends.size(); ++i) {
    text += fmt::format("frontend edge_{}\n", config.frontends[i].name);
    ++line;
    for (const FrontendLine& one : frontendLines(config.frontends[i], layout)) {
      if (one.list != nullptr) out.lines[line] = {i, one.list, one.index};
      text += "  " + one.text + "\n";
      ++line;
    }
  }
  for (const Frontend& frontend : config.frontends)
    for (const std::string& one : handoverLines(frontend, layout)) text += one + "\n";
  text +=
      "backend nothing\n  http-request return status 404 content-type 'text/plain; charset=utf-8' string 'default "
      "backend - 404'\n";
  line = static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
  for (const auto& [name, backend] : config.backends) {
    out.backends[line] = name;
    std::string section = fmt::format("backend {}\n{}", name, backend.tcp ? "  mode tcp\n" : "");
    for (const std::string& one : backend.lines) section += "  " + withFiles(one, config, layout) + "\n";
    if (!backend.tcp) section += "  http-request disable-l7-retry unless METH_GET\n";
    auto placed = slots.find(name);
    for (size_t i = 0; placed != slots.end() && i < placed->second.size(); ++i) {
      const auto& server = placed->second[i];
      section += fmt::format("  server s{} {} {}{}\n", i,
                             server ? endpointText(server->address, server->port) : endpointText("127.0.0.1", 1),
                             withFiles(backend.serverOptions, config, layout), stateOption(server));
    }
    line += static_cast<size_t>(std::count(section.begin(), section.end(), '\n'));
    text += section;
  }
  return out;
}

std::map<std::string, Slots> slotsIn(std::string_view config) {
  std::map<std::string, Slots> out;
  Slots* slots = nullptr;
  for (const std::string& line : split(config, '\n')) {
    if (line.starts_with("backend ")) slots = &out[line.substr(8)];
    if (slots == nullptr || !line.starts_with("  server s")) continue;
    const std::vector<std::string> words = split(trim(line), ' ');
    const auto endpoint = words.size() > 2 ? readEndpoint(words[2]) : std::nullopt;
    if (words[1] != fmt::format("s{}", slots->size()) || !endpoint) continue;
    Server server{std::string(endpoint->address), endpoint->port, Server::State::kReady, ""};
    if (words.back() == "disabled") server.state = Server::State::kLeaving;
    if (words[words.size() - 2] == "weight") server.state = Server::State::kDraining;
    if (server.port == 1 && server.state == Server::State::kLeaving)
      slots->emplace_back();  // a place for one to come
    else
      slots->emplace_back(std::move(server));
  }
  return out;
}

Tables tablesOf(const Config& config) {
  Tables out;
  for (const auto& [name, backend] : config.backends) {
    if (!backend.sessions) continue;
    out.idle.emplace(backend.sessions->table, backend.sessions->idle);
    out.of.emplace(name, backend.sessions->table);
  }
  return out;
}

Tables tablesIn(std::string_view config) {
  Tables out;
  std::string backend;
  for (const std::string& line : split(config, '\n')) {
    if (line.starts_with("backend ")) backend = line.substr(8);
    const std::vector<std::string> words = split(trim(line), ' ');
    for (size_t i = 0; i + 1 < words.size(); ++i) {
      if (words[0] == "stick-table" && backend.starts_with(kTablePrefix) && words[i] == "expire")
        out.idle[backend] = parseInt(words[i + 1].substr(0, words[i + 1].size() - 1)).value_or(0);
      if (words[0] == "stick" && words[i] == "table") out.of[backend] = words[i + 1];
    }
  }
  return out;
}

std::string renderMap(const std::map<std::string, std::string>& map) {
  std::string out;
  for (const auto& [key, value] : map) out += fmt::format("{} {}\n", key, value);
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

std::string renderCertificateList(const Config& config, const Frontend& frontend, const Layout& layout) {
  std::string out;
  auto own = config.certificates.find(frontend.certificate);
  if (own == config.certificates.end())
    out = layout.folder + "/default.pem\n";
  else
    out = fmt::format("{} {}\n", layout.certificate(own->first), certificateFilter(own->second, layout));
  for (const auto& [name, certificate] : config.certificates)
    if (certificate.frontend == frontend.name && name != frontend.certificate)
      out += fmt::format("{} {}\n", layout.certificate(name), certificateFilter(certificate, layout));
  return out;
}

}  // namespace dhow::ingress
