// Words of HAProxy's configuration. Private to this folder.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/digest.h"
#include "base/strings.h"
#include "base/url_host.h"

namespace dhow::ingress {

// One argument of a line, whatever is in it (section 2.2 of the manual: in single quotes nothing is special).
inline std::string quoted(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'')
      out += "'\\''";
    else
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "'";
}

// The same where a format is read: a percent sign is one.
inline std::string literal(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '%') out += '%';
    out += c;
  }
  return ingress::quoted(out);
}

constexpr size_t kLongestQuoted = 1800;  // a line holds 2048 bytes

constexpr std::string_view kLettersAndDigits = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

// Whether it is a word of a line as it is: of letters, digits and these.
inline bool isWord(std::string_view text, std::string_view more) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [&](char c) {
    return kLettersAndDigits.find(c) != std::string_view::npos || more.find(c) != std::string_view::npos;
  });
}

// Whether it can be a word of a map: between those there are blanks.
inline bool mappable(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](unsigned char c) { return c <= ' ' || c == 0x7f || c == '\\'; });
}

// What is served by a backend on behalf of an object, as maps have it (config.h).
inline std::string routeOf(std::string_view backend, std::string_view kind, std::string_view key) {
  return std::string(backend) + "@" + std::string(kind) + "/" + std::string(key);
}

inline std::string backendOf(std::string_view route) {
  return std::string(route.substr(0, route.find('@')));
}

// A line with these words at its end, or several: one holds 64 words.
inline std::vector<std::string> linesOfWords(std::string_view begin, const std::vector<std::string>& words,
                                             std::string_view end = "") {
  constexpr size_t kMost = 50;
  std::vector<std::string> out;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i % kMost == 0) out.emplace_back(begin);
    out.back().append(" ").append(words[i]);
    if (i % kMost == kMost - 1 || i + 1 == words.size()) out.back() += end;
  }
  return out;
}

// "10.0.0.1:80", "[fd00::1]:80".
inline std::string endpointText(std::string_view address, uint64_t port) {
  return fmt::format("{}:{}", urlHost(address), port);
}

struct Endpoint {
  std::string_view address;
  uint16_t port = 0;
};
inline std::optional<Endpoint> readEndpoint(std::string_view text) {
  const size_t colon = text.rfind(':');
  auto port = colon == std::string_view::npos ? std::nullopt : parseUint(text.substr(colon + 1));
  if (!port || *port == 0 || *port > UINT16_MAX) return std::nullopt;
  std::string_view address = text.substr(0, colon);
  if (address.starts_with('[') && address.ends_with(']')) address = address.substr(1, address.size() - 2);
  return Endpoint{address, static_cast<uint16_t>(*port)};
}

// For names that are made of what they stand for.
inline std::string shortDigest(std::string_view text) {
  return sha256Hex(text).substr(0, 10);
}

// What a regular expression takes literally.
inline std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (std::string_view(R"(\.[]{}()*+?^$|)").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace dhow::ingress
