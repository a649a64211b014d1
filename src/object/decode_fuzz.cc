// libFuzzer entry over everything that reads bytes from outside. Built by `ninja object_fuzz` (clang only).
#include <cstddef>
#include <cstdint>

#include "fuzz_body.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dhow::object::fuzzOne(std::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
