#include "apiserver/value_cipher.h"

#include <algorithm>

#include "base/seal.h"
#include "base/strings.h"
#include "base/yaml.h"
#include "client/fields.h"

namespace dhow::apiserver {

namespace json = boost::json;
using client::text;

namespace {

constexpr std::string_view kAny = "k8s:enc:";
constexpr std::string_view kOurs = "k8s:enc:aesgcm:v1:";

Error wrong(std::string what) {
  return Error(Code::kInvalid, "encryption configuration: " + std::move(what));
}

}  // namespace

bool isEncrypted(std::string_view stored) {
  return stored.starts_with(kAny);
}

Result<ValueCipher> ValueCipher::parse(std::string_view config) {
  auto parsed = parseYaml(config);
  if (!parsed.ok()) return std::move(parsed).error().wrap("encryption configuration");
  if (!parsed->is_object()) return wrong("not an object");
  const auto& root = parsed->get_object();
  if (text(root, "kind") != "EncryptionConfiguration") return wrong("its kind is not EncryptionConfiguration");
  const auto& resources = client::array(root, {"resources"});
  if (resources.size() != 1 || !resources[0].is_object()) return wrong("give one entry of resources");
  const auto& entry = resources[0].get_object();
  ValueCipher cipher;
  for (const auto& plural : client::strings(client::array(entry, {"resources"}))) {
    if (plural != "secrets" && plural != "configmaps")
      return wrong(fmt::format("resources: \"{}\": secrets and configmaps can be encrypted", plural));
    cipher.prefixes_.push_back(fmt::format("/registry/{}/", plural));
  }
  if (cipher.prefixes_.empty()) return wrong("resources: names no kind");
  for (const auto& value : client::array(entry, {"providers"})) {
    const auto* provider = value.if_object();
    if (!provider || provider->size() != 1) return wrong("providers: each must have one name");
    if (provider->contains("identity")) continue;
    if (!provider->contains("aesgcm"))
      return wrong(
          fmt::format("providers: \"{}\": aesgcm and identity are known", std::string_view(provider->begin()->key())));
    for (const auto& one : client::array(*provider, {"aesgcm", "keys"})) {
      const auto* key = one.if_object();
      std::string name(key ? text(*key, "name") : std::string_view());
      if (name.empty() || name.find(':') != name.npos) return wrong("a key's name must be there, without ':'");
      auto bytes = fromBase64(text(*key, "secret"));
      if (!bytes || bytes->size() != kSealKeySize)
        return wrong(fmt::format("key \"{}\": its secret is not the base64 of {} bytes", name, kSealKeySize));
      for (const auto& other : cipher.keys_) {
        if (other.name == name) return wrong(fmt::format("two keys are named \"{}\"", name));
      }
      cipher.keys_.push_back({std::move(name), std::move(*bytes)});
    }
  }
  if (cipher.keys_.empty()) return wrong("it has no key");
  return cipher;
}

bool ValueCipher::covers(std::string_view storeKey) const {
  return std::any_of(prefixes_.begin(), prefixes_.end(),
                     [&](const std::string& prefix) { return storeKey.starts_with(prefix); });
}

std::string ValueCipher::seal(std::string_view storeKey, std::string_view value) const {
  const auto& key = keys_.front();
  return fmt::format("{}{}:{}", kOurs, key.name, dhow::seal(key.bytes, storeKey, value));
}

bool ValueCipher::stale(std::string_view storeKey, std::string_view stored) const {
  return covers(storeKey) && !stored.starts_with(fmt::format("{}{}:", kOurs, keys_.front().name));
}

Result<std::string> ValueCipher::open(std::string_view storeKey, std::string_view stored) const {
  if (!isEncrypted(stored)) return std::string(stored);
  if (!stored.starts_with(kOurs)) return Error(Code::kDataLoss, "it is encrypted by a provider that is not known");
  auto rest = stored.substr(kOurs.size());
  auto colon = rest.find(':');
  if (colon == rest.npos) return Error(Code::kDataLoss, "it is cut short");
  for (const auto& key : keys_) {
    if (key.name == rest.substr(0, colon)) return unseal(key.bytes, storeKey, rest.substr(colon + 1));
  }
  return Error(Code::kDataLoss,
               fmt::format("it is encrypted with the key \"{}\", which is not configured", rest.substr(0, colon)));
}

}  // namespace dhow::apiserver
