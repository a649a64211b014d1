// A certificate of the cluster's authority, asked for by a CertificateSigningRequest (certificates.k8s.io/v1): a new
// key, a request, and a watch until it is issued.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/pki.h"
#include "base/task.h"
#include "client/client.h"

namespace dhow::client {

struct CertificateRequest {
  std::string signer;  // "kubernetes.io/kube-apiserver-client-kubelet"
  std::string commonName;
  std::vector<std::string> organizations;
  std::vector<std::string> dnsNames, ipAddresses;
  std::vector<std::string> usages;     // "digital signature", "client auth", "server auth"
  std::optional<Duration> expiration;  // the signer may give less, and 10 minutes at least
};

// Who a node is to the API: CN system:node:<name>, O system:nodes.
CertificateRequest nodeCertificateRequest(const std::string& node);

// Outlives a server that is away meanwhile. kFailedPrecondition with the reason when it was denied, failed or removed;
// kDeadlineExceeded after `patience`; a refusal of the request as it came. The request stays behind: the cluster
// removes it. `loop` and `client` outlive the call.
Task<Result<Identity>> requestCertificate(Loop& loop, Client& client, CertificateRequest request, Duration patience);

}  // namespace dhow::client
