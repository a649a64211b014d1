#include "client/sessions.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"
#include "client/streaming.h"

namespace dhow::client {

namespace {

constexpr size_t kMostHashes = 512;
constexpr int kHighestLevel = 48;
constexpr Duration kLongest = std::chrono::hours(24 * 7);
constexpr Duration kLeft = std::chrono::seconds(2);  // for the containers, as after a preStop hook

bool passes(uint64_t hash, int level) {
  return (hash & ((uint64_t{1} << level) - 1)) == 0;
}

Result<json::object> parseObject(std::string_view body) {
  boost::system::error_code failed;
  json::value value = json::parse(body, failed);
  if (failed || !value.is_object()) return Error(Code::kInternal, "the answer is not a JSON object");
  return std::move(value.get_object());
}

uint64_t unsignedOf(const json::object& from, std::string_view name) {
  const json::value* value = from.if_contains(name);
  if (value != nullptr && value->is_uint64()) return value->get_uint64();
  return value != nullptr && value->is_int64() ? static_cast<uint64_t>(std::max<int64_t>(0, value->get_int64())) : 0;
}

json::object sampleJson(const UserSample& sample) {
  json::array hashes;
  for (uint64_t hash : sample.hashes()) hashes.emplace_back(hash);
  return {{"level", sample.level()}, {"hashes", std::move(hashes)}};
}

UserSample sampleOf(const json::object& from) {
  UserSample out(static_cast<int>(std::clamp<int64_t>(number(from, {"level"}, 0), 0, kHighestLevel)));
  for (const json::value& hash : array(from, {"hashes"})) {
    if (hash.is_uint64()) out.add(hash.get_uint64());
    if (hash.is_int64()) out.add(static_cast<uint64_t>(hash.get_int64()));
  }
  return out;
}

Duration graceOf(const object::Object& pod) {
  constexpr int64_t most = std::chrono::hours(24 * 365) / std::chrono::seconds(1);
  return std::chrono::seconds(
      std::clamp<int64_t>(number(pod.root(), {"metadata", "deletionGracePeriodSeconds"}, 30), 1, most));
}

}  // namespace

void UserSample::raise(int level) {
  level_ = std::max(level_, level);
  std::erase_if(hashes_, [this](uint64_t hash) { return !passes(hash, level_); });
}

void UserSample::add(uint64_t hash) {
  if (!passes(hash, level_)) return;
  hashes_.insert(hash);
  while (hashes_.size() > kMostHashes && level_ < kHighestLevel) raise(level_ + 1);
}

void UserSample::merge(const UserSample& other) {
  raise(other.level_);
  for (uint64_t hash : other.hashes_) add(hash);
}

void UserSample::remove(const UserSample& other) {
  raise(other.level_);
  for (uint64_t hash : other.hashes_) hashes_.erase(hash);
}

std::string sessionsTarget(const SessionQuestion& question) {
  return fmt::format("{}?seen={}&fresh={}&limit={}", kSessionsPath, question.seen, question.fresh ? 1 : 0,
                     std::chrono::duration_cast<std::chrono::milliseconds>(question.limit).count());
}

SessionQuestion sessionQuestion(const http::Query& query) {
  SessionQuestion out;
  out.seen = parseUint(query.get("seen")).value_or(0);
  out.fresh = query.get("fresh") == "1";
  constexpr uint64_t most = kSessionsLimit / std::chrono::milliseconds(1);
  out.limit = std::chrono::milliseconds(std::min(parseUint(query.get("limit")).value_or(most), most));
  return out;
}

std::string encodeSessions(const SessionReport& report) {
  json::object pods;
  for (const auto& [uid, entry] : report.changed) {
    const auto& [change, use] = entry;
    pods[uid] = json::object{{"change", change},
                             {"sticky", use.sticky},
                             {"connections", use.connections},
                             {"users", sampleJson(use.users)},
                             {"ended", sampleJson(use.ended)}};
  }
  json::array all;
  for (const std::string& uid : report.all) all.emplace_back(uid);
  return json::serialize(json::object{{"change", report.change}, {"pods", std::move(pods)}, {"all", std::move(all)}});
}

Result<SessionReport> decodeSessions(std::string_view body) {
  ASSIGN_OR_RETURN(json::object answer, parseObject(body));
  SessionReport out;
  out.change = unsignedOf(answer, "change");
  for (const auto& member : object(answer, {"pods"})) {
    if (!member.value().is_object()) continue;
    const json::object& from = member.value().get_object();
    auto& [change, use] = out.changed[std::string(member.key())];
    change = unsignedOf(from, "change");
    use.sticky = flag(from, {"sticky"});
    use.connections = unsignedOf(from, "connections");
    use.users = sampleOf(object(from, {"users"}));
    use.ended = sampleOf(object(from, {"ended"}));
  }
  for (std::string& uid : strings(array(answer, {"all"}))) out.all.insert(std::move(uid));
  return out;
}

std::string heldTarget(std::string_view node, const HeldQuestion& question) {
  http::Query query;
  query.add("namespace", question.ns);
  query.add("name", question.name);
  query.add("uid", question.uid);
  if (question.known) {
    query.add("sessions", std::to_string(question.known->first));
    query.add("connections", std::to_string(question.known->second));
  }
  return fmt::format("{}{}{}?{}", streaming::kTunnelPrefix, percentEncode(node), kHeldSuffix, query.str());
}

HeldQuestion heldQuestion(const http::Query& query) {
  HeldQuestion out{std::string(query.get("namespace")), std::string(query.get("name")), std::string(query.get("uid")),
                   std::nullopt};
  auto sessions = parseUint(query.get("sessions")), connections = parseUint(query.get("connections"));
  if (sessions && connections) out.known = {*sessions, *connections};
  return out;
}

std::string encodeHeld(const Held& held) {
  json::array missing;
  for (const std::string& name : held.missing) missing.emplace_back(name);
  return json::serialize(json::object{{"counted", held.counted},
                                      {"sticky", held.sticky},
                                      {"sessions", held.sessions},
                                      {"connections", held.connections},
                                      {"missing", std::move(missing)}});
}

Result<Held> decodeHeld(std::string_view body) {
  ASSIGN_OR_RETURN(json::object answer, parseObject(body));
  return Held{flag(answer, {"counted"}), flag(answer, {"sticky"}), unsignedOf(answer, "sessions"),
              unsignedOf(answer, "connections"), strings(array(answer, {"missing"}))};
}

std::string describe(uint64_t sessions, uint64_t connections) {
  auto some = [](uint64_t count, std::string_view name) {
    return fmt::format("{} {}{}", count, name, count == 1 ? "" : "s");
  };
  if (connections == 0) return some(sessions, "session");
  if (sessions == 0) return some(connections, "connection");
  return fmt::format("{} and {}", some(sessions, "session"), some(connections, "connection"));
}

std::optional<Duration> sessionTime(std::string_view text) {
  // As Go's durations, in whole numbers of hours, minutes and seconds.
  int64_t seconds = 0;
  constexpr std::pair<char, int64_t> kUnits[] = {{'h', 3600}, {'m', 60}, {'s', 1}};
  size_t unit = 0;
  if (text.empty()) return std::nullopt;
  while (!text.empty()) {
    const size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    auto number = parseInt(text.substr(0, digits));
    if (!number || *number > kLongest / std::chrono::seconds(1) || digits == text.size()) return std::nullopt;
    while (unit < std::size(kUnits) && kUnits[unit].first != text[digits]) ++unit;
    if (unit == std::size(kUnits)) return std::nullopt;
    seconds += *number * kUnits[unit++].second;
    text.remove_prefix(digits + 1);
  }
  const Duration out = std::chrono::seconds(seconds);
  return out > Duration::zero() && out <= kLongest ? std::optional(out) : std::nullopt;
}

std::optional<Duration> ownSessionDeadline(const object::Object& pod) {
  if (graceOf(pod) < std::chrono::seconds(number(pod.root(), {"spec", "terminationGracePeriodSeconds"}, 30)))
    return std::nullopt;
  return sessionTime(pod.annotation(kSessionDeadlineAnnotation));
}

WallTime sessionDeadline(const object::Object& pod) {
  const Duration grace = graceOf(pod);
  const WallTime end = time(pod.root(), {"metadata", "deletionTimestamp"}).value_or(WallTime{});
  auto own = ownSessionDeadline(pod);
  return end -
         std::chrono::duration_cast<WallTime::duration>(own ? grace - *own : std::min<Duration>(kLeft, grace / 2));
}

std::string clockTime(WallTime time, WallTime now) {
  const std::string text = formatTime(time), today = formatTime(now);
  constexpr size_t kDate = 11;  // "2026-11-30T"
  return text.size() > kDate && text.substr(0, kDate) == today.substr(0, kDate) ? text.substr(kDate) : text;
}

}  // namespace dhow::client
