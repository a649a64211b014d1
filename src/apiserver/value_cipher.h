// How values of some kinds are kept in the store: encrypted with AES-256-GCM, as Kubernetes' API server does. A value
// is "k8s:enc:aesgcm:v1:<key's name>:" and what base/seal.h makes, sealed for its place in the store, so that values
// cannot be exchanged. Values that are not encrypted are read as they are.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dhow::apiserver {

class ValueCipher {
 public:
  // An EncryptionConfiguration (apiserver.config.k8s.io/v1) with the provider aesgcm, keys of 32 bytes, for secrets.
  // The first key writes, all read: to change keys put a new one second and restart every master, then first, and
  // restart again; what is stored is written anew as a master starts. kInvalid tells what is wrong.
  static Result<ValueCipher> parse(std::string_view config);

  bool covers(std::string_view storeKey) const;
  std::string seal(std::string_view storeKey, std::string_view value) const;
  // Whether it is not sealed with the key that writes.
  bool stale(std::string_view storeKey, std::string_view stored) const;
  Result<std::string> open(std::string_view storeKey, std::string_view stored) const;

 private:
  struct Key {
    std::string name, bytes;
  };
  std::vector<Key> keys_;
  std::vector<std::string> prefixes_;  // "/registry/secrets/"
};

// Whether a stored value is encrypted, by whatever key.
bool isEncrypted(std::string_view stored);

}  // namespace dhow::apiserver
