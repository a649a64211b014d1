#include "base/version.h"

#include <elf.h>
#include <link.h>

#include "base/digest.h"
#include "base/files.h"
#include "base/strings.h"

namespace dhow {

namespace {

constexpr size_t kStampSize = 64;
constexpr size_t kBuildDigits = 12;
constexpr std::string_view kGnu("GNU\0", 4);

// Volatile: what counts is what the file says, not what the compiler knew.
[[gnu::section(".dhow.stamp"), gnu::used]] const volatile char kStamp[kStampSize] = "dhow " DHOW_VERSION " store 1 1";

// The note that the linker puts into the program (ld --build-id).
int findBuildId(dl_phdr_info* info, size_t, void* result) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& header = info->dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    const auto* at = reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
    const char* end = at + header.p_memsz;
    while (at + sizeof(ElfW(Nhdr)) <= end) {
      const auto* note = reinterpret_cast<const ElfW(Nhdr)*>(at);
      const char* name = at + sizeof *note;
      const char* content = name + (note->n_namesz + 3) / 4 * 4;
      at = content + (note->n_descsz + 3) / 4 * 4;
      if (at > end || note->n_type != NT_GNU_BUILD_ID || std::string_view(name, note->n_namesz) != kGnu) continue;
      *static_cast<std::string*>(result) = toHex({content, note->n_descsz});
    }
  }
  return 1;  // the first is the program, the others are libraries
}

ProgramInfo readThisProgram() {
  std::string stamp;
  for (volatile const char& c : kStamp) stamp.push_back(c);
  auto info = parseStamp(stamp).value_or(ProgramInfo{});
  ::dl_iterate_phdr(findBuildId, &info.build);
  if (info.build.empty()) info.build = sha256Hex(readFile("/proc/self/exe", size_t{1} << 30).valueOr(""));
  info.build.resize(kBuildDigits);
  return info;
}

}  // namespace

std::string Version::text() const {
  return fmt::format("{}.{}.{}", major, minor, patch);
}

std::optional<Version> parseVersion(std::string_view text) {
  Version version;
  int* parts[] = {&version.major, &version.minor, &version.patch};
  const auto words = split(text.substr(0, text.find_first_of("-+")), '.');
  if (words.size() != std::size(parts)) return std::nullopt;
  for (size_t i = 0; i < std::size(parts); ++i) {
    auto number = parseUint(words[i]);
    if (!number || *number > 1'000'000) return std::nullopt;
    *parts[i] = static_cast<int>(*number);
  }
  return version;
}

bool workTogether(const Version& a, const Version& b) {
  return a.major == b.major && std::abs(a.minor - b.minor) <= 1;
}

std::optional<ProgramInfo> parseStamp(std::string_view stamp) {
  const auto words = split(stamp.substr(0, stamp.find('\0')), ' ');
  if (words.size() != 5 || words[0] != "dhow" || words[2] != "store") return std::nullopt;
  auto version = parseVersion(words[1]);
  auto writes = parseUint(words[3]), reads = parseUint(words[4]);
  if (!version || !writes || !reads || *writes < 1 || *writes > *reads || *reads > 1'000'000) return std::nullopt;
  return ProgramInfo{*version, "", {static_cast<int>(*writes), static_cast<int>(*reads)}};
}

const ProgramInfo& thisProgram() {
  static const ProgramInfo info = readThisProgram();
  return info;
}

}  // namespace dhow
