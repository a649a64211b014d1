// Which program this is: its version, the build, and the forms of the store that it knows. Versions one apart (the same
// major number, minor numbers that differ by at most one) work together; docs/architecture.md, "Versions".
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace dhow {

struct Version {
  int major = 0, minor = 0, patch = 0;
  auto operator<=>(const Version&) const = default;
  std::string text() const;  // "0.1.0"
};

// "0.1.0"; what follows a '-' or '+' is no part of it.
std::optional<Version> parseVersion(std::string_view text);
// Whether processes of both may be in one cluster.
bool workTogether(const Version& a, const Version& b);

// The form of what the API server keeps in the store. A new form is read by one version and written by the next, so
// that the versions of one cluster always read what any of them writes.
struct StoreForm {
  int writes = 1, reads = 1;  // it reads all forms up to this one
};

struct ProgramInfo {
  Version version;
  std::string build;  // 12 hexadecimal digits that no other build has
  StoreForm store;
};

// Of this process. Version and forms are read from the section .dhow.stamp of its file, the build from the linker's id.
const ProgramInfo& thisProgram();
// "dhow 0.1.0 store 1 1": what the section holds, with NULs behind it.
std::optional<ProgramInfo> parseStamp(std::string_view stamp);

}  // namespace dhow
