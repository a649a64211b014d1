#include <algorithm>

#include "backend_lines.h"
#include "base/strings.h"
#include "client/fields.h"
#include "gateway_model.h"
#include "text.h"

namespace dhow::ingress {

using client::array;
using client::number;
using client::text;

namespace {

using Lines = std::vector<std::string>;

constexpr std::string_view kTokens = "!#$%&*+-.^_`|~";  // of names of headers (RFC 9110, section 5.6.2)

std::string modifierProblem(const json::object& modifier) {
  for (std::string_view list : {"set", "add"})
    for (const auto& value : array(modifier, {list})) {
      if (!value.is_object()) continue;
      if (!isWord(text(value.get_object(), "name"), kTokens))
        return fmt::format("\"{}\" is no name of a header", text(value.get_object(), "name"));
      if (literal(text(value.get_object(), "value")).size() > kLongestQuoted)
        return fmt::format("the value of header \"{}\" is too long", text(value.get_object(), "name"));
    }
  for (const std::string& name : client::strings(array(modifier, {"remove"})))
    if (!isWord(name, kTokens)) return fmt::format("\"{}\" is no name of a header", name);
  return "";
}

std::string pathProblem(const json::object& path, const json::array& matches) {
  for (std::string_view name : {"replaceFullPath", "replacePrefixMatch"})
    if (literal(text(path, name)).size() > kLongestQuoted / 2) return "a path is too long";
  if (text(path, "type") != "ReplacePrefixMatch") return "";
  for (const auto& value : matches) {
    if (!value.is_object()) continue;
    const auto type = text(value.get_object(), {"path", "type"});
    if (!type.empty() && type != "PathPrefix") return "ReplacePrefixMatch needs matches of type PathPrefix";
  }
  return "";
}

std::string hostProblem(const json::object& holder) {
  const auto host = text(holder, "hostname");
  return host.empty() || isWord(host, "-.") ? "" : fmt::format("\"{}\" is no hostname", host);
}

// How many of how many requests have a copy; 0 of 0: it makes no sense.
std::pair<uint32_t, uint32_t> shareOf(const json::object& mirror) {
  const json::object& fraction = client::object(mirror, {"fraction"});
  const int64_t share = fraction.empty() ? number(mirror, {"percent"}, 100) : number(fraction, {"numerator"}, 0);
  const int64_t of = fraction.empty() ? 100 : number(fraction, {"denominator"}, 100);
  if (of < 1 || of > INT32_MAX || share < 0 || share > of) return {0, 0};
  return {static_cast<uint32_t>(share), static_cast<uint32_t>(of)};
}

std::string corsProblem(const json::object& cors) {
  for (std::string_view list : {"allowMethods", "allowHeaders", "exposeHeaders"})
    for (const std::string& one : client::strings(array(cors, {list})))
      if (!isWord(one, kTokens)) return fmt::format("cors: \"{}\" is no name", one);
  for (const std::string& origin : client::strings(array(cors, {"allowOrigins"})))
    if (!isWord(origin, ":/-.*[]")) return fmt::format("cors: \"{}\" is no origin", origin);
  return "";
}

void modifier(Lines& out, const json::object& modifier, std::string_view rule) {
  for (std::string_view list : {"set", "add"})
    eachObject(array(modifier, {list}), [&](const json::object& header) {
      out.push_back(
          fmt::format("{} {}-header {} {}", rule, list, quoted(text(header, "name")), literal(text(header, "value"))));
    });
  for (const std::string& name : client::strings(array(modifier, {"remove"})))
    out.push_back(fmt::format("{} del-header {}", rule, quoted(name)));
}

std::string withoutSlashes(std::string text) {
  while (text.ends_with('/')) text.pop_back();
  return text;
}

// txn.path is the path as it was asked for.
void path(Lines& out, const json::object& modifier, const RuleContext& context) {
  if (text(modifier, "type") == "ReplaceFullPath") {
    const auto target = text(modifier, "replaceFullPath");
    out.push_back("http-request set-path " + literal(target.empty() ? "/" : target));
    return;
  }
  if (text(modifier, "type") != "ReplacePrefixMatch") return;
  const std::string prefix = withoutSlashes(context.prefix);
  const std::string target = withoutSlashes(std::string(text(modifier, "replacePrefixMatch")));
  std::string group;  // a backslash begins a reference
  for (char c : target) group += c == '\\' ? "\\\\" : std::string(1, c);
  if (!prefix.empty())
    out.push_back(fmt::format("http-request set-path {} if {{ var(txn.path) -m str {} }}",
                              literal(target.empty() ? "/" : target), quoted(prefix)));
  out.push_back(fmt::format("http-request replace-path {} {} if {{ var(txn.path) -m beg {} }}",
                            quoted("^" + escaped(prefix) + "/(.*)$"), literal(group + "/\\1"), quoted(prefix + "/")));
}

void redirect(Lines& out, const json::object& filter, const RuleContext& context) {
  const json::object& modifier = client::object(filter, {"path"});
  path(out, modifier, context);
  const bool tls = context.listener->endsTls();
  const std::string asked(text(filter, "scheme"));
  const std::string scheme = asked.empty() ? (tls ? "https" : "http") : asked;
  const int64_t usual = scheme == "https" ? kHttpsPort : kHttpPort;
  const int64_t port = number(filter, {"port"}, asked.empty() ? context.listener->port : usual);
  const std::string host(text(filter, "hostname"));
  out.push_back(fmt::format("http-request redirect location '{}://{}{}%[pathq]' code {}", scheme,
                            host.empty() ? "%[var(txn.host)]" : host, port == usual ? "" : fmt::format(":{}", port),
                            number(filter, {"statusCode"}, 302)));
}

void rewrite(Lines& out, const json::object& filter, const RuleContext& context) {
  path(out, client::object(filter, {"path"}), context);
  const auto host = text(filter, "hostname");
  if (!host.empty()) out.push_back("http-request set-header Host " + literal(host));
}

void mirror(Lines& out, const json::object& filter, const RuleContext& context) {
  Mirror copy;
  copy.address = context.mirror(client::object(filter, {"backendRef"}));
  std::tie(copy.share, copy.of) = shareOf(filter);
  if (!copy.address.empty()) mirrorLines(out, copy, *context.files);
}

void cors(Lines& out, const json::object& filter) {
  Annotations::Cors cors;
  auto all = [&](std::string_view name) { return join(client::strings(array(filter, {name})), ", "); };
  cors.origins = client::strings(array(filter, {"allowOrigins"}));
  if (cors.origins.empty()) return;
  if (std::find(cors.origins.begin(), cors.origins.end(), "*") != cors.origins.end()) cors.origins = {"*"};
  cors.methods = all("allowMethods");
  cors.headers = all("allowHeaders");
  cors.expose = all("exposeHeaders");
  cors.credentials = client::flag(filter, {"allowCredentials"});
  cors.maxAge = number(filter, {"maxAge"}, 5);
  corsLines(out, cors);
}

}  // namespace

std::string filterProblem(const json::array& filters, const json::array& matches) {
  std::string out;
  eachObject(filters, [&](const json::object& filter) {
    const auto type = text(filter, "type");
    std::string one;
    if (type == "RequestHeaderModifier")
      one = modifierProblem(client::object(filter, {"requestHeaderModifier"}));
    else if (type == "ResponseHeaderModifier")
      one = modifierProblem(client::object(filter, {"responseHeaderModifier"}));
    else if (type == "RequestRedirect")
      one = hostProblem(client::object(filter, {"requestRedirect"})) +
            pathProblem(client::object(filter, {"requestRedirect", "path"}), matches);
    else if (type == "URLRewrite")
      one = hostProblem(client::object(filter, {"urlRewrite"})) +
            pathProblem(client::object(filter, {"urlRewrite", "path"}), matches);
    else if (type == "CORS")
      one = corsProblem(client::object(filter, {"cors"}));
    else if (type == "RequestMirror")
      one = shareOf(client::object(filter, {"requestMirror"})).second == 0 ? "a share of requests is none" : "";
    else
      one = fmt::format("filter {} is not served", type);
    if (out.empty()) out = std::move(one);
  });
  return out;
}

FilterLines filterLines(const json::array& filters, const RuleContext& context) {
  FilterLines out;
  const json::object* redirects = nullptr;
  eachObject(filters, [&](const json::object& filter) {
    const auto type = text(filter, "type");
    if (type == "RequestHeaderModifier")
      modifier(out.lines, client::object(filter, {"requestHeaderModifier"}), "http-request");
    else if (type == "ResponseHeaderModifier")
      modifier(out.lines, client::object(filter, {"responseHeaderModifier"}), "http-response");
    else if (type == "URLRewrite")
      rewrite(out.lines, client::object(filter, {"urlRewrite"}), context);
    else if (type == "CORS")
      cors(out.lines, client::object(filter, {"cors"}));
    else if (type == "RequestMirror")
      mirror(out.lines, client::object(filter, {"requestMirror"}), context);
    else if (type == "RequestRedirect")
      redirects = &client::object(filter, {"requestRedirect"});
  });
  out.answers = redirects != nullptr;
  if (redirects != nullptr) redirect(out.lines, *redirects, context);
  return out;
}

namespace {

std::optional<int64_t> millisecondsOf(std::string_view duration) {
  int64_t out = 0;
  while (!duration.empty()) {
    const size_t digits = std::min(duration.find_first_not_of("0123456789"), duration.size());
    auto value = parseInt(duration.substr(0, digits));
    duration.remove_prefix(digits);
    struct Unit {
      std::string_view name;
      int64_t milliseconds;
    };
    constexpr Unit units[] = {{"ms", 1}, {"s", 1000}, {"m", 60'000}, {"h", 3'600'000}};
    auto unit = std::find_if(std::begin(units), std::end(units),
                             [&](const Unit& one) { return duration.starts_with(one.name); });
    if (!value || digits > 5 || unit == std::end(units)) return std::nullopt;
    out += *value * unit->milliseconds;
    duration.remove_prefix(unit->name.size());
  }
  return out;
}

}  // namespace

// HAProxy knows how long a backend may be silent, not how long a request may take in all.
std::vector<std::string> timeoutLines(const json::object& timeouts) {
  std::optional<int64_t> least;
  for (std::string_view name : {"request", "backendRequest"}) {
    const auto value = text(timeouts, name);
    auto time = millisecondsOf(value);
    if (value.empty() || !time) continue;
    constexpr int64_t kNone = 24 * 3'600'000;  // "0s"
    const int64_t milliseconds = *time == 0 ? kNone : *time;
    least = std::min(least.value_or(milliseconds), milliseconds);
  }
  if (!least) return {};
  return {fmt::format("timeout server {}ms", *least)};
}

}  // namespace dhow::ingress
