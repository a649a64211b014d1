// Times as they go over the wire: RFC 3339, UTC.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/loop.h"

namespace dhow {

std::string formatTime(WallTime time);       // 2026-01-01T00:00:00Z (metav1.Time)
std::string formatTimeMicro(WallTime time);  // 2026-01-01T00:00:00.000000Z (metav1.MicroTime)
std::string formatTimeNano(WallTime time);   // 2026-01-01T00:00:00.000000000Z (logs, Docker)
// Any fraction, "Z" or a numeric offset.
std::optional<WallTime> parseTime(std::string_view text);

}  // namespace dhow
