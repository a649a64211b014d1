#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "gateway_model.h"
#include "patterns.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

constexpr size_t kMostConditions = 40;  // a line of HAProxy's has 64 words
constexpr size_t kMostBackends = 16;
constexpr size_t kMostMatches = 128;

// One header or parameter.
std::string condition(const json::object& entry, std::string_view fetch, Match& match) {
  const std::string name(text(entry, "name")), value(text(entry, "value"));
  if (!isWord(name, fetch == "req.fhdr" ? "-_.!*^|~+&" : "-_.~"))
    return fmt::format("the name \"{}\" is not served", name);
  if (quoted(value).size() > kLongestQuoted) return fmt::format("the value for \"{}\" is too long", name);
  const bool regex = text(entry, "type") == "RegularExpression";
  if (regex && !isPattern(value)) return fmt::format("\"{}\" is no regular expression", value);
  const std::string what =
      fetch == "req.fhdr" ? fmt::format("req.fhdr({})", name) : fmt::format("url_param({}),url_dec", name);
  match.conditions.push_back(regex ? fmt::format("{} -m reg {}", what, quoted(fmt::format("^(?:{})$", value)))
                                   : fmt::format("{} -m str -- {}", what, quoted(value)));
  return "";
}

// Of one name the first counts.
std::string conditions(const json::array& entries, std::string_view fetch, Match& match, size_t& count) {
  std::set<std::string> seen;
  std::string problem;
  eachObject(entries, [&](const json::object& entry) {
    if (!problem.empty() || !seen.insert(toLower(text(entry, "name"))).second) return;
    ++count;
    problem = condition(entry, fetch, match);
  });
  return problem;
}

std::string httpPath(const json::object& spec, Match& match) {
  const auto type = text(spec, {"path", "type"});
  match.type = type == "Exact"               ? Match::Path::kExact
               : type == "RegularExpression" ? Match::Path::kRegex
                                             : Match::Path::kPrefix;
  if (const auto path = text(spec, {"path", "value"}); !path.empty()) match.path = path;
  return "";
}

std::string grpcPath(const json::object& spec, Match& match) {
  const json::object& method = client::object(spec, {"method"});
  const std::string service(text(method, "service")), name(text(method, "method"));
  const bool regex = text(method, "type") == "RegularExpression";
  if (!regex && !service.empty() && !name.empty()) {
    match.type = Match::Path::kExact;
    match.path = fmt::format("/{}/{}", service, name);
  } else if (!regex && name.empty()) {
    match.path = "/" + service;
  } else {
    match.type = Match::Path::kRegex;
    auto part = [&](const std::string& value) {
      return value.empty() ? "[^/]+" : regex ? fmt::format("(?:{})", value) : escaped(value);
    };
    match.path = fmt::format("/{}/{}", part(service), part(name));
  }
  return "";
}

std::string readMatch(RouteKind kind, const json::object& spec, Match& match) {
  std::string problem = kind == RouteKind::kHttp ? httpPath(spec, match) : grpcPath(spec, match);
  if (problem.empty() && quoted(match.path).size() > kLongestQuoted) problem = "a path is too long";
  if (problem.empty() && match.type == Match::Path::kRegex && !isPattern(match.path))
    problem = fmt::format("\"{}\" is no regular expression", match.path);
  if (problem.empty() && match.type != Match::Path::kRegex && !mappable(match.path))
    problem = fmt::format("the path \"{}\" has a blank or a backslash", match.path);
  if (const auto method = text(spec, "method"); kind == RouteKind::kHttp && !method.empty()) {
    match.method = true;
    if (!isWord(method, "")) problem = "a method is no word";
    match.conditions.push_back("method " + std::string(method));
  }
  if (problem.empty()) problem = conditions(array(spec, {"headers"}), "req.fhdr", match, match.headers);
  if (problem.empty()) problem = conditions(array(spec, {"queryParams"}), "url_param", match, match.parameters);
  if (problem.empty() && match.conditions.size() > kMostConditions)
    problem = fmt::format("a match has more than {} conditions", kMostConditions);
  return problem;
}

RuleModel readRule(RouteKind kind, const json::object& spec) {
  RuleModel out;
  out.spec = &spec;
  if (array(spec, {"backendRefs"}).size() > kMostBackends) out.problem = "it has too many backends";
  if (kind == RouteKind::kTls || kind == RouteKind::kTcp) return out;
  const json::array& matches = array(spec, {"matches"});
  if (matches.empty()) out.matches.emplace_back();
  eachObject(matches, [&](const json::object& one) {
    Match match;
    const std::string problem = readMatch(kind, one, match);
    if (!problem.empty())
      out.problem = problem;
    else if (out.matches.size() < kMostMatches)
      out.matches.push_back(std::move(match));
    else
      out.problem = "it has too many matches";
  });
  if (out.problem.empty()) out.problem = filterProblem(array(spec, {"filters"}), matches);
  eachObject(array(spec, {"backendRefs"}), [&](const json::object& ref) {
    if (out.problem.empty()) out.problem = filterProblem(array(ref, {"filters"}), matches);
  });
  return out;
}

}  // namespace

std::vector<RuleModel> readRules(const Route& route) {
  std::vector<RuleModel> out;
  eachObject(array(route.object->root(), {"spec", "rules"}),
             [&](const json::object& rule) { out.push_back(readRule(route.kind, rule)); });
  return out;
}

bool isSplit(const RuleModel& rule) {
  size_t some = 0;
  eachObject(array(*rule.spec, {"backendRefs"}), [&](const json::object& ref) {
    if (number(ref, {"weight"}, 1) > 0) ++some;
  });
  return some > 1;
}

}  // namespace dhow::ingress
