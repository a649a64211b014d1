// SHA-256 as content is addressed by it, and randomness that may become a secret.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace dhow {

// Fed in pieces.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  void update(std::string_view bytes);
  std::string hex();  // ends it
 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

std::string sha256Hex(std::string_view bytes);
std::string randomBytes(size_t count);
std::string randomHex(size_t characters);
std::string randomUuid();  // version 4

}  // namespace dhow
