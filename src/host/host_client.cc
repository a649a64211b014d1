#include "host_client.h"

#include "client/kubeconfig.h"
#include "http/tls_files.h"

namespace dhow::host {

Result<client::HttpClient::Options> nodeClientOptions(const HostConfig& config) {
  ASSIGN_OR_RETURN(auto node, node::loadNodeOptions(config.paths().nodeConfig()));
  client::HttpClient::Options options;
  options.servers = node.servers;
  ASSIGN_OR_RETURN(options.tls, http::loadTlsClient({node.caFile, node.certFile, node.keyFile}));
  return options;
}

Result<client::HttpClient::Options> hostClientOptions(const HostConfig& config) {
  if (!config.master) return nodeClientOptions(config);
  ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(kKubeconfig));
  return client::httpOptions(kubeconfig);
}

}  // namespace dhow::host
