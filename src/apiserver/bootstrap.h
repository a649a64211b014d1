// What every cluster has from its first moment: namespaces, default roles and bindings, the service `kubernetes`.
#pragma once

#include "apiserver/local_client.h"

namespace dhow::apiserver {

// Makes what is missing, mends what is not as it should be; writes nothing when all is there.
Task<Result<>> bootstrap(LocalClient& client, WatchCache& caches, StrategyOptions services,
                         std::string advertiseAddress, uint16_t advertisePort);

}  // namespace dhow::apiserver
