// libFuzzer entry for the small readers that every floor uses on outside bytes. The first byte chooses one.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/pki.h"
#include "base/strings.h"
#include "base/time.h"

using namespace dhow;

namespace {

// Tokens that are signed well, so that what follows the signature's check is reached, too.
void readToken(std::string_view bytes) {
  static const std::string kKey = generatePrivateKey();
  static const std::vector<std::string> kKeys = {publicKeyOf(kKey).value()};
  (void)verifyJwt(bytes, kKeys).ok();
  static const std::string kGood = signJwt(kKey, {{"sub", "a"}}).value();
  std::string changed = kGood;
  for (size_t i = 0; i + 1 < bytes.size(); i += 2)
    changed[static_cast<uint8_t>(bytes[i]) % changed.size()] = bytes[i + 1];
  if (verifyJwt(changed, kKeys).ok() && changed != kGood) {
    // Base64 may spell the last bits of a part in several ways; the claims are the same.
    CHECK(verifyJwt(changed, kKeys).value() == verifyJwt(kGood, kKeys).value(), "a forged token is taken");
  }
}

void readTexts(std::string_view bytes) {
  if (auto decoded = fromBase64(bytes)) {
    CHECK(fromBase64(toBase64(*decoded)) == decoded, "base64 does not survive a round trip");
    CHECK(fromBase64(toBase64Url(*decoded)) == decoded, "base64url does not survive a round trip");
  }
  (void)percentDecode(bytes, true);
  auto encoded = percentEncode(bytes);
  CHECK(percentDecode(encoded) == bytes, "percent encoding does not survive a round trip");
  if (auto time = parseTime(bytes)) {
    auto again = parseTime(formatTimeNano(*time));
    CHECK(again == time, "a time does not survive a round trip");
    (void)formatTime(*time);
    (void)formatTimeMicro(*time);
  }
  if (auto number = parseInt(bytes)) CHECK(parseInt(std::to_string(*number)) == number);
  if (auto number = parseUint(bytes)) CHECK(parseUint(std::to_string(*number)) == number);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: readToken(bytes); break;
    case 1: (void)inspectCertificate(bytes).ok(); break;
    case 2: (void)inspectCertificateRequest(bytes).ok(); break;
    default: readTexts(bytes);
  }
  return 0;
}
