// Bootstrap tokens: how a host that has no certificate yet shows itself to the API. "abcdef.0123456789abcdef" is kept
// as the Secret kube-system/bootstrap-token-abcdef of type bootstrap.kubernetes.io/token, and is the user
// system:bootstrap:abcdef in the group system:bootstrappers. Fields and names are Kubernetes' own ("Authenticating with
// Bootstrap Tokens"), so that kubeadm and kubectl read and make the same.
#pragma once

#include <boost/json/object.hpp>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "base/result.h"
#include "object/object.h"

namespace dhow::client {

inline constexpr const char* kBootstrapTokenType = "bootstrap.kubernetes.io/token";
inline constexpr const char* kBootstrapTokenNamespace = "kube-system";
inline constexpr const char* kBootstrapGroup = "system:bootstrappers";

struct BootstrapToken {
  std::string id, secret;  // 6 and 16 of a-z and 0-9

  static std::optional<BootstrapToken> parse(std::string_view text);
  static BootstrapToken generate();
  std::string str() const { return id + "." + secret; }
  std::string secretName() const { return "bootstrap-token-" + id; }
  std::string user() const { return "system:bootstrap:" + id; }
};

// What a Secret says of its token.
struct BootstrapTokenRecord {
  BootstrapToken token;
  std::optional<WallTime> expires;  // none: never
  bool authenticates = false;       // usage-bootstrap-authentication
  bool signs = false;               // usage-bootstrap-signing
  std::vector<std::string> groups;  // beside system:bootstrappers; each begins with "system:bootstrappers:"
  std::string description;

  bool expired(WallTime now) const { return expires && *expires <= now; }
};

// kInvalid with what is wrong: another type, a name that is not the token's, a group that it may not give.
Result<BootstrapTokenRecord> readBootstrapToken(const object::Object& secret);
boost::json::object bootstrapTokenSecret(const BootstrapTokenRecord& record);

}  // namespace dhow::client
