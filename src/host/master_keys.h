// What a further master needs of those that there are: authorities, keys and settings. They are put up in the Secret
// kube-system/dhow-certs, sealed with a key that only the join command carries (as kubeadm does with kubeadm-certs):
// who reads the store or the API learns nothing. The Secret belongs to its token, and goes with it.
#pragma once

#include <map>
#include <string>

#include "client/client.h"
#include "host/config.h"
#include "host/server.h"

namespace dhow::host {

inline constexpr const char* kMasterKeys = "dhow-certs";                               // in kube-system
inline constexpr const char* kMasterTokenGroup = "system:bootstrappers:dhow:masters";  // may read it

struct MasterKeys {
  std::map<std::string, std::string> files;  // under pki/
  MasterSettings settings;
  uint16_t port = 0;
};

// What this master has. kFailedPrecondition when its store is embedded: no other can share it. Blocks.
Result<MasterKeys> readMasterKeys(const HostConfig& config);

// Seals them for `token`, the Secret of a bootstrap token; gives the key, in hexadecimal.
Task<Result<std::string>> putUp(client::Client& client, MasterKeys keys, client::ObjectPtr token);
// kUnauthenticated when the key is not theirs.
Task<Result<MasterKeys>> fetchMasterKeys(client::Client& client, std::string certificateKey);

// The two halves of the above, without the API.
boost::json::object sealKeys(const MasterKeys& keys, std::string_view key);  // `data` of the Secret
Result<MasterKeys> unsealKeys(const boost::json::object& data, std::string_view key);

}  // namespace dhow::host
