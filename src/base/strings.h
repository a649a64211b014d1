// Small text functions that several floors need.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dhow {

std::vector<std::string> split(std::string_view text, char separator);
// The part before and after the first separator; nothing when there is none.
std::optional<std::pair<std::string_view, std::string_view>> splitOnce(std::string_view text, char separator);
std::string join(std::span<const std::string> parts, std::string_view separator);
std::string_view trim(std::string_view text);
std::string toLower(std::string_view text);
bool equalsIgnoreCase(std::string_view a, std::string_view b);
// Whole text as a decimal number.
std::optional<int64_t> parseInt(std::string_view text);
std::optional<uint64_t> parseUint(std::string_view text);

std::string toHex(std::string_view bytes);
std::string toBase64(std::string_view bytes);
std::string toBase64Url(std::string_view bytes);  // without padding
// Both alphabets, padding optional.
std::optional<std::string> fromBase64(std::string_view text);
// RFC 3986; `plusIsSpace` for query strings.
std::string percentEncode(std::string_view text, std::string_view keep = "-._~");
std::optional<std::string> percentDecode(std::string_view text, bool plusIsSpace = false);

}  // namespace dhow
