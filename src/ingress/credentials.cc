#include "credentials.h"

#include <algorithm>

#include "base/pki.h"
#include "base/strings.h"
#include "client/fields.h"
#include "password_hash.h"

namespace dhow::ingress {

namespace {

constexpr size_t kMostUsers = 1000;

std::string dataOf(const object::Object& secret, std::string_view key) {
  return fromBase64(client::text(secret.root(), {"data", key})).value_or("");
}

// A blank line would end what is sent to HAProxy's socket.
std::string withoutBlankLines(std::string_view pem) {
  std::string out;
  for (const std::string& line : split(pem, '\n'))
    if (auto text = trim(line); !text.empty()) out += std::string(text) + "\n";
  return out;
}

Result<std::string> authorities(std::string_view pem) {
  std::string out;
  for (const std::string& one : certificatesOf(pem)) {
    RETURN_IF_ERROR(inspectCertificate(one));
    out += one + "\n";
  }
  if (out.empty()) return Error(Code::kInvalid, "its ca.crt holds no certificate");
  return withoutBlankLines(out);
}

}  // namespace

Result<std::string> certificateOf(const object::Object& secret) {
  const std::string certificate = dataOf(secret, "tls.crt"), key = dataOf(secret, "tls.key");
  if (certificate.empty() || key.empty()) return Error(Code::kInvalid, "it has no tls.crt or no tls.key");
  const std::vector<std::string> chain = certificatesOf(certificate);
  if (chain.empty()) return Error(Code::kInvalid, "its tls.crt holds no certificate");
  ASSIGN_OR_RETURN(std::string pin, pinOf(chain[0]));
  ASSIGN_OR_RETURN(std::string id, keyIdOf(key));
  // One is in hexadecimal, the other in base64.
  std::string bytes;
  const std::string hex = pin.substr(pin.find(':') + 1);
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  if (toBase64Url(bytes) != id) return Error(Code::kInvalid, "its tls.key does not belong to its tls.crt");
  std::string out;
  for (const std::string& one : chain) out += one + "\n";
  return withoutBlankLines(out + key);
}

Result<std::string> authoritiesOf(const object::Object& secret) {
  return authorities(dataOf(secret, "ca.crt"));
}

Result<std::string> authoritiesOfConfigMap(const object::Object& map) {
  return authorities(client::text(map.root(), {"data", "ca.crt"}));
}

Result<std::string> usersOf(const object::Object& secret, bool map, std::vector<std::string>& problems) {
  std::vector<std::pair<std::string, std::string>> users;
  if (map) {
    for (const auto& member : client::object(secret.root(), {"data"}))
      users.emplace_back(member.key(), trim(dataOf(secret, member.key())));
  } else {
    const std::string file = dataOf(secret, "auth");
    for (const std::string& line : split(file, '\n')) {
      auto parts = line.starts_with('#') ? std::nullopt : splitOnce(trim(line), ':');
      // What follows another colon is a comment, as nginx has it.
      if (parts) users.emplace_back(parts->first, parts->second.substr(0, parts->second.find(':')));
    }
  }
  std::string out;
  size_t count = 0;
  for (const auto& [name, hash] : users) {
    const bool named =
        !name.empty() && std::none_of(name.begin(), name.end(), [](unsigned char c) { return c <= ' '; });
    if (!named || hash.find('\n') != std::string::npos || !isPasswordHash(hash)) {
      problems.push_back(fmt::format(
          "the user \"{}\" is left out: its hash must be one that `htpasswd` or `openssl passwd` makes, and "
          "take no longer than a second",
          name));
      continue;
    }
    if (++count > kMostUsers) return Error(Code::kInvalid, fmt::format("it has more than {} users", kMostUsers));
    out += fmt::format("{}:{}\n", name, hash);
  }
  if (out.empty()) return Error(Code::kInvalid, map ? "it has no users" : "its key auth has no users");
  return out;
}

}  // namespace dhow::ingress
