// What every cluster has from its first moment: namespaces, default roles and bindings, the service `kubernetes`.
#pragma once

#include "apiserver/local_client.h"

namespace dhow::apiserver {

// Makes what is missing, mends what is not as it should be; writes nothing when all is there. Several servers may do it
// at the same time. `shared`: the addresses of other masters stay.
Task<Result<>> bootstrap(LocalClient& client, WatchCache& caches, StrategyOptions services,
                         std::string advertiseAddress, uint16_t advertisePort, bool shared);

// The endpoints of the service `kubernetes`: `exact` means these and no others.
Task<Result<>> publishMasters(LocalClient& client, WatchCache& caches, std::vector<std::string> addresses, bool exact,
                              uint16_t port);

}  // namespace dhow::apiserver
