#include "password_hash.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <memory>

#include "base/strings.h"
#include "text.h"

namespace dhow::ingress {

namespace {

constexpr std::string_view kApache = "$apr1$", kPlain = "{PLAIN}", kSha = "{SHA}", kSaltedSha = "{SSHA}";
constexpr size_t kLongestPassword = 512;  // as crypt(3)
constexpr size_t kLongestHash = 384;      // as crypt(3)
constexpr size_t kLongestApacheSalt = 8, kApacheLength = 22;
constexpr size_t kDesLength = 13, kSha1Size = 20, kMd5Size = 16;
constexpr int64_t kMostBcryptCost = 14, kMostRounds = 1'000'000;
constexpr std::string_view kAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

std::string digest(const EVP_MD* kind, std::string_view bytes) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), out, &size, kind, nullptr) != 1) return "";
  return {reinterpret_cast<char*>(out), size};
}

bool same(std::string_view a, std::string_view b) {
  return !a.empty() && a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

// The last part of what Apache's apr_md5_encode() gives: FreeBSD's MD5 crypt with another name. Empty without MD5.
std::string apacheHash(std::string_view password, std::string_view salt) {
  const std::string word(password);
  std::string text = word + std::string(kApache) + std::string(salt);
  std::string sum = digest(EVP_md5(), word + std::string(salt) + word);
  if (sum.size() != kMd5Size) return "";
  for (size_t left = word.size(); left > 0; left -= std::min(left, kMd5Size))
    text += sum.substr(0, std::min(left, kMd5Size));
  for (size_t i = word.size(); i > 0; i >>= 1) text += (i & 1) != 0 ? '\0' : word[0];
  sum = digest(EVP_md5(), text);
  for (int round = 0; round < 1000; ++round) {
    text = (round & 1) != 0 ? word : sum;
    if (round % 3 != 0) text += salt;
    if (round % 7 != 0) text += word;
    text += (round & 1) != 0 ? sum : word;
    sum = digest(EVP_md5(), text);
  }
  std::string out;
  auto append = [&](unsigned value, int characters) {
    for (; characters > 0; --characters, value >>= 6) out += kAlphabet[value & 0x3f];
  };
  auto byte = [&](size_t i) { return static_cast<unsigned>(static_cast<unsigned char>(sum[i])); };
  for (size_t i = 0; i < 5; ++i) append(byte(i) << 16 | byte(i + 6) << 8 | byte(i == 4 ? 5 : i + 12), 4);
  append(byte(11), 2);
  return out;
}

struct Apache {
  std::string_view salt, hash;
};
std::optional<Apache> readApache(std::string_view hash) {
  hash.remove_prefix(kApache.size());
  const size_t end = hash.find('$');
  if (end > kLongestApacheSalt) return std::nullopt;  // or none
  Apache out{hash.substr(0, end), hash.substr(end + 1)};
  if (out.hash.size() != kApacheLength || !isWord(out.hash, "./")) return std::nullopt;
  return out;
}

// The digest and the salt after it.
std::string readSha(std::string_view hash) {
  return fromBase64(hash.substr(hash.find('}') + 1)).value_or("");
}

bool isCryptHash(const std::string& hash) {
  if (hash.size() > kLongestHash || hash.find_first_not_of(std::string(kAlphabet) + "$=,") != std::string::npos)
    return false;
  const std::string_view text = hash;
  if (!text.starts_with('$')) {
    if (text.size() != kDesLength || !isWord(text, "./")) return false;
  } else if (text.starts_with("$2a$") || text.starts_with("$2b$") || text.starts_with("$2y$")) {
    if (parseInt(text.substr(4, 2)).value_or(kMostBcryptCost + 1) > kMostBcryptCost) return false;
  } else if (text.starts_with("$5$rounds=") || text.starts_with("$6$rounds=")) {
    const std::string_view rounds = text.substr(10, text.find('$', 10) - 10);
    if (parseInt(rounds).value_or(kMostRounds + 1) > kMostRounds) return false;
  } else if (text.starts_with("$y$")) {
    // crypt(5): flavour, memory (2^14 blocks at most here) and block size as crypt_gensalt(3) chooses them.
    if (text.size() < 7 || text[3] != 'j' || kAlphabet.find(text[4]) > kAlphabet.find('B') ||
        (text[5] != '5' && text[5] != 'T') || text[6] != '$')
      return false;
  } else if (!text.starts_with("$1$") && !text.starts_with("$5$") && !text.starts_with("$6$")) {
    return false;
  }
  const int verdict = ::crypt_checksalt(hash.c_str());
  return verdict != CRYPT_SALT_INVALID && verdict != CRYPT_SALT_METHOD_DISABLED;
}

}  // namespace

bool isPasswordHash(std::string_view hash) {
  if (hash.starts_with(kPlain)) return hash.size() > kPlain.size();
  if (hash.starts_with(kSha)) return readSha(hash).size() == kSha1Size;
  if (hash.starts_with(kSaltedSha)) return readSha(hash).size() > kSha1Size;
  if (hash.starts_with(kApache)) return readApache(hash).has_value();
  return isCryptHash(std::string(hash));
}

bool passwordMatches(std::string_view password, std::string_view hash) {
  if (password.size() > kLongestPassword || password.find('\0') != std::string_view::npos) return false;
  if (!isPasswordHash(hash)) return false;
  if (hash.starts_with(kPlain)) return same(password, hash.substr(kPlain.size()));
  if (hash.starts_with(kSha)) return same(digest(EVP_sha1(), password), readSha(hash));
  if (hash.starts_with(kSaltedSha)) {
    const std::string both = readSha(hash), salt = both.substr(kSha1Size);
    return same(digest(EVP_sha1(), std::string(password) + salt), both.substr(0, kSha1Size));
  }
  if (hash.starts_with(kApache)) {
    const Apache apache = *readApache(hash);
    return same(apacheHash(password, apache.salt), apache.hash);
  }
  const std::string word(password), setting(hash);
  auto space = std::make_unique<struct crypt_data>();
  const char* made = ::crypt_rn(word.c_str(), setting.c_str(), space.get(), sizeof *space);
  return made != nullptr && same(made, hash);
}

}  // namespace dhow::ingress
