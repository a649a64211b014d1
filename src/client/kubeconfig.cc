#include "client/kubeconfig.h"

#include "base/files.h"
#include "base/strings.h"
#include "base/yaml.h"
#include "client/fields.h"

namespace dhow::client {

namespace {

constexpr size_t kFileLimit = 1 << 20;

// The entry of a kubeconfig list ("clusters") by its name, and in it the part ("cluster"); null when there is none.
const json::object* named(const json::object& root, std::string_view list, std::string_view part,
                          std::string_view name) {
  for (const json::value& value : array(root, {list})) {
    if (value.is_object() && text(value.get_object(), "name") == name) return &object(value.get_object(), {part});
  }
  return nullptr;
}

// `data` holds base64 text, `file` a path; the text counts when both are there, as in kubectl.
Result<std::string> contentOf(const json::object& from, std::string_view data, std::string_view file,
                              const std::string& directory) {
  const std::string_view inlined = text(from, data);
  if (!inlined.empty()) {
    std::optional<std::string> decoded = fromBase64(inlined);
    if (!decoded) return Error(Code::kInvalid, fmt::format("{} is not base64", data));
    return std::move(*decoded);
  }
  const std::string_view path = text(from, file);
  if (path.empty()) return std::string();
  const std::string whole = path.starts_with('/') ? std::string(path) : directory + "/" + std::string(path);
  return readFile(whole, kFileLimit);
}

}  // namespace

Result<Kubeconfig> parseKubeconfig(std::string_view yaml, const std::string& directory, std::string_view context) {
  ASSIGN_OR_RETURN(json::value document, parseYaml(yaml));
  const json::object* root = document.if_object();
  if (root == nullptr) return Error(Code::kInvalid, "the kubeconfig is not a mapping");
  if (context.empty()) context = text(*root, "current-context");
  if (context.empty()) return Error(Code::kInvalid, "the kubeconfig has no current-context");
  const json::object* chosen = named(*root, "contexts", "context", context);
  if (chosen == nullptr) return Error(Code::kInvalid, fmt::format("the kubeconfig has no context \"{}\"", context));
  const std::string_view clusterName = text(*chosen, "cluster");
  const json::object* cluster = named(*root, "clusters", "cluster", clusterName);
  if (cluster == nullptr)
    return Error(Code::kInvalid, fmt::format("the kubeconfig has no cluster \"{}\"", clusterName));
  Kubeconfig out;
  out.server = text(*cluster, "server");
  if (out.server.empty()) return Error(Code::kInvalid, fmt::format("cluster \"{}\" has no server", clusterName));
  while (out.server.ends_with('/')) out.server.pop_back();
  out.ns = text(*chosen, "namespace");
  if (out.ns.empty()) out.ns = "default";
  out.insecureSkipVerify = flag(*cluster, {"insecure-skip-tls-verify"});
  ASSIGN_OR_RETURN(out.caPem, contentOf(*cluster, "certificate-authority-data", "certificate-authority", directory));
  const std::string_view userName = text(*chosen, "user");
  if (userName.empty()) return out;
  const json::object* user = named(*root, "users", "user", userName);
  if (user == nullptr) return Error(Code::kInvalid, fmt::format("the kubeconfig has no user \"{}\"", userName));
  for (std::string_view plugin : {"exec", "auth-provider"}) {
    if (user->contains(plugin)) {
      return Error(Code::kUnimplemented,
                   fmt::format("user \"{}\" signs in by {}, which is not supported", userName, plugin));
    }
  }
  http::KeyPair pair;
  ASSIGN_OR_RETURN(pair.certificatePem, contentOf(*user, "client-certificate-data", "client-certificate", directory));
  ASSIGN_OR_RETURN(pair.privateKeyPem, contentOf(*user, "client-key-data", "client-key", directory));
  if (pair.certificatePem.empty() != pair.privateKeyPem.empty()) {
    return Error(Code::kInvalid, fmt::format("user \"{}\" needs a client certificate and its key", userName));
  }
  if (!pair.certificatePem.empty()) out.keyPair = std::move(pair);
  out.token = text(*user, "token");
  const std::string_view tokenFile = text(*user, "tokenFile");
  if (!tokenFile.empty()) {
    const std::string whole =
        tokenFile.starts_with('/') ? std::string(tokenFile) : directory + "/" + std::string(tokenFile);
    ASSIGN_OR_RETURN(std::string token, readFile(whole, kFileLimit));
    out.token = trim(token);
  }
  return out;
}

Result<Kubeconfig> loadKubeconfig(const std::string& path, std::string_view context) {
  ASSIGN_OR_RETURN(std::string text, readFile(path, kFileLimit));
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1));
  Result<Kubeconfig> config = parseKubeconfig(text, directory, context);
  if (!config.ok()) return std::move(config).error().wrap(path);
  return config;
}

Result<HttpClient::Options> httpOptions(const Kubeconfig& config) {
  HttpClient::Options out;
  out.servers = {config.server};
  out.bearerToken = config.token;
  if (config.server.starts_with("https:")) {
    http::TlsClient::Options tls;
    tls.caPem = config.caPem;
    tls.keyPair = config.keyPair;
    tls.insecureSkipVerify = config.insecureSkipVerify;
    ASSIGN_OR_RETURN(out.tls, http::TlsClient::create(std::move(tls)));
  }
  return out;
}

}  // namespace dhow::client
