#include "patterns.h"

#include <regex>
#include <string_view>

namespace dhow::ingress {

namespace {

constexpr size_t kLongestPattern = 512;

}  // namespace

bool isPattern(const std::string& pattern) {
  if (pattern.size() > kLongestPattern) return false;
  // What the two take in another way: empty sets, collating elements.
  for (std::string_view other : {"[]", "[^]", "[[.", "[[="})
    for (size_t at = pattern.find(other); at != std::string::npos; at = pattern.find(other, at + 1))
      if (at == 0 || pattern[at - 1] != '\\') return false;
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
