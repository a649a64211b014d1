// A request in HAProxy's own words, which cost it little (log-format, manual 2.6, section 8.2.4), and as the record in
// JSON that stands in the access log.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dhow::ingress {

// What HAProxy keeps of "GET /path HTTP/1.1".
inline constexpr size_t kLongestRequestLine = 1072;

// Lines of a frontend of mode http. `owner`: "Gateway/<ns>/<name>", or empty.
std::vector<std::string> recordLines(std::string_view owner);
// What such a line says, without its end; none when it is not whole.
std::optional<std::string> recordOf(std::string_view line);

}  // namespace dhow::ingress
