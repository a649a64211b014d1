#include "image/reference.h"

#include <algorithm>

#include "base/strings.h"

namespace dhow::image {
namespace {

constexpr std::string_view kDefaultDomain = "docker.io";
constexpr std::string_view kOfficial = "library/";

bool isLower(char c) {
  return c >= 'a' && c <= 'z';
}
bool isUpper(char c) {
  return c >= 'A' && c <= 'Z';
}
bool isNumber(char c) {
  return c >= '0' && c <= '9';
}
bool isAlnum(char c) {
  return isLower(c) || isUpper(c) || isNumber(c);
}
bool isHex(char c) {
  return isNumber(c) || (c >= 'a' && c <= 'f');
}

Error invalidFormat() {
  return Error(Code::kBadRequest, "invalid reference format");
}

bool isDomainLabel(std::string_view label) {
  if (label.empty() || !isAlnum(label.front()) || !isAlnum(label.back())) return false;
  return std::all_of(label.begin(), label.end(), [](char c) { return isAlnum(c) || c == '-'; });
}

bool isDomain(std::string_view text) {
  std::string_view host = text, port;
  bool hasPort = false;
  if (!text.empty() && text.front() == '[') {
    auto end = text.find(']');
    if (end == std::string_view::npos) return false;
    auto address = text.substr(1, end - 1);
    if (address.empty() || !std::all_of(address.begin(), address.end(),
                                        [](char c) { return isHex(c) || (c >= 'A' && c <= 'F') || c == ':'; }))
      return false;
    auto rest = text.substr(end + 1);
    if (rest.empty()) return true;
    if (rest.front() != ':') return false;
    hasPort = true;
    port = rest.substr(1);
  } else {
    if (auto parts = splitOnce(text, ':')) {
      host = parts->first;
      port = parts->second;
      hasPort = true;
    }
    for (const auto& label : split(host, '.')) {
      if (!isDomainLabel(label)) return false;
    }
  }
  return !hasPort || (!port.empty() && port.size() <= 5 && std::all_of(port.begin(), port.end(), isNumber));
}

// [a-z0-9]+ joined by one of ".", "_", "__" or any number of "-".
bool isPathComponent(std::string_view text) {
  if (text.empty() || text.back() == '.' || text.back() == '_' || text.back() == '-') return false;
  for (size_t i = 0; i < text.size();) {
    size_t start = i;
    while (i < text.size() && (isLower(text[i]) || isNumber(text[i]))) ++i;
    if (i == start) return false;
    if (i == text.size()) return true;
    start = i;
    char separator = text[i];
    if (separator != '.' && separator != '_' && separator != '-') return false;
    while (i < text.size() && text[i] == separator) ++i;
    size_t length = i - start;
    if ((separator == '.' && length > 1) || (separator == '_' && length > 2)) return false;
  }
  return true;
}

}  // namespace

bool isDigest(std::string_view text) {
  constexpr std::string_view kPrefix = "sha256:";
  if (text.size() != kPrefix.size() + 64 || !text.starts_with(kPrefix)) return false;
  text.remove_prefix(kPrefix.size());
  return std::all_of(text.begin(), text.end(), isHex);
}

bool isTag(std::string_view text) {
  if (text.empty() || text.size() > 128 || text.front() == '.' || text.front() == '-') return false;
  return std::all_of(text.begin(), text.end(), [](char c) { return isAlnum(c) || c == '_' || c == '.' || c == '-'; });
}

bool isRepositoryPath(std::string_view text) {
  if (text.empty() || text.size() > 255) return false;
  for (const auto& component : split(text, '/')) {
    if (!isPathComponent(component)) return false;
  }
  return true;
}

Result<Reference> Reference::parse(std::string_view text) {
  if (text.empty() || text.size() > 1024) return invalidFormat();
  if (text.size() == 64 && std::all_of(text.begin(), text.end(), isHex))
    return Error(Code::kBadRequest,
                 "invalid repository name (" + std::string(text) + "), cannot specify 64-byte hexadecimal strings");

  Reference out;
  std::string_view rest = text;
  if (auto parts = splitOnce(rest, '@')) {
    if (!isDigest(parts->second)) return invalidFormat();
    out.digest = parts->second;
    rest = parts->first;
  }
  std::string_view remainder = rest;
  auto slash = rest.find('/');
  std::string_view first = rest.substr(0, slash);
  bool hasDomain = slash != std::string_view::npos && (first.find_first_of(".:[") != std::string_view::npos ||
                                                       first == "localhost" || toLower(first) != first);
  if (hasDomain) {
    out.domain = first;
    remainder = rest.substr(slash + 1);
  } else {
    out.domain = kDefaultDomain;
  }
  if (out.domain == "index.docker.io") out.domain = kDefaultDomain;
  std::string_view path = remainder;
  if (auto colon = remainder.find(':'); colon != std::string_view::npos) {
    path = remainder.substr(0, colon);
    out.tag = remainder.substr(colon + 1);
    if (!isTag(out.tag)) return invalidFormat();
  }
  out.path = path;
  if (out.domain == kDefaultDomain && path.find('/') == std::string_view::npos)
    out.path = std::string(kOfficial) + out.path;
  if (toLower(out.path) != out.path)
    return Error(Code::kBadRequest, "invalid reference format: repository name (" + out.path + ") must be lowercase");
  if (!isDomain(out.domain)) return invalidFormat();
  for (const auto& component : split(out.path, '/')) {
    if (!isPathComponent(component)) return invalidFormat();
  }
  if (out.name().size() > 255) return Error(Code::kBadRequest, "repository name must not be more than 255 characters");
  return out;
}

std::string Reference::name() const {
  return domain + "/" + path;
}

std::string Reference::familiarName() const {
  if (domain != kDefaultDomain) return name();
  if (path.starts_with(kOfficial) && path.find('/', kOfficial.size()) == std::string::npos)
    return path.substr(kOfficial.size());
  return path;
}

std::string Reference::str() const {
  return name() + (tag.empty() ? "" : ":" + tag) + (digest.empty() ? "" : "@" + digest);
}

std::string Reference::familiar() const {
  return familiarName() + (tag.empty() ? "" : ":" + tag) + (digest.empty() ? "" : "@" + digest);
}

Reference Reference::withDefaultTag() const {
  Reference out = *this;
  if (out.tag.empty() && out.digest.empty()) out.tag = "latest";
  return out;
}

}  // namespace dhow::image
