#include "base/seal.h"

#include <openssl/evp.h>

#include <memory>

#include "base/check.h"
#include "base/digest.h"

namespace dhow {

namespace {

constexpr size_t kNonce = 12, kTag = 16;

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};
using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, FreeContext>;

const unsigned char* in(std::string_view bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}
unsigned char* out(std::string& bytes, size_t at) {
  return reinterpret_cast<unsigned char*>(bytes.data()) + at;
}

}  // namespace

std::string seal(std::string_view key, std::string_view context, std::string_view bytes) {
  CHECK(key.size() == kSealKeySize, "a key of {} bytes", key.size());
  std::string sealed = randomBytes(kNonce);
  sealed.resize(kNonce + bytes.size() + kTag);
  CipherContext cipher(EVP_CIPHER_CTX_new());
  int written = 0;
  bool done =
      cipher && EVP_EncryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, in(key), out(sealed, 0)) == 1 &&
      EVP_EncryptUpdate(cipher.get(), nullptr, &written, in(context), static_cast<int>(context.size())) == 1 &&
      EVP_EncryptUpdate(cipher.get(), out(sealed, kNonce), &written, in(bytes), static_cast<int>(bytes.size())) == 1 &&
      EVP_EncryptFinal_ex(cipher.get(), out(sealed, kNonce + bytes.size()), &written) == 1 &&
      EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_GET_TAG, static_cast<int>(kTag),
                          out(sealed, kNonce + bytes.size())) == 1;
  CHECK(done, "AES-256-GCM is not available");
  return sealed;
}

Result<std::string> unseal(std::string_view key, std::string_view context, std::string_view sealed) {
  CHECK(key.size() == kSealKeySize, "a key of {} bytes", key.size());
  if (sealed.size() < kNonce + kTag) return Error(Code::kDataLoss, "sealed bytes are cut short");
  const size_t size = sealed.size() - kNonce - kTag;
  std::string bytes(size, '\0');
  std::string tag(sealed.substr(kNonce + size));
  CipherContext cipher(EVP_CIPHER_CTX_new());
  int written = 0;
  bool done = cipher && EVP_DecryptInit_ex(cipher.get(), EVP_aes_256_gcm(), nullptr, in(key), in(sealed)) == 1 &&
              EVP_DecryptUpdate(cipher.get(), nullptr, &written, in(context), static_cast<int>(context.size())) == 1 &&
              EVP_DecryptUpdate(cipher.get(), out(bytes, 0), &written, in(sealed.substr(kNonce)),
                                static_cast<int>(size)) == 1 &&
              EVP_CIPHER_CTX_ctrl(cipher.get(), EVP_CTRL_GCM_SET_TAG, static_cast<int>(kTag), tag.data()) == 1 &&
              EVP_DecryptFinal_ex(cipher.get(), out(bytes, size), &written) == 1;
  if (!done) return Error(Code::kDataLoss, "sealed with another key or for another place, or changed since");
  return bytes;
}

}  // namespace dhow
