// libFuzzer entry for what a host reads of a cluster that it does not trust yet, and for tokens. The first byte
// chooses.
#include <boost/json/object.hpp>

#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/pki.h"
#include "client/bootstrap_token.h"
#include "host/cluster_info.h"
#include "host/config.h"

using namespace dhow;

namespace {

void readClusterInfo(std::string_view bytes) {
  auto map = object::Object::make(
      {{"kind", "ConfigMap"}, {"metadata", {{"name", "cluster-info"}}}, {"data", {{"kubeconfig", bytes}}}});
  auto authority = host::authorityIn(*map);
  if (authority.ok()) (void)host::pinnedAuthority(*authority, {"sha256:" + std::string(64, '0')}).ok();
}

void readAuthority(std::string_view bytes) {
  for (const auto& certificate : certificatesOf(bytes)) (void)pinOf(certificate).ok();
}

void readToken(std::string_view bytes) {
  if (auto token = client::BootstrapToken::parse(bytes))
    CHECK(token->str() == bytes, "a token does not survive a round trip");
  (void)host::parseTaint(std::string(bytes)).ok();
  (void)host::parseLabel(std::string(bytes)).ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0: readClusterInfo(bytes); break;
    case 1: readAuthority(bytes); break;
    default: readToken(bytes);
  }
  return 0;
}
