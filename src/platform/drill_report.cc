#include "platform/drill_report.h"

#include <boost/json/array.hpp>

#include <algorithm>
#include <array>

#include "base/strings.h"

namespace dhow::platform {

namespace json = boost::json;

namespace {

constexpr std::array kKinds = {DrillKind::kZone, DrillKind::kNode, DrillKind::kMaster, DrillKind::kLink,
                               DrillKind::kStore};
constexpr size_t kNamed = 5;  // of many, so many are named

double seconds(Duration span) {
  return std::chrono::duration<double>(span).count();
}

// Milliseconds are what can be told apart.
double rounded(Duration span) {
  return static_cast<double>(span / std::chrono::milliseconds(1)) / 1000;
}

json::array lossesJson(const std::vector<DrillLoss>& losses) {
  json::array out;
  for (const DrillLoss& loss : losses) out.push_back(json::object{{"at", rounded(loss.at)}, {"why", loss.why}});
  return out;
}

// "12, sent from +0.1 s to +8.3 s"
std::string countOf(const std::vector<DrillLoss>& losses) {
  if (losses.empty()) return "0";
  auto [first, last] = std::minmax_element(losses.begin(), losses.end(),
                                           [](const DrillLoss& a, const DrillLoss& b) { return a.at < b.at; });
  return fmt::format("{}, sent from {:+.1f} s to {:+.1f} s ({})", losses.size(), seconds(first->at), seconds(last->at),
                     first->why);
}

std::string someOf(const std::vector<std::string>& names) {
  std::vector<std::string> some(names.begin(), names.begin() + static_cast<ptrdiff_t>(std::min(names.size(), kNamed)));
  return join(some, ", ") + (names.size() > kNamed ? ", ..." : "");
}

}  // namespace

std::string_view drillName(DrillKind kind) {
  switch (kind) {
    case DrillKind::kZone: return "zone";
    case DrillKind::kNode: return "node";
    case DrillKind::kMaster: return "master";
    case DrillKind::kLink: return "link";
    case DrillKind::kStore: return "store";
  }
  return "";
}

std::optional<DrillKind> drillNamed(std::string_view name) {
  for (DrillKind kind : kKinds) {
    if (drillName(kind) == name) return kind;
  }
  return std::nullopt;
}

std::string_view markName(DrillMark mark) {
  switch (mark) {
    case DrillMark::kNone: return "";
    case DrillMark::kBroken: return "broken";
    case DrillMark::kDetected: return "detected";
    case DrillMark::kHealed: return "healed";
    case DrillMark::kRestored: return "restored";
    case DrillMark::kReturned: return "returned";
  }
  return "";
}

std::optional<Duration> DrillReport::when(DrillMark mark) const {
  for (const DrillEvent& event : events) {
    if (event.mark == mark) return event.at;
  }
  return std::nullopt;
}

std::vector<std::string> DrillReport::failures() const {
  std::vector<std::string> out;
  if (!writesMissing.empty()) {
    out.push_back(fmt::format("{} acknowledged writes were lost: {}", writesMissing.size(), someOf(writesMissing)));
  }
  if (!writesUnread.empty()) out.push_back("the writes could not be read back: " + writesUnread);
  if (!doubled.empty()) out.push_back(fmt::format("identities were doubled: {}", someOf(doubled)));
  if (!when(DrillMark::kBroken)) return out;
  if (!when(DrillMark::kHealed)) out.emplace_back("it did not heal");
  if (!when(DrillMark::kReturned)) out.push_back(fmt::format("{} did not return", target));
  return out;
}

std::string DrillReport::summary() const {
  std::string out;
  auto line = [&](std::string_view name, const std::string& value) { out += fmt::format("  {:<22}{}\n", name, value); };
  line("requests sent", std::to_string(requestsSent));
  line("requests lost", countOf(requestsLost));
  line("writes acknowledged",
       fmt::format("{}, {} found again", writesAcknowledged,
                   writesUnread.empty() ? std::to_string(writesAcknowledged - writesMissing.size()) : "none"));
  line("writes refused", countOf(writesFailed));
  line("longest write pause", fmt::format("{:.2f} s", seconds(longestPause)));
  line("identities", fmt::format("{}, {} doubled", identities, doubled.size()));
  return out;
}

json::object DrillReport::toJson() const {
  json::array timeline;
  for (const DrillEvent& event : events) {
    json::object entry{{"at", rounded(event.at)}};
    if (event.mark != DrillMark::kNone) entry["mark"] = markName(event.mark);
    entry["event"] = event.text;
    timeline.push_back(std::move(entry));
  }
  json::object marks;
  for (DrillMark mark : {DrillMark::kDetected, DrillMark::kHealed, DrillMark::kRestored, DrillMark::kReturned}) {
    if (auto at = when(mark)) marks[markName(mark)] = rounded(*at);
  }
  json::array missing, twice, failed;
  for (const auto& name : writesMissing) missing.push_back(json::string(name));
  for (const auto& text : doubled) twice.push_back(json::string(text));
  const auto broken = failures();
  for (const auto& text : broken) failed.push_back(json::string(text));
  return {{"drill", drillName(kind)},
          {"target", target},
          {"forSeconds", rounded(span)},
          {"interrupted", interrupted},
          {"timeline", std::move(timeline)},
          {"marks", std::move(marks)},
          {"requests", {{"sent", requestsSent}, {"lost", lossesJson(requestsLost)}}},
          {"writes",
           {{"acknowledged", writesAcknowledged},
            {"refused", lossesJson(writesFailed)},
            {"missing", std::move(missing)},
            {"longestPauseSeconds", rounded(longestPause)}}},
          {"identities", {{"count", identities}, {"processes", processes}, {"doubled", std::move(twice)}}},
          {"failures", std::move(failed)},
          {"passed", broken.empty()}};
}

std::string eventLine(const DrillEvent& event) {
  return fmt::format("  {:>+8.2f} s  {:<9} {}\n", seconds(event.at), markName(event.mark), event.text);
}

}  // namespace dhow::platform
