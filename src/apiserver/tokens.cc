#include "apiserver/tokens.h"

#include <algorithm>

#include "base/digest.h"
#include "base/pki.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

constexpr size_t kMaxProven = 1024;
constexpr size_t kMaxToken = 16 << 10;
constexpr int64_t kMinSeconds = 600;
constexpr int64_t kMaxSeconds = int64_t{1} << 32;

int64_t seconds(WallTime time) {
  return std::chrono::duration_cast<std::chrono::seconds>(time.time_since_epoch()).count();
}
Error refused(std::string_view why) {
  return Error(Code::kUnauthenticated, fmt::format("invalid bearer token: {}", why));
}

}  // namespace

Tokens::Tokens(Loop& loop, WatchCache& caches, TokenOptions options)
    : loop_(loop),
      accounts_(caches.of(object::resources::kServiceAccounts)),
      pods_(caches.of(object::resources::kPods)),
      secrets_(caches.of(object::resources::kSecrets)),
      nodes_(caches.of(object::resources::kNodes)),
      options_(std::move(options)),
      keys_(options_.verifyKeysPem) {
  if (!options_.signingKeyPem.empty()) keys_.insert(keys_.begin(), options_.signingKeyPem);
}

Result<json::object> Tokens::issue(std::string_view ns, std::string_view account, json::object request) {
  auto found = accounts_.get(ns, account);
  if (!found) return notFound(object::resources::kServiceAccounts, account);
  if (options_.signingKeyPem.empty()) return Error(Code::kUnavailable, "this server has no key to sign tokens with");
  auto& spec = client::objectAt(request, "spec");
  int64_t lifetime = client::number(spec, {"expirationSeconds"}, 3600);
  if (lifetime < kMinSeconds || lifetime > kMaxSeconds) {
    return invalid("TokenRequest", "authentication.k8s.io", account,
                   {{"FieldValueInvalid",
                     fmt::format("Invalid value: {}: may not specify a duration {}", lifetime,
                                 lifetime < kMinSeconds ? "less than 10 minutes" : "larger than 2^32 seconds"),
                     "spec.expirationSeconds"}});
  }
  json::array audiences = array(spec, {"audiences"});
  if (audiences.empty()) audiences.emplace_back(options_.audiences.front());
  json::object bound{{"namespace", ns}, {"serviceaccount", json::object{{"name", account}, {"uid", found->uid()}}}};
  if (const auto& reference = client::object(spec, {"boundObjectRef"}); !reference.empty()) {
    auto kind = text(reference, "kind");
    auto name = text(reference, "name");
    ObjectPtr target = kind == "Pod"      ? pods_.get(ns, name)
                       : kind == "Secret" ? secrets_.get(ns, name)
                       : kind == "Node"   ? nodes_.get("", name)
                                          : nullptr;
    if (kind != "Pod" && kind != "Secret" && kind != "Node") {
      return Error(Code::kBadRequest, fmt::format("cannot bind token for serviceaccount \"{}\" to type {}, Kind={}",
                                                  account, text(reference, "apiVersion"), kind));
    }
    Resource resource = kind == "Pod"      ? object::resources::kPods
                        : kind == "Secret" ? object::resources::kSecrets
                                           : object::resources::kNodes;
    if (!target) return notFound(resource, name);
    if (auto uid = text(reference, "uid"); !uid.empty() && uid != target->uid()) {
      return conflict(resource, name,
                      fmt::format("the UID in the bound object reference ({}) does not match the UID in record. The "
                                  "object might have been deleted and then recreated",
                                  uid));
    }
    if (kind == "Pod") {
      auto own = text(target->root(), {"spec", "serviceAccountName"});
      if (own != account) {
        return Error(
            Code::kBadRequest,
            fmt::format(
                "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                account));
      }
      if (auto node = text(target->root(), {"spec", "nodeName"}); !node.empty()) {
        json::object onNode{{"name", node}};
        if (auto live = nodes_.get("", node)) onNode["uid"] = live->uid();
        bound["node"] = std::move(onNode);
      }
    }
    bound[toLower(kind)] = json::object{{"name", name}, {"uid", target->uid()}};
  }
  int64_t now = seconds(loop_.wallNow());
  std::string id = fmt::format("{:016x}{:016x}", loop_.random(), loop_.random());
  json::object claims{{"aud", audiences},
                      {"exp", now + lifetime},
                      {"iat", now},
                      {"nbf", now},
                      {"iss", options_.issuer},
                      {"jti", id},
                      {"sub", fmt::format("system:serviceaccount:{}:{}", ns, account)},
                      {"kubernetes.io", std::move(bound)}};
  ASSIGN_OR_RETURN(std::string token, signJwt(options_.signingKeyPem, claims));
  spec["audiences"] = std::move(audiences);
  spec["expirationSeconds"] = lifetime;
  request["apiVersion"] = "authentication.k8s.io/v1";
  request["kind"] = "TokenRequest";
  auto& metadata = client::metadataOf(request);
  metadata["name"] = account;
  metadata["namespace"] = ns;
  metadata["creationTimestamp"] = formatTime(loop_.wallNow());
  request["status"] =
      json::object{{"token", std::move(token)},
                   {"expirationTimestamp", formatTime(loop_.wallNow() + std::chrono::seconds(lifetime))}};
  return request;
}

Result<json::object> Tokens::claimsOf(const std::string& token) {
  if (auto known = proven_.find(token); known != proven_.end()) return known->second;
  if (token.size() > kMaxToken) return refused("it is too long");
  auto claims = verifyJwt(token, keys_);
  if (!claims.ok()) return refused(claims.error().message());
  if (proven_.size() >= kMaxProven) proven_.clear();
  proven_.emplace(token, *claims);
  return claims;
}

bool Tokens::mayBecomeValid(const std::string& token) const {
  return proven_.contains(token) || client::BootstrapToken::parse(token);
}

Result<Caller> Tokens::verifyBootstrap(const client::BootstrapToken& token) const {
  auto secret = secrets_.get(client::kBootstrapTokenNamespace, token.secretName());
  if (!secret || secret->deleting()) return refused("there is no such bootstrap token");
  auto record = client::readBootstrapToken(*secret);
  if (!record.ok()) return refused(record.error().message());
  // Takes as long for a nearly right guess as for a wrong one.
  if (sha256Hex(record->token.secret) != sha256Hex(token.secret)) return refused("its secret is wrong");
  if (record->expired(loop_.wallNow())) return refused("it has expired");
  if (!record->authenticates) return refused("it is not for authentication");
  Caller caller;
  caller.user = token.user();
  caller.groups = record->groups;
  caller.groups.emplace_back(client::kBootstrapGroup);
  caller.groups.emplace_back(kAuthenticated);
  return caller;
}

Result<Caller> Tokens::verify(const std::string& token, const std::vector<std::string>& audiences,
                              std::vector<std::string>* granted) {
  if (auto bootstrap = client::BootstrapToken::parse(token)) {
    // It is for this server alone.
    std::vector<std::string> own;
    for (const auto& one : audiences.empty() ? options_.audiences : audiences) {
      if (std::find(options_.audiences.begin(), options_.audiences.end(), one) != options_.audiences.end())
        own.push_back(one);
    }
    if (own.empty()) return refused("it is meant for another audience");
    ASSIGN_OR_RETURN(auto caller, verifyBootstrap(*bootstrap));
    if (granted) granted->insert(granted->end(), own.begin(), own.end());
    return caller;
  }
  ASSIGN_OR_RETURN(json::object claims, claimsOf(token));
  int64_t now = seconds(loop_.wallNow());
  if (text(claims, "iss") != options_.issuer) return refused("it was issued by somebody else");
  if (client::number(claims, {"exp"}, 0) <= now) return refused("it has expired");
  if (client::number(claims, {"nbf"}, 0) > now + 60) return refused("it is not valid yet");
  const auto& wanted = audiences.empty() ? options_.audiences : audiences;
  bool fits = false;
  for (const auto& one : wanted) {
    for (const auto& has : array(claims, {"aud"})) {
      if (!has.is_string() || has.get_string() != one) continue;
      fits = true;
      if (granted) granted->push_back(one);
    }
  }
  if (!fits) return refused("it is meant for another audience");
  const auto& bound = client::object(claims, {"kubernetes.io"});
  std::string ns(text(bound, "namespace"));
  std::string name(text(bound, {"serviceaccount", "name"}));
  auto account = accounts_.get(ns, name);
  if (!account || account->uid() != text(bound, {"serviceaccount", "uid"}))
    return refused("its service account has been deleted");
  Caller caller;
  caller.user = fmt::format("system:serviceaccount:{}:{}", ns, name);
  if (text(claims, "sub") != caller.user) return refused("its subject is wrong");
  caller.uid = account->uid();
  caller.groups = {"system:serviceaccounts", "system:serviceaccounts:" + ns, std::string(kAuthenticated)};
  if (auto id = text(claims, "jti"); !id.empty())
    caller.extra["authentication.kubernetes.io/credential-id"] = {fmt::format("JTI={}", id)};
  if (const auto& pod = client::object(bound, {"pod"}); !pod.empty()) {
    auto live = pods_.get(ns, text(pod, "name"));
    if (!live || live->uid() != text(pod, "uid")) return refused("its pod has been deleted");
    caller.extra["authentication.kubernetes.io/pod-name"] = {std::string(text(pod, "name"))};
    caller.extra["authentication.kubernetes.io/pod-uid"] = {std::string(text(pod, "uid"))};
  }
  if (const auto& secret = client::object(bound, {"secret"}); !secret.empty()) {
    auto live = secrets_.get(ns, text(secret, "name"));
    if (!live || live->uid() != text(secret, "uid")) return refused("its secret has been deleted");
  }
  if (const auto& node = client::object(bound, {"node"}); !node.empty()) {
    caller.extra["authentication.kubernetes.io/node-name"] = {std::string(text(node, "name"))};
    if (auto uid = text(node, "uid"); !uid.empty())
      caller.extra["authentication.kubernetes.io/node-uid"] = {std::string(uid)};
  }
  return caller;
}

Result<json::object> Tokens::keySet() const {
  json::array keys;
  for (const auto& pem : keys_) {
    ASSIGN_OR_RETURN(auto key, jsonWebKeyOf(pem));
    keys.push_back(std::move(key));
  }
  return json::object{{"keys", std::move(keys)}};
}

json::object Tokens::discovery() const {
  json::array types;
  types.emplace_back("id_token");
  json::array subjects;
  subjects.emplace_back("public");
  json::array algorithms;
  algorithms.emplace_back("ES256");
  return {{"issuer", options_.issuer},
          {"jwks_uri", options_.issuer + "/openid/v1/jwks"},
          {"response_types_supported", std::move(types)},
          {"subject_types_supported", std::move(subjects)},
          {"id_token_signing_alg_values_supported", std::move(algorithms)}};
}

}  // namespace dhow::apiserver
