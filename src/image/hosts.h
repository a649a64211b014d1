// How registries are reached: mirrors, CAs, client certificates, credentials. Comes from registries.yaml and from code.
//
//   registries:
//     docker.io:
//       mirrors: [https://mirror.example:5000]   # tried first, in order
//     registry.example:5000:
//       endpoint: https://10.0.0.5:5000          # instead of https://registry.example:5000
//       ca: /etc/dhow/registry-ca.pem            # path, or the PEM itself
//       certificate: client.pem                  # with key:, a client certificate (path or PEM)
//       key: client-key.pem
//       username: me
//       password: secret
//       insecure: true                           # no certificate check, plain http if need be
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "image/reference.h"

namespace dhow::image {

struct Credentials {
  std::string username, password;
  std::string identityToken;  // OAuth2 refresh token
  std::string registryToken;  // bearer token, sent as it is
  bool empty() const { return username.empty() && identityToken.empty() && registryToken.empty(); }
};

struct RegistryHost {
  std::vector<std::string> mirrors;  // URLs, tried before the registry itself
  std::string endpoint;              // URL of the registry itself; empty: from its name
  std::string caPem, certificatePem, keyPem;
  Credentials credentials;
  bool insecure = false;
};

using RegistryHosts = std::map<std::string, RegistryHost>;  // by domain, as in references

Result<RegistryHosts> parseRegistryHosts(std::string_view yaml, const std::string& folder);
// A missing file is an empty table.
Result<RegistryHosts> loadRegistryHosts(const std::string& path);

// Credentials of a Docker config: {"auths": {"host": {"auth": ...}}} (.dockerconfigjson) or its inner map (.dockercfg).
class Keyring {
 public:
  Result<> addDockerConfig(std::string_view json);
  void add(std::string_view server, Credentials credentials);
  // What fits the reference, best first (longest path prefix; "*." in host names as in Kubernetes).
  std::vector<Credentials> lookup(const Reference& reference) const;

 private:
  std::vector<std::pair<std::string, Credentials>> entries_;
};

// X-Registry-Auth: base64url of {"username","password","identitytoken","registrytoken",...}. Empty is no credentials.
Result<Credentials> parseRegistryAuth(std::string_view header);

}  // namespace dhow::image
