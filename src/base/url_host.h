// Addresses as URLs write them.
#pragma once

#include <string>
#include <string_view>

namespace dhow {

// A name or IPv4 address as it is, an IPv6 address in brackets (RFC 3986, 3.2.2).
inline std::string urlHost(std::string_view host) {
  if (host.find(':') == std::string_view::npos) return std::string(host);
  return "[" + std::string(host) + "]";
}

}  // namespace dhow
