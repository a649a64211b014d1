#include "client/bootstrap_token.h"

#include "base/digest.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"

namespace dhow::client {

namespace {

constexpr size_t kIdSize = 6, kSecretSize = 16;
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";

bool isWord(std::string_view text, size_t size) {
  return text.size() == size && text.find_first_not_of(kLetters) == text.npos;
}

std::string randomWord(size_t size) {
  // Bytes that would favour the first letters are drawn anew.
  constexpr size_t kFair = 256 - 256 % kLetters.size();
  std::string out;
  while (out.size() < size) {
    for (const char byte : randomBytes(size)) {
      const auto value = static_cast<unsigned char>(byte);
      if (value < kFair && out.size() < size) out.push_back(kLetters[value % kLetters.size()]);
    }
  }
  return out;
}

std::string dataOf(const object::Object& secret, std::string_view key) {
  return fromBase64(text(secret.root(), {"data", key})).value_or("");
}

}  // namespace

std::optional<BootstrapToken> BootstrapToken::parse(std::string_view text) {
  const auto parts = splitOnce(text, '.');
  if (!parts || !isWord(parts->first, kIdSize) || !isWord(parts->second, kSecretSize)) return std::nullopt;
  return BootstrapToken{std::string(parts->first), std::string(parts->second)};
}

BootstrapToken BootstrapToken::generate() {
  return {randomWord(kIdSize), randomWord(kSecretSize)};
}

Result<BootstrapTokenRecord> readBootstrapToken(const object::Object& secret) {
  auto wrong = [&](std::string_view what) {
    return Error(Code::kInvalid, fmt::format("secret {}: {}", secret.name(), what));
  };
  if (text(secret.root(), {"type"}) != kBootstrapTokenType) return wrong("its type is another");
  BootstrapTokenRecord record;
  auto token = BootstrapToken::parse(dataOf(secret, "token-id") + "." + dataOf(secret, "token-secret"));
  if (!token) return wrong("token-id and token-secret are no token");
  record.token = std::move(*token);
  if (secret.name() != record.token.secretName()) return wrong("its name is not bootstrap-token-<token-id>");
  if (const auto expiration = dataOf(secret, "expiration"); !expiration.empty()) {
    record.expires = parseTime(expiration);
    // What cannot be read must not live for ever.
    if (!record.expires) return wrong("expiration is no time");
  }
  record.authenticates = dataOf(secret, "usage-bootstrap-authentication") == "true";
  record.signs = dataOf(secret, "usage-bootstrap-signing") == "true";
  record.description = dataOf(secret, "description");
  const auto groups = dataOf(secret, "auth-extra-groups");
  for (const auto& part : split(groups, ',')) {
    const auto group = trim(part);
    if (group.empty()) continue;
    if (!group.starts_with("system:bootstrappers:"))
      return wrong("auth-extra-groups must begin with system:bootstrappers:");
    record.groups.emplace_back(group);
  }
  return record;
}

json::object bootstrapTokenSecret(const BootstrapTokenRecord& record) {
  json::object data{{"token-id", record.token.id}, {"token-secret", record.token.secret}};
  if (record.expires) data["expiration"] = formatTime(*record.expires);
  if (record.authenticates) data["usage-bootstrap-authentication"] = "true";
  if (record.signs) data["usage-bootstrap-signing"] = "true";
  if (!record.groups.empty()) data["auth-extra-groups"] = join(record.groups, ",");
  if (!record.description.empty()) data["description"] = record.description;
  return {{"apiVersion", "v1"},
          {"kind", "Secret"},
          {"metadata", json::object{{"name", record.token.secretName()}, {"namespace", kBootstrapTokenNamespace}}},
          {"type", kBootstrapTokenType},
          {"stringData", std::move(data)}};
}

}  // namespace dhow::client
