// Volumes on disk. Blocking.
#pragma once

#include <optional>
#include <string>

#include "base/fd.h"
#include "volume_content.h"

namespace dhow::node {

// Makes `folder` show exactly `files`. All change at once: the content lies in a new folder, the link "..data" is
// swapped to it, and the names in `folder` are links through "..data" (as Kubernetes' atomic writer does; programs
// watch "..data"). The same content again changes nothing. `group`: owns the files, which it may then read.
Result<> writeVolume(const std::string& folder, const VolumeFiles& files, std::optional<uint32_t> group,
                     bool* changed = nullptr);

// A folder that containers write to: made with mode 0777; with a group it is owned by it and what is made inside is,
// too.
Result<> makeEmptyDir(const std::string& folder, std::optional<uint32_t> group);
// The same in memory, `size` bytes at most (0: half of the memory). Mounted again is fine.
Result<> mountMemoryDir(const std::string& folder, uint64_t size, std::optional<uint32_t> group);
// Unmounts whatever is mounted at or below `folder` (not what is mounted elsewhere).
Result<> unmountBelow(const std::string& folder);

// What hostPath's `type` asks for: made where the type says OrCreate. kFailedPrecondition "hostPath type check failed:
// ...".
Result<> checkHostPath(const std::string& path, std::string_view type);

// The file or folder `subPath` in `volume`; no link leads outside the volume. A missing folder is made. Open it by
// /proc/<pid>/fd/<n> so that nobody can exchange it meanwhile.
Result<UniqueFd> openSubPath(const std::string& volume, const std::string& subPath);

}  // namespace dhow::node
