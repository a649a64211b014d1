#include "base/time.h"

#include <fmt/format.h>

#include "base/strings.h"

namespace dhow {
namespace {

using namespace std::chrono;

std::string formatSeconds(WallTime time) {
  auto day = floor<days>(time);
  year_month_day date{day};
  hh_mm_ss clock{floor<seconds>(time) - day};
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), clock.hours().count(),
                     clock.minutes().count(), clock.seconds().count());
}

int64_t nanosOf(WallTime time) {
  return (time - floor<seconds>(time)).count();
}

}  // namespace

std::string formatTime(WallTime time) {
  return formatSeconds(time) + "Z";
}
std::string formatTimeMicro(WallTime time) {
  return fmt::format("{}.{:06}Z", formatSeconds(time), nanosOf(time) / 1000);
}
std::string formatTimeNano(WallTime time) {
  return fmt::format("{}.{:09}Z", formatSeconds(time), nanosOf(time));
}

std::optional<WallTime> parseTime(std::string_view text) {
  if (text.size() < 20) return std::nullopt;
  auto number = [&](size_t at, size_t length) { return parseUint(text.substr(at, length)); };
  auto y = number(0, 4), mo = number(5, 2), d = number(8, 2), h = number(11, 2), mi = number(14, 2), s = number(17, 2);
  if (!y || !mo || !d || !h || !mi || !s) return std::nullopt;
  if (text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != 't') || text[13] != ':' || text[16] != ':')
    return std::nullopt;
  year_month_day date{year(static_cast<int>(*y)), month(static_cast<unsigned>(*mo)), day(static_cast<unsigned>(*d))};
  if (!date.ok() || *h > 23 || *mi > 59 || *s > 60) return std::nullopt;
  seconds total = sys_days(date).time_since_epoch() + hours(*h) + minutes(*mi) + seconds(*s);
  int64_t nanos = 0;
  text.remove_prefix(19);
  if (text.front() == '.') {
    text.remove_prefix(1);
    int64_t unit = 100'000'000;
    if (text.empty() || text.front() < '0' || text.front() > '9') return std::nullopt;
    while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
      nanos += (text.front() - '0') * unit;
      unit /= 10;
      text.remove_prefix(1);
    }
  }
  if (text == "Z" || text == "z") return wallTimeOf(total.count(), nanos);
  if (text.size() != 6 || (text[0] != '+' && text[0] != '-') || text[3] != ':') return std::nullopt;
  auto oh = parseUint(text.substr(1, 2)), om = parseUint(text.substr(4, 2));
  if (!oh || !om) return std::nullopt;
  seconds offset = hours(*oh) + minutes(*om);
  return wallTimeOf((text[0] == '+' ? total - offset : total + offset).count(), nanos);
}

WallTime wallTimeOf(int64_t whole, int64_t nanos) {
  constexpr int64_t kFirst = duration_cast<seconds>(kEarliestTime.time_since_epoch()).count();
  constexpr int64_t kLast = duration_cast<seconds>(kLatestTime.time_since_epoch()).count();
  if (whole < kFirst) return kEarliestTime;
  if (whole >= kLast) return kLatestTime;
  return WallTime(seconds(whole) + nanoseconds(nanos));
}

std::optional<WallTime> parseUnixTime(std::string_view text) {
  auto pair = splitOnce(text, '.');
  auto whole = parseInt(pair ? pair->first : text);
  if (!whole) return std::nullopt;
  std::string fraction(pair ? pair->second : "");
  fraction.resize(9, '0');
  return wallTimeOf(*whole, static_cast<int64_t>(parseUint(fraction).value_or(0)));
}

Duration boundedSeconds(int64_t whole) {
  constexpr int64_t kMost = 100LL * 366 * 24 * 3600;
  return seconds(std::clamp(whole, -kMost, kMost));
}

}  // namespace dhow
