// Reads a kubeconfig file (clientcmd v1): YAML or JSON; certificates inline or as files beside it; client certificates
// and tokens. Exec and auth-provider plug-ins are refused by name.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "client/http_client.h"
#include "http/tls.h"

namespace dhow::client {

struct Kubeconfig {
  std::string server;
  std::string caPem;
  std::optional<http::KeyPair> keyPair;
  std::string token;
  std::string ns;  // of the context; "default" when it names none
  bool insecureSkipVerify = false;
};

// `directory`: what relative file names in it start from. `context`: empty for the current one.
Result<Kubeconfig> parseKubeconfig(std::string_view text, const std::string& directory, std::string_view context = "");
Result<Kubeconfig> loadKubeconfig(const std::string& path, std::string_view context = "");
Result<HttpClient::Options> httpOptions(const Kubeconfig& config);

}  // namespace dhow::client
