// How this host asks the API.
#pragma once

#include "client/http_client.h"
#include "host/config.h"

namespace dhow::host {

// As the administrator on a master, and as the node elsewhere.
Result<client::HttpClient::Options> hostClientOptions(const HostConfig& config);
// As the node that this host is.
Result<client::HttpClient::Options> nodeClientOptions(const HostConfig& config);

}  // namespace dhow::host
