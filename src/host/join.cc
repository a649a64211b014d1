#include "host/join.h"

#include "address.h"
#include "base/files.h"
#include "client/certificate_request.h"
#include "client/fields.h"
#include "client/http_client.h"
#include "client/node_lease.h"
#include "host/cluster_info.h"
#include "host/server.h"
#include "host_client.h"
#include "master_keys.h"
#include "platform/identities.h"
#include "platform/members.h"

namespace dhow::host {

namespace resources = object::resources;
using namespace std::chrono_literals;
using client::HttpClient;

namespace {

constexpr Duration kAnswerLimit = 15s;
constexpr Duration kCertificateLimit = 60s;

HttpClient::Options optionsFor(const JoinRequest& request, std::shared_ptr<http::TlsClient> tls) {
  HttpClient::Options options;
  options.servers = {request.server};
  options.tls = std::move(tls);
  options.userAgent = "dhow-join";
  options.requestTimeout = kAnswerLimit;
  return options;
}

Error told(Error error, const JoinRequest& request) {
  if (error.is(Code::kUnauthenticated))
    return Error(Code::kUnauthenticated,
                 fmt::format("{} does not take the token {}...: it is wrong, has expired or was deleted; `dhow token "
                             "create` on a master makes a new one",
                             request.server, request.token.substr(0, request.token.find('.'))));
  if (error.is(Code::kUnavailable) || error.is(Code::kDeadlineExceeded))
    return Error(
        error.code(),
        fmt::format("{} does not answer ({}): is a master there, and does a firewall let this machine reach it?",
                    request.server, error.message()));
  return error;
}

// Step 1. Whoever answers is asked for what anybody may know; the token stays here.
Task<Result<std::string>> findAuthority(Loop& loop, const JoinRequest& request) {
  http::TlsClient::Options tls;
  tls.insecureSkipVerify = true;
  CO_ASSIGN_OR_RETURN(auto blind, http::TlsClient::create(std::move(tls)));
  HttpClient api(loop, optionsFor(request, std::move(blind)));
  auto info = co_await api.get(resources::kConfigMaps, "kube-public", kClusterInfo);
  co_await api.stop();
  if (!info.ok() && (info.error().is(Code::kUnauthenticated) || info.error().is(Code::kPermissionDenied) ||
                     info.error().is(Code::kNotFound)))
    co_return Error(Code::kFailedPrecondition,
                    fmt::format("{} is no master that hosts can join: it shows no kube-public/{} ({})", request.server,
                                kClusterInfo, info.error().message()));
  if (!info.ok()) co_return told(std::move(info).error(), request);
  CO_ASSIGN_OR_RETURN(auto claimed, authorityIn(**info));
  co_return pinnedAuthority(claimed, request.caHashes);
}

Task<Result<>> checkName(HttpClient& api, std::string name, std::string cluster) {
  auto node = co_await api.get(resources::kNodes, "", name);
  if (!node.ok() && node.error().is(Code::kNotFound)) co_return Result<>();
  CO_RETURN_IF_ERROR(node);
  if (!client::conditionTrue((*node)->root(), "Ready")) co_return Result<>();
  co_return Error(
      Code::kAlreadyExists,
      fmt::format("cluster \"{}\" has a node \"{}\" that is Ready: give this machine another --node-name, or "
                  "take that node out first",
                  cluster, name));
}

// Steps 2 to 4.
struct Admission {
  HostConfig config;
  HostAddress place;
  Identity identity;               // of a node
  std::optional<MasterKeys> keys;  // of a master
};

// Step 4 of a further master: it gets what the others have, and needs nobody's certificate.
Task<Result<>> askForKeys(HttpClient& api, const JoinRequest& request, Admission& into) {
  auto keys = co_await fetchMasterKeys(api, request.certificateKey);
  CO_RETURN_IF_ERROR(keys);
  HostConfig& config = into.config;
  config.port = keys->port;
  auto& peers = keys->settings.peers;
  if (peers.contains(config.name))
    co_return Error(Code::kAlreadyExists, fmt::format("cluster \"{}\" has a master \"{}\": give this machine another "
                                                      "--node-name",
                                                      config.cluster, config.name));
  CO_RETURN_IF_ERROR(checkPortFree(config.address, config.port));
  if (config.member) {
    CO_RETURN_IF_ERROR(platform::findEtcd());
    peers[config.name] = config.address;
  }
  into.keys = std::move(*keys);
  co_return Result<>();
}

Task<Result<Admission>> askToJoin(Loop& loop, HttpClient& api, const JoinRequest& request) {
  auto stored = co_await api.get(resources::kConfigMaps, "kube-system", kDhowConfig);
  if (!stored.ok()) co_return told(std::move(stored).error(), request);
  CO_ASSIGN_OR_RETURN(auto info, clusterOf(**stored));
  Admission out;
  HostConfig& config = out.config;
  config.dataDir = request.dataDir;
  config.cluster = info.cluster;
  config.region = info.region;
  config.zone = request.zone.empty() ? info.region + "-1" : request.zone;
  config.podRange = info.podRange;
  config.serviceRange = info.serviceRange;
  config.podRange6 = info.podRange6;
  config.serviceRange6 = info.serviceRange6;
  config.ipv6First = info.ipv6First;
  config.master = request.master;
  config.member = request.master && info.memberOnEach;
  config.node = request.node;
  config.name = request.hostName;
  if (config.name.empty()) {
    CO_ASSIGN_OR_RETURN(config.name, defaultHostName());
  }
  CO_ASSIGN_OR_RETURN(auto place, findAddress(request.address, config.ipv6First));
  config.address = place.first(config.ipv6First);
  out.place = place;
  CO_RETURN_IF_ERROR(checkRangesFree({config.podRange, config.serviceRange, config.podRange6, config.serviceRange6}));
  auto free = co_await checkName(api, config.name, config.cluster);
  CO_RETURN_IF_ERROR(free);
  if (config.node) config.settings = networkSettings(!config.podRange6.empty());
  if (config.master) {
    auto given = co_await askForKeys(api, request, out);
    CO_RETURN_IF_ERROR(given);
    co_return out;
  }
  auto identity =
      co_await client::requestCertificate(loop, api, client::nodeCertificateRequest(config.name), kCertificateLimit);
  if (!identity.ok()) co_return std::move(identity).error().wrap("get a certificate for node " + config.name);
  out.identity = std::move(*identity);
  co_return out;
}

Result<> writeMasterFiles(const Admission& admission, WallTime now) {
  const auto& config = admission.config;
  const auto paths = config.paths();
  MasterSettings settings = admission.keys->settings;
  for (const auto& [name, content] : admission.keys->files)
    RETURN_IF_ERROR(writeFileDurably(paths.pki(name), content, 0600));
  const std::pair<const char*, std::string*> files[] = {{"datastore-ca.crt", &settings.datastoreCa},
                                                        {"datastore.crt", &settings.datastoreCert},
                                                        {"datastore.key", &settings.datastoreKey}};
  for (const auto& [name, into] : files) {
    if (admission.keys->files.contains(name)) *into = paths.pki(name);
  }
  RETURN_IF_ERROR(writeMaster(config, settings, now));
  if (config.node) RETURN_IF_ERROR(writeOwnNode(config, admission.place, now));
  return saveHost(config);
}

Result<> writeAll(const Admission& admission, const std::string& authorityPem, const JoinRequest& request,
                  WallTime now) {
  const auto paths = admission.config.paths();
  RETURN_IF_ERROR(makeDirs(paths.pki(), 0700));
  if (admission.config.master) return writeMasterFiles(admission, now);
  RETURN_IF_ERROR(makeDirs(paths.node(), 0700));
  RETURN_IF_ERROR(writeFileDurably(paths.authority(), authorityPem));
  RETURN_IF_ERROR(writeIdentityFile(platform::identityFile(paths.nodeIdentity()), admission.identity));
  RETURN_IF_ERROR(writeNodeConfig(admission.config, admission.place, {request.server},
                                  {.labels = request.labels, .taints = request.taints}));
  return saveHost(admission.config);
}

}  // namespace

Task<Result<HostConfig>> join(Loop& loop, JoinRequest request) {
  CO_RETURN_IF_ERROR(validate(request));
  if (hostExists(request.dataDir)) {
    CO_ASSIGN_OR_RETURN(auto present, loadHost(request.dataDir));
    co_return Error(Code::kAlreadyExists, fmt::format("this machine is {} of cluster \"{}\" already; {}",
                                                      present.master ? "a master" : "a node", present.cluster,
                                                      present.master ? "`dhow server --node` lets it run pods, too"
                                                                     : "`dhow leave` takes it out"));
  }
  CO_ASSIGN_OR_RETURN(auto authority, co_await findAuthority(loop, request));
  http::TlsClient::Options verified;
  verified.caPem = authority;
  CO_ASSIGN_OR_RETURN(auto tls, http::TlsClient::create(std::move(verified)));
  auto options = optionsFor(request, std::move(tls));
  options.bearerToken = request.token;
  HttpClient api(loop, std::move(options));
  auto admitted = co_await askToJoin(loop, api, request);
  co_await api.stop();
  CO_RETURN_IF_ERROR(admitted);
  auto written = writeAll(*admitted, authority, request, loop.wallNow());
  if (!written.ok()) {
    (void)removeTree(admitted->config.paths().root).ok();
    co_return std::move(written).error();
  }
  co_return std::move(admitted->config);
}

Task<Result<>> waitReady(Loop& loop, HostConfig config, Duration limit) {
  CO_ASSIGN_OR_RETURN(auto options, nodeClientOptions(config));
  HttpClient api(loop, std::move(options));
  // One that has left has said so of its Ingresses.
  auto done = co_await client::keepIngressClients(api, config.name);
  if (done.ok()) done = co_await client::awaitNode(loop, api, config.name, "", limit);
  co_await api.stop();
  co_return done;
}

}  // namespace dhow::host
