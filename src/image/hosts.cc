#include "image/hosts.h"

#include <algorithm>

#include "base/files.h"
#include "base/strings.h"
#include "base/yaml.h"
#include "json_read.h"

namespace dhow::image {

namespace json = boost::json;
using namespace jsonread;

namespace {

Result<std::string> pemOf(const std::string& value, const std::string& folder) {
  if (value.empty() || value.find("-----BEGIN") != std::string::npos) return value;
  return readFile(value.front() == '/' ? value : folder + "/" + value, 1 << 20);
}

bool flagAt(const json::object& object, std::string_view key) {
  return boolAt(object, key) || toLower(stringAt(object, key)) == "true";
}

Result<> checkUrl(const std::string& url) {
  bool fine = url.starts_with("https://") || url.starts_with("http://");
  if (!fine) return Error(Code::kInvalid, "registries file: \"" + url + "\" is not an http or https URL");
  return {};
}

// "https://index.docker.io/v1/" and "docker.io" mean the same server.
std::string serverName(std::string_view server) {
  for (std::string_view scheme : {"https://", "http://"}) {
    if (server.starts_with(scheme)) server.remove_prefix(scheme.size());
  }
  while (server.ends_with('/')) server.remove_suffix(1);
  std::string out(server);
  for (std::string_view tail : {"/v1", "/v2"}) {
    if (out.ends_with(tail)) out.resize(out.size() - tail.size());
  }
  auto slash = out.find('/');
  std::string host = toLower(out.substr(0, slash));
  if (host == "index.docker.io" || host == "registry-1.docker.io") host = "docker.io";
  return slash == std::string::npos ? host : host + out.substr(slash);
}

// Kubernetes' rule: as many labels, "*" within a label stands for any text.
bool globMatches(std::string_view pattern, std::string_view text) {
  if (pattern.empty()) return text.empty();
  if (pattern.front() == '*') {
    for (size_t n = 0; n <= text.size(); ++n) {
      if (globMatches(pattern.substr(1), text.substr(n))) return true;
      if (n < text.size() && text[n] == '.') return false;
    }
    return false;
  }
  return !text.empty() && pattern.front() == text.front() && globMatches(pattern.substr(1), text.substr(1));
}

Credentials readAuth(const json::object& entry) {
  Credentials out;
  out.username = stringAt(entry, "username");
  out.password = stringAt(entry, "password");
  out.identityToken = stringAt(entry, "identitytoken");
  out.registryToken = stringAt(entry, "registrytoken");
  if (auto auth = stringAt(entry, "auth"); !auth.empty()) {
    if (auto decoded = fromBase64(auth)) {
      if (auto parts = splitOnce(*decoded, ':')) {
        out.username = parts->first;
        out.password = parts->second;
        while (out.password.ends_with('\0')) out.password.pop_back();
      }
    }
  }
  return out;
}

}  // namespace

Result<RegistryHosts> parseRegistryHosts(std::string_view yaml, const std::string& folder) {
  RegistryHosts out;
  if (trim(yaml).empty()) return out;
  if (yaml.size() > 1 << 20) return Error(Code::kTooLarge, "registries file is larger than 1 MiB");
  auto document = parseYaml(yaml);
  if (!document.ok()) return Error(Code::kInvalid, "registries file: " + document.error().message());
  const auto* registries = document->is_object() ? objectAt(document->get_object(), "registries") : nullptr;
  if (!registries) return Error(Code::kInvalid, "registries file has no map named registries");
  for (const auto& [domain, value] : *registries) {
    if (!value.is_object()) return Error(Code::kInvalid, "registries file: " + std::string(domain) + " is not a map");
    const auto& entry = value.get_object();
    RegistryHost host;
    for (const auto& [key, unused] : entry) {
      static const std::set<std::string_view> kKnown{"mirrors", "endpoint", "ca",       "certificate",
                                                     "key",     "username", "password", "insecure"};
      if (!kKnown.contains(key))
        return Error(Code::kInvalid,
                     "registries file: " + std::string(domain) + " has an unknown field " + std::string(key));
    }
    host.mirrors = stringsAt(entry, "mirrors");
    host.endpoint = stringAt(entry, "endpoint");
    for (const auto& mirror : host.mirrors) RETURN_IF_ERROR(checkUrl(mirror));
    if (!host.endpoint.empty()) RETURN_IF_ERROR(checkUrl(host.endpoint));
    ASSIGN_OR_RETURN(host.caPem, pemOf(stringAt(entry, "ca"), folder));
    ASSIGN_OR_RETURN(host.certificatePem, pemOf(stringAt(entry, "certificate"), folder));
    ASSIGN_OR_RETURN(host.keyPem, pemOf(stringAt(entry, "key"), folder));
    host.credentials.username = stringAt(entry, "username");
    host.credentials.password = stringAt(entry, "password");
    host.insecure = flagAt(entry, "insecure");
    out[std::string(domain)] = std::move(host);
  }
  return out;
}

Result<RegistryHosts> loadRegistryHosts(const std::string& path) {
  if (path.empty() || !pathExists(path)) return RegistryHosts();
  ASSIGN_OR_RETURN(auto text, readFile(path, 1 << 20));
  auto slash = path.rfind('/');
  auto hosts = parseRegistryHosts(text, slash == std::string::npos ? "." : path.substr(0, slash));
  if (!hosts.ok()) return std::move(hosts).error().wrap(path);
  return hosts;
}

Result<> Keyring::addDockerConfig(std::string_view text) {
  if (text.size() > 1 << 20) return Error(Code::kTooLarge, "docker config is larger than 1 MiB");
  ASSIGN_OR_RETURN(auto document, parseObject(text, "docker config"));
  const auto* auths = objectAt(document, "auths");
  if (!auths) auths = &document;
  for (const auto& [server, value] : *auths) {
    if (!value.is_object()) continue;
    auto credentials = readAuth(value.get_object());
    if (!credentials.empty()) add(server, std::move(credentials));
  }
  return {};
}

void Keyring::add(std::string_view server, Credentials credentials) {
  entries_.emplace_back(serverName(server), std::move(credentials));
}

std::vector<Credentials> Keyring::lookup(const Reference& reference) const {
  std::multimap<size_t, Credentials, std::greater<>> found;  // longest first, then in order
  for (const auto& [server, credentials] : entries_) {
    auto slash = server.find('/');
    std::string host = server.substr(0, slash), path = slash == std::string::npos ? "" : server.substr(slash + 1);
    if (!globMatches(host, toLower(reference.domain))) continue;
    if (!path.empty() && !(reference.path.starts_with(path) &&
                           (reference.path.size() == path.size() || reference.path[path.size()] == '/')))
      continue;
    found.emplace(server.size(), credentials);
  }
  std::vector<Credentials> out;
  for (auto& [length, credentials] : found) out.push_back(std::move(credentials));
  return out;
}

Result<Credentials> parseRegistryAuth(std::string_view header) {
  if (header.empty()) return Credentials();
  auto decoded = fromBase64(header);
  if (!decoded) return Error(Code::kBadRequest, "invalid X-Registry-Auth header: invalid base64");
  auto document = parseObject(*decoded, "X-Registry-Auth header");
  if (!document.ok()) return Error(Code::kBadRequest, "invalid X-Registry-Auth header: invalid JSON");
  return readAuth(*document);
}

}  // namespace dhow::image
