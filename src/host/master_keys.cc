#include "master_keys.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/digest.h"
#include "base/files.h"
#include "base/seal.h"
#include "base/strings.h"
#include "client/fields.h"
#include "platform/identities.h"
#include "platform/master_options.h"

namespace dhow::host {

namespace json = boost::json;
namespace resources = object::resources;
using client::text;

namespace {

constexpr const char* kSettings = "settings.json";
constexpr size_t kMaxFile = 256 << 10;
// Files of the masters, by their names under pki/. Nothing else is taken from a Secret.
constexpr const char* kFiles[] = {"ca.crt",          "ca.key",           "etcd-ca.crt",   "etcd-ca.key",  "sa.key",
                                  "encryption.yaml", "datastore-ca.crt", "datastore.crt", "datastore.key"};

json::object textsOf(const std::map<std::string, std::string>& map) {
  json::object out;
  for (const auto& [key, value] : map) out[key] = value;
  return out;
}

std::string settingsText(const MasterKeys& keys) {
  const auto& s = keys.settings;
  return json::serialize(json::object{{"port", keys.port},
                                      {"loadBalancerRange", s.loadBalancerRange},
                                      {"restricted", s.restricted},
                                      {"snapshotEvery", s.snapshotEvery},
                                      {"certificateSeconds", s.certificateSeconds},
                                      {"peers", textsOf(s.peers)},
                                      {"datastore", json::array(s.datastore.begin(), s.datastore.end())}});
}

Result<> readSettings(std::string_view bytes, MasterKeys& into) {
  boost::system::error_code error;
  auto parsed = json::parse(bytes, error);
  const auto port = error || !parsed.is_object() ? 0 : client::number(parsed.get_object(), {"port"}, 0);
  if (port < 1 || port > 65535) return Error(Code::kInvalid, "the masters' settings cannot be read");
  const auto& object = parsed.get_object();
  into.port = static_cast<uint16_t>(port);
  auto& s = into.settings;
  s.loadBalancerRange = text(object, "loadBalancerRange");
  s.restricted = client::flag(object, {"restricted"});
  s.snapshotEvery = static_cast<int>(client::number(object, {"snapshotEvery"}, 0));
  s.certificateSeconds = static_cast<int>(client::number(object, {"certificateSeconds"}, 0));
  for (const auto& [name, address] : client::object(object, {"peers"})) {
    if (address.is_string()) s.peers[name] = address.get_string();
  }
  s.datastore = client::strings(client::array(object, {"datastore"}));
  return {};
}

Error wrongKey() {
  return Error(Code::kUnauthenticated,
               "--certificate-key does not open the masters' keys: it belongs to another token; `dhow token create "
               "--master` on a master shows both");
}

// The key as bytes.
std::optional<std::string> keyOf(std::string_view hex) {
  if (hex.size() != 2 * kSealKeySize) return std::nullopt;
  std::string out;
  for (size_t i = 0; i < hex.size(); i += 2) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    const auto high = kDigits.find(hex[i]), low = kDigits.find(hex[i + 1]);
    if (high == kDigits.npos || low == kDigits.npos) return std::nullopt;
    out.push_back(static_cast<char>(high << 4 | low));
  }
  return out;
}

}  // namespace

Result<MasterKeys> readMasterKeys(const HostConfig& config) {
  const auto paths = config.paths();
  ASSIGN_OR_RETURN(auto options, platform::loadMasterOptions(paths.masterConfig()));
  if (!options.store.empty())
    return Error(Code::kFailedPrecondition,
                 "this cluster's store is embedded in its one master; further masters share an etcd: `dhow server "
                 "--store etcd` or --datastore begins such a cluster");
  MasterKeys keys;
  for (const char* name : kFiles) {
    if (!pathExists(paths.pki(name))) continue;
    ASSIGN_OR_RETURN(keys.files[name], readFile(paths.pki(name), kMaxFile));
  }
  keys.port = options.port;
  keys.settings.loadBalancerRange = options.loadBalancerRange;
  keys.settings.restricted = options.restricted;
  keys.settings.snapshotEvery = options.snapshotEvery;
  keys.settings.certificateSeconds = options.certificateSeconds;
  keys.settings.peers = options.peers;
  if (!options.member.empty()) return keys;
  keys.settings.datastore = options.etcd;
  const std::pair<const char*, const std::string*> files[] = {{"datastore-ca.crt", &options.etcdCaFile},
                                                              {"datastore.crt", &options.etcdCertFile},
                                                              {"datastore.key", &options.etcdKeyFile}};
  for (const auto& [name, path] : files) {
    if (path->empty()) continue;
    ASSIGN_OR_RETURN(keys.files[name], readFile(*path, kMaxFile));
  }
  return keys;
}

json::object sealKeys(const MasterKeys& keys, std::string_view key) {
  json::object data;
  for (const auto& [name, content] : keys.files) data[name] = toBase64(seal(key, name, content));
  data[kSettings] = toBase64(seal(key, kSettings, settingsText(keys)));
  return data;
}

Result<MasterKeys> unsealKeys(const json::object& data, std::string_view key) {
  MasterKeys keys;
  auto open = [&](const char* name) -> Result<std::string> {
    auto sealed = fromBase64(text(data, name));
    if (!sealed) return wrongKey();
    auto opened = unseal(key, name, *sealed);
    if (!opened.ok()) return wrongKey();
    return opened;
  };
  for (const char* name : kFiles) {
    if (!data.contains(name)) continue;
    ASSIGN_OR_RETURN(keys.files[name], open(name));
  }
  ASSIGN_OR_RETURN(auto settings, open(kSettings));
  RETURN_IF_ERROR(readSettings(settings, keys));
  for (const char* needed : {"ca.crt", "ca.key", "sa.key"}) {
    if (!keys.files.contains(needed)) return Error(Code::kInvalid, fmt::format("the masters' keys lack {}", needed));
  }
  return keys;
}

Task<Result<std::string>> putUp(client::Client& client, MasterKeys keys, client::ObjectPtr token) {
  const std::string key = randomBytes(kSealKeySize);
  json::object owner{{"apiVersion", "v1"}, {"kind", "Secret"}, {"name", token->name()}, {"uid", token->uid()}};
  json::object secret{{"apiVersion", "v1"},
                      {"kind", "Secret"},
                      {"metadata", json::object{{"name", kMasterKeys},
                                                {"namespace", "kube-system"},
                                                {"ownerReferences", json::array{std::move(owner)}}}},
                      {"data", sealKeys(keys, key)}};
  // Those of an earlier token cannot be opened by anybody who has not read them yet.
  auto removed = co_await client.remove(resources::kSecrets, "kube-system", kMasterKeys, {});
  if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return std::move(removed).error();
  auto made = co_await client.create(resources::kSecrets, "kube-system", std::move(secret));
  if (!made.ok()) co_return std::move(made).error().wrap("put up the masters' keys");
  co_return toHex(key);
}

Task<Result<MasterKeys>> fetchMasterKeys(client::Client& client, std::string certificateKey) {
  const auto key = keyOf(certificateKey);
  if (!key) co_return Error(Code::kInvalid, "--certificate-key: give 64 hexadecimal digits");
  auto secret = co_await client.get(resources::kSecrets, "kube-system", kMasterKeys);
  if (!secret.ok() && (secret.error().is(Code::kPermissionDenied) || secret.error().is(Code::kNotFound)))
    co_return Error(
        Code::kPermissionDenied,
        "the token is not one for masters, or their keys are no longer put up; `dhow token create --master` "
        "on a master makes one that is");
  CO_RETURN_IF_ERROR(secret);
  co_return unsealKeys(client::object((*secret)->root(), {"data"}), *key);
}

}  // namespace dhow::host
