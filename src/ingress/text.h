// Words of HAProxy's configuration. Private to this folder.
#pragma once

#include <string>
#include <string_view>

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
  return quoted(out);
}

}  // namespace dhow::ingress
