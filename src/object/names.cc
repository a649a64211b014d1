#include "object/names.h"

#include <arpa/inet.h>

#include <cstdint>

#include "base/strings.h"

namespace dhow::object {
namespace {

constexpr std::string_view kLabelText =
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an "
    "alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
constexpr std::string_view kSubdomainText =
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with "
    "an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
constexpr std::string_view kWildcardText =
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
    "lower "
    "case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used "
    "for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
constexpr std::string_view kDns1035Text =
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with "
    "an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')";
constexpr std::string_view kQualifiedText =
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
constexpr std::string_view kLabelValueText =
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an "
    "alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
constexpr std::string_view kEnvText =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
constexpr std::string_view kConfigKeyText =
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', "
    "regex used for validation is '[-._a-zA-Z0-9]+')";

bool lower(char c) {
  return c >= 'a' && c <= 'z';
}
bool digit(char c) {
  return c >= '0' && c <= '9';
}
bool alnum(char c) {
  return lower(c) || digit(c) || (c >= 'A' && c <= 'Z');
}

std::string tooLong(int limit) {
  return fmt::format("must be no more than {} bytes", limit);
}

bool label(std::string_view text) {
  if (text.empty() || text.front() == '-' || text.back() == '-') return false;
  for (char c : text)
    if (!lower(c) && !digit(c) && c != '-') return false;
  return true;
}

bool name(std::string_view text) {
  if (text.empty() || !alnum(text.front()) || !alnum(text.back())) return false;
  for (char c : text)
    if (!alnum(c) && c != '-' && c != '_' && c != '.') return false;
  return true;
}

}  // namespace

std::string checkDns1123Label(std::string_view text) {
  if (text.size() > 63) return tooLong(63);
  return label(text) ? "" : std::string(kLabelText);
}

std::string checkDns1123Subdomain(std::string_view text) {
  if (text.size() > 253) return tooLong(253);
  for (size_t start = 0; start <= text.size();) {
    size_t end = std::min(text.find('.', start), text.size());
    if (!label(text.substr(start, end - start))) return std::string(kSubdomainText);
    start = end + 1;
  }
  return "";
}

std::string checkWildcardDns1123Subdomain(std::string_view text) {
  if (text.size() > 253) return tooLong(253);
  const bool good = text.starts_with("*.") && checkDns1123Subdomain(text.substr(2)).empty();
  return good ? "" : std::string(kWildcardText);
}

std::string checkDns1035Label(std::string_view text) {
  if (text.size() > 63) return tooLong(63);
  return label(text) && lower(text.front()) ? "" : std::string(kDns1035Text);
}

std::string checkQualifiedName(std::string_view text) {
  std::string_view part = text;
  size_t slash = text.find('/');
  if (slash != std::string_view::npos) {
    std::string_view prefix = text.substr(0, slash);
    part = text.substr(slash + 1);
    if (part.find('/') != std::string_view::npos) {
      return "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
             "an alphanumeric "
             "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
             "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. "
             "'example.com/MyName')";
    }
    if (prefix.empty()) return "prefix part must be non-empty";
    if (std::string problem = checkDns1123Subdomain(prefix); !problem.empty()) return "prefix part " + problem;
  }
  if (part.empty()) return "name part must be non-empty; " + std::string(kQualifiedText);
  if (part.size() > 63) return "name part " + tooLong(63);
  return name(part) ? "" : std::string(kQualifiedText);
}

std::string checkLabelValue(std::string_view text) {
  if (text.size() > 63) return tooLong(63);
  return text.empty() || name(text) ? "" : std::string(kLabelValueText);
}

std::string checkPathSegment(std::string_view text) {
  if (text == "." || text == "..") return "may not be '" + std::string(text) + "'";
  for (char c : text)
    if (c == '/' || c == '%') return std::string("may not contain '") + c + "'";
  return "";
}

std::string checkEnvName(std::string_view text) {
  for (char c : text)
    if (c < ' ' || c > '~' || c == '=') return std::string(kEnvText);
  return "";
}

std::string checkConfigKey(std::string_view text) {
  if (text.size() > 253) return tooLong(253);
  if (text == ".") return "must not be '.'";
  if (text == "..") return "must not be '..'";
  if (text.starts_with("..")) return "must not start with '..'";
  bool good = !text.empty();
  for (char c : text) good = good && (alnum(c) || c == '-' || c == '_' || c == '.');
  return good ? "" : std::string(kConfigKeyText);
}

std::string checkPortName(std::string_view text) {
  if (text.size() > 15) return "must be no more than 15 characters";
  bool letter = false;
  for (char c : text) {
    if (!lower(c) && !digit(c) && c != '-') {
      return "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)";
    }
    letter |= lower(c);
  }
  if (!letter) return "must contain at least one letter (a-z)";
  if (text.find("--") != std::string_view::npos) return "must not contain consecutive hyphens";
  if (text.front() == '-' || text.back() == '-') return "must not begin or end with a hyphen";
  return "";
}

std::string checkPort(int64_t port) {
  return port >= 1 && port <= 65535 ? "" : "must be between 1 and 65535, inclusive";
}

std::string checkIp(std::string_view text) {
  std::string copy(text);
  unsigned char buffer[16];
  if (inet_pton(AF_INET, copy.c_str(), buffer) == 1 || inet_pton(AF_INET6, copy.c_str(), buffer) == 1) return "";
  return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
}

namespace {

struct Cidr {
  int family = 0, length = 0;
  unsigned char bytes[16] = {};
};

std::optional<Cidr> parseCidr(std::string_view text) {
  auto parts = splitOnce(text, '/');
  if (!parts) return std::nullopt;
  Cidr out;
  const std::string address(parts->first);
  if (inet_pton(AF_INET, address.c_str(), out.bytes) == 1)
    out.family = AF_INET;
  else if (inet_pton(AF_INET6, address.c_str(), out.bytes) == 1)
    out.family = AF_INET6;
  auto length = parseUint(parts->second);
  if (out.family == 0 || !length || *length > (out.family == AF_INET ? 32U : 128U)) return std::nullopt;
  out.length = static_cast<int>(*length);
  return out;
}

}  // namespace

std::string checkCidr(std::string_view text) {
  return parseCidr(text) ? "" : "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
}

bool strictlyInside(std::string_view cidr, std::string_view other) {
  auto inner = parseCidr(cidr), outer = parseCidr(other);
  if (!inner || !outer || inner->family != outer->family || inner->length <= outer->length) return false;
  for (int bit = 0; bit < outer->length; ++bit) {
    const int mask = 0x80 >> bit % 8;
    if ((inner->bytes[bit / 8] & mask) != (outer->bytes[bit / 8] & mask)) return false;
  }
  return true;
}

}  // namespace dhow::object
