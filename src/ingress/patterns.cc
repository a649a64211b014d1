#include "patterns.h"

#include <regex>

namespace dhow::ingress {

namespace {

constexpr size_t kLongestPattern = 512;

}  // namespace

bool isPattern(const std::string& pattern) {
  if (pattern.size() > kLongestPattern) return false;
  // PCRE's, which ECMAScript does not have.
  const size_t from = pattern.starts_with("(?i)") ? 4 : 0;
  try {
    static_cast<void>(std::regex(pattern.substr(from), std::regex::ECMAScript));
    return true;
  } catch (const std::regex_error&) {
    return false;
  }
}

}  // namespace dhow::ingress
