// Passwords checked against what htpasswd(1) writes: bcrypt, $apr1$ (its default: MD5 by Apache), {SHA}, {SSHA} and
// {PLAIN} (as nginx reads them), and of crypt(3) md5 ($1$), SHA-256 and SHA-512 ($5$, $6$), yescrypt ($y$) and DES.
// Any thread. Private to this folder.
#pragma once

#include <string>
#include <string_view>

namespace dhow::ingress {

// Whether passwords can be checked against it, in a second at most: the cost that it asks for has a limit.
bool isPasswordHash(std::string_view hash);
// Takes as long as the hash asks for. A password is at most 512 bytes, without a zero byte; no other matches.
bool passwordMatches(std::string_view password, std::string_view hash);

}  // namespace dhow::ingress
