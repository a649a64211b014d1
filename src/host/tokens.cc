#include "host/tokens.h"

#include <algorithm>

#include "base/pki.h"
#include "master_keys.h"

namespace dhow::host {

namespace resources = object::resources;
using client::BootstrapToken;
using client::BootstrapTokenRecord;

namespace {
constexpr const char* kGroup = "system:bootstrappers:kubeadm:default-node-token";
}

Task<Result<NewToken>> createToken(Loop& loop, client::Client& client, TokenRequest request) {
  BootstrapTokenRecord record;
  record.token = BootstrapToken::generate();
  if (request.life) record.expires = loop.wallNow() + *request.life;
  record.authenticates = record.signs = true;
  record.groups = {kGroup};
  record.groups.insert(record.groups.end(), request.groups.begin(), request.groups.end());
  record.description = std::move(request.description);
  auto made = co_await client.create(resources::kSecrets, client::kBootstrapTokenNamespace,
                                     client::bootstrapTokenSecret(record));
  if (!made.ok()) co_return std::move(made).error().wrap("make a token");
  co_return NewToken{std::move(record), std::move(*made)};
}

Task<Result<MasterToken>> createMasterToken(Loop& loop, client::Client& client, HostConfig config,
                                            TokenRequest request) {
  CO_ASSIGN_OR_RETURN(auto keys, readMasterKeys(config));
  request.groups.emplace_back(kMasterTokenGroup);
  auto made = co_await createToken(loop, client, std::move(request));
  CO_RETURN_IF_ERROR(made);
  auto key = co_await putUp(client, std::move(keys), made->secret);
  CO_RETURN_IF_ERROR(key);
  co_return MasterToken{made->record.token, std::move(*key)};
}

Task<Result<std::vector<BootstrapTokenRecord>>> listTokens(client::Client& client) {
  client::ListOptions options;
  options.ns = client::kBootstrapTokenNamespace;
  options.fieldSelector = fmt::format("type={}", client::kBootstrapTokenType);
  auto listed = co_await client.list(resources::kSecrets, std::move(options));
  if (!listed.ok()) co_return std::move(listed).error().wrap("list tokens");
  std::vector<BootstrapTokenRecord> out;
  for (const auto& secret : listed->items) {
    auto record = client::readBootstrapToken(*secret);
    if (record.ok()) out.push_back(std::move(*record));
  }
  // Those without an end come last.
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) {
    const WallTime never = WallTime::max();
    return a.expires.value_or(never) < b.expires.value_or(never);
  });
  co_return out;
}

Task<Result<>> deleteToken(client::Client& client, std::string token) {
  const auto whole = BootstrapToken::parse(token);
  const std::string id = whole ? whole->id : token;
  if (!BootstrapToken::parse(id + ".0123456789abcdef"))
    co_return Error(Code::kInvalid, fmt::format("\"{}\" is neither a token nor a token's id", token));
  auto removed = co_await client.remove(resources::kSecrets, client::kBootstrapTokenNamespace,
                                        BootstrapToken{id, ""}.secretName(), {});
  if (!removed.ok() && removed.error().is(Code::kNotFound))
    co_return Error(Code::kNotFound, fmt::format("there is no token {}; `dhow token list` shows them", id));
  co_return removed;
}

std::string joinCommand(const std::string& server, const BootstrapToken& token, const std::string& authorityPem) {
  return fmt::format("dhow join {} --token {} --ca-hash {}", server, token.str(),
                     pinOf(authorityPem).valueOr("sha256:unknown"));
}

}  // namespace dhow::host
