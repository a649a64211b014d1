// `dhow token`: the bootstrap tokens of a cluster, and what else a host needs to join.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "client/bootstrap_token.h"
#include "client/client.h"
#include "host/config.h"

namespace dhow::host {

inline constexpr Duration kTokenLife = std::chrono::hours(24);
inline constexpr Duration kMasterTokenLife = std::chrono::hours(2);

struct TokenRequest {
  std::optional<Duration> life = kTokenLife;  // none: until it is deleted
  std::string description;
  std::vector<std::string> groups;  // beside that of nodes
};
struct NewToken {
  client::BootstrapTokenRecord record;
  client::ObjectPtr secret;
};
Task<Result<NewToken>> createToken(Loop& loop, client::Client& client, TokenRequest request);
// One for a further master of this one's cluster, and the key to what that needs (master_keys.h).
struct MasterToken {
  client::BootstrapToken token;
  std::string certificateKey;
};
Task<Result<MasterToken>> createMasterToken(Loop& loop, client::Client& client, HostConfig config,
                                            TokenRequest request);
// Those that can be read, oldest expiration first.
Task<Result<std::vector<client::BootstrapTokenRecord>>> listTokens(client::Client& client);
// By its id or whole. kNotFound.
Task<Result<>> deleteToken(client::Client& client, std::string token);

// What a user types on the host that joins.
std::string joinCommand(const std::string& server, const client::BootstrapToken& token,
                        const std::string& authorityPem);

}  // namespace dhow::host
