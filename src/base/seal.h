// AES-256-GCM (NIST SP 800-38D): bytes that only who has the key can read, and nobody change unnoticed.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace dhow {

inline constexpr size_t kSealKeySize = 32;

// A random nonce (12 bytes), the encrypted bytes and the tag (16). `context` is not part of it, and must be the same to
// open it. A key is good for some 2^32 of these. CHECKs the key's size.
std::string seal(std::string_view key, std::string_view context, std::string_view bytes);
// kDataLoss when it was not sealed with this key and context, or is not what was sealed.
Result<std::string> unseal(std::string_view key, std::string_view context, std::string_view sealed);

}  // namespace dhow
