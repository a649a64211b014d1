#include "host_client.h"

#include "base/files.h"
#include "client/kubeconfig.h"

namespace dhow::host {

Result<client::HttpClient::Options> nodeClientOptions(const HostConfig& config) {
  ASSIGN_OR_RETURN(auto node, node::loadNodeOptions(config.paths().nodeConfig()));
  http::TlsClient::Options tls;
  ASSIGN_OR_RETURN(tls.caPem, readFile(node.caFile, 1 << 20));
  http::KeyPair pair;
  ASSIGN_OR_RETURN(pair.certificatePem, readFile(node.certFile, 1 << 20));
  ASSIGN_OR_RETURN(pair.privateKeyPem, readFile(node.keyFile, 1 << 20));
  tls.keyPair = std::move(pair);
  client::HttpClient::Options options;
  options.servers = node.servers;
  ASSIGN_OR_RETURN(options.tls, http::TlsClient::create(std::move(tls)));
  return options;
}

Result<client::HttpClient::Options> hostClientOptions(const HostConfig& config) {
  if (!config.master) return nodeClientOptions(config);
  ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(kKubeconfig));
  return client::httpOptions(kubeconfig);
}

}  // namespace dhow::host
