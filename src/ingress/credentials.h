// What secrets hold, checked, as HAProxy wants it. Private to this folder.
#pragma once

#include "base/result.h"
#include "object/object.h"

namespace dhow::ingress {

// Certificates and key of a kubernetes.io/tls secret, in one PEM. kInvalid when the two do not belong together.
Result<std::string> certificateOf(const object::Object& secret);
// ca.crt of a secret, or of a config map.
Result<std::string> authoritiesOf(const object::Object& secret);
Result<std::string> authoritiesOfConfigMap(const object::Object& map);
// Users and their hashes, a line each (passwords.h), from a secret of them: a file of htpasswd's format, or (`map`) a
// key for each user. What cannot be used is told in `problems`.
Result<std::string> usersOf(const object::Object& secret, bool map, std::vector<std::string>& problems);

}  // namespace dhow::ingress
