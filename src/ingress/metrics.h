// HAProxy's counts as Prometheus reads them, with the names of those that people know. Private to this folder.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/result.h"
#include "ingress/config.h"

namespace dhow::ingress {

struct RawMetrics {
  std::string text;                            // as HAProxy's exporter has it
  std::map<std::string, std::string> servers;  // "backend/s0" -> "address:port"
};
// Of the HAProxy with these sockets. Blocks.
Result<RawMetrics> readMetrics(const std::string& metricsSocket, const std::string& adminSocket);

// Backends become namespace, service and port, servers addresses and pods, frontends gateways.
std::string labelledMetrics(const RawMetrics& raw, const Config& config,
                            const std::function<std::string(const std::string& address)>& podOf);

}  // namespace dhow::ingress
