// Bearer tokens. Service accounts': issued by TokenRequest, bound to a pod where asked, and proven on each request.
// Bootstrap tokens (client/bootstrap_token.h): good as long as their Secret says so.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <unordered_map>
#include <vector>

#include "apiserver/caller.h"
#include "apiserver/watch_cache.h"
#include "client/bootstrap_token.h"

namespace dhow::apiserver {

struct TokenOptions {
  std::string issuer = "https://kubernetes.default.svc.cluster.local";
  std::vector<std::string> audiences = {"https://kubernetes.default.svc.cluster.local"};  // the first is the default
  std::string signingKeyPem;
  std::vector<std::string> verifyKeysPem;  // beside the signing key: keys of before
};

class Tokens {
 public:
  Tokens(Loop& loop, WatchCache& caches, TokenOptions options);

  // POST serviceaccounts/<name>/token: the TokenRequest with its status filled in.
  Result<json::object> issue(std::string_view ns, std::string_view account, json::object request);
  // kUnauthenticated when it is not (any more) a valid token for one of `audiences` (empty: the server's own).
  Result<Caller> verify(const std::string& token, const std::vector<std::string>& audiences = {},
                        std::vector<std::string>* granted = nullptr);
  // Whether one that is refused may have been made just now by another server: its signature has been found good
  // before, or its secret may only have to be read.
  bool mayBecomeValid(const std::string& token) const;
  const TokenOptions& options() const { return options_; }
  // GET /openid/v1/jwks and /.well-known/openid-configuration.
  Result<json::object> keySet() const;
  json::object discovery() const;

 private:
  Result<json::object> claimsOf(const std::string& token);
  Result<Caller> verifyBootstrap(const client::BootstrapToken& token) const;

  Loop& loop_;
  KindCache& accounts_;
  KindCache& pods_;
  KindCache& secrets_;
  KindCache& nodes_;
  TokenOptions options_;
  std::vector<std::string> keys_;
  // Signatures that were found good: token -> claims. Times and bound objects are judged anew each time.
  std::unordered_map<std::string, json::object> proven_;
};

}  // namespace dhow::apiserver
