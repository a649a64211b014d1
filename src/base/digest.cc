#include "base/digest.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/check.h"
#include "base/strings.h"

namespace dhow {

struct Sha256::Rep {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~Rep() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : rep_(std::make_unique<Rep>()) {
  CHECK(EVP_DigestInit_ex(rep_->context, EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() = default;
Sha256::Sha256(Sha256&&) noexcept = default;
Sha256& Sha256::operator=(Sha256&&) noexcept = default;

void Sha256::update(std::string_view bytes) {
  CHECK(EVP_DigestUpdate(rep_->context, bytes.data(), bytes.size()) == 1);
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  CHECK(EVP_DigestFinal_ex(rep_->context, digest, &size) == 1);
  return toHex({reinterpret_cast<char*>(digest), size});
}

std::string sha256Hex(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}

std::string randomBytes(size_t count) {
  std::string out(count, '\0');
  CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(out.data()), static_cast<int>(count)) == 1, "no randomness");
  return out;
}

std::string randomHex(size_t characters) {
  return toHex(randomBytes((characters + 1) / 2)).substr(0, characters);
}

std::string randomUuid() {
  std::string b = randomBytes(16);
  b[6] = static_cast<char>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<char>((b[8] & 0x3f) | 0x80);
  std::string h = toHex(b);
  return h.substr(0, 8) + "-" + h.substr(8, 4) + "-" + h.substr(12, 4) + "-" + h.substr(16, 4) + "-" + h.substr(20);
}

}  // namespace dhow
