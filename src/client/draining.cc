#include "client/draining.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "client/fields.h"
#include "client/streaming.h"

namespace dhow::client {

namespace {

Result<json::object> parseAnswer(std::string_view body) {
  boost::system::error_code failed;
  json::value value = json::parse(body, failed);
  if (failed || !value.is_object()) return Error(Code::kInternal, "the answer is not a JSON object");
  return std::move(value.get_object());
}

}  // namespace

std::string Drained::complaint() const {
  if (!told) return "its EndpointSlices did not say in time that it ends";
  if (missing.empty()) return "";
  return fmt::format("not confirmed by {}", join(missing, ", "));
}

std::string drainTarget(std::string_view node, const DrainQuestion& pod) {
  http::Query query;
  query.add("namespace", pod.ns);
  query.add("name", pod.name);
  query.add("uid", pod.uid);
  query.add("revision", std::to_string(pod.revision));
  if (pod.over) query.add("over", "1");
  return fmt::format("{}{}{}?{}", streaming::kTunnelPrefix, percentEncode(node), kDrainSuffix, query.str());
}

std::string encodeDrained(const Drained& drained) {
  json::array missing;
  for (const std::string& name : drained.missing) missing.emplace_back(name);
  return json::serialize(json::object{{"told", drained.told}, {"missing", std::move(missing)}});
}

Result<Drained> decodeDrained(std::string_view body) {
  ASSIGN_OR_RETURN(json::object answer, parseAnswer(body));
  Drained out;
  out.told = flag(answer, {"told"});
  out.missing = strings(array(answer, {"missing"}));
  return out;
}

std::string appliedTarget(const AppliedQuestion& question) {
  return fmt::format("{}?revision={}&limit={}", kAppliedPath, question.revision,
                     std::chrono::duration_cast<std::chrono::milliseconds>(question.limit).count());
}

AppliedQuestion appliedQuestion(const http::Query& query) {
  AppliedQuestion out;
  out.revision = parseUint(query.get("revision")).value_or(0);
  constexpr uint64_t most = kAppliedLimit / std::chrono::milliseconds(1);
  out.limit = std::chrono::milliseconds(std::min(parseUint(query.get("limit")).value_or(most), most));
  return out;
}

std::string encodeApplied(uint64_t revision) {
  return json::serialize(json::object{{"applied", revision}});
}

Result<uint64_t> decodeApplied(std::string_view body) {
  ASSIGN_OR_RETURN(json::object answer, parseAnswer(body));
  auto revision = number(answer, {"applied"});
  if (!revision || *revision < 0) return Error(Code::kInternal, "the answer has no revision");
  return static_cast<uint64_t>(*revision);
}

}  // namespace dhow::client
