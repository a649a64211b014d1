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
// What was read lies between these, and is the nearer one where the text says more: with the longest span of
// boundedSeconds() the sums and differences of such times fit into 64 bits.
inline constexpr WallTime kEarliestTime{std::chrono::seconds(-1'420'070'400)};  // 1925-01-01
inline constexpr WallTime kLatestTime{std::chrono::seconds(5'680'281'600)};     // 2150-01-01
// Any fraction, "Z" or a numeric offset.
std::optional<WallTime> parseTime(std::string_view text);
// Seconds since 1970, bounded likewise. `nanos` is less than a second.
WallTime wallTimeOf(int64_t seconds, int64_t nanos = 0);
// "1767225600.25"; nothing when it is no number.
std::optional<WallTime> parseUnixTime(std::string_view text);
// A span that somebody else chose: a hundred years at most, before or after.
Duration boundedSeconds(int64_t seconds);

}  // namespace dhow
