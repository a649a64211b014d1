// Fuzzer of what others send: the first byte picks the parser.
#include <cstdint>
#include <string>

#include "byte_source.h"
#include "endpoint.h"
#include "image/hosts.h"
#include "image/reference.h"
#include "image/spec.h"
#include "store_rep.h"
#include "tar.h"

using namespace dhow;
using namespace dhow::image;

namespace {

void readTar(std::string bytes) {
  auto source = decompressed(memorySource(std::move(bytes)));
  TarReader tar(*source);
  TarEntry entry;
  for (size_t total = 0; total < (64 << 20);) {
    auto more = tar.next(entry);
    if (!more.ok() || !*more) return;
    while (true) {
      auto data = tar.data();
      if (!data.ok()) return;
      if (data->empty()) break;
      total += data->size();
      if (total > (64 << 20)) return;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 8) {
    case 0: readTar(std::move(text)); break;
    case 1:
      if (auto parsed = Reference::parse(text); parsed.ok()) {
        auto again = Reference::parse(parsed->str());
        CHECK(again.ok() && *again == *parsed, "a reference does not survive a round trip: {}", parsed->str());
      }
      break;
    case 2: (void)parseManifest(text).ok(); break;
    case 3: (void)parseIndex(text).ok(); break;
    case 4:
      if (auto parsed = parseImageConfig(text); parsed.ok())
        CHECK(parseImageConfig(toJson(*parsed)).ok(), "a config does not survive a round trip");
      break;
    case 5: (void)parseChallenges(text); break;
    case 6: (void)parseRegistryHosts(text, "/nonexistent").ok(); break;
    case 7: {
      Keyring keyring;
      (void)keyring.addDockerConfig(text).ok();
      (void)parseRegistryAuth(text).ok();
      (void)parseRecords(text).ok();
      (void)Platform::parse(text).ok();
      break;
    }
  }
  return 0;
}
