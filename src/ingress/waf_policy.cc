#include "waf_policy.h"

#include <algorithm>

#include "base/strings.h"
#include "client/fields.h"
#include "text.h"

namespace dhow::ingress {

using client::text;

namespace {

constexpr const char* kNginx = "nginx.ingress.kubernetes.io/";
constexpr size_t kLongestSnippet = 16 << 10;
// Debian's modsecurity-crs.
constexpr const char* kSetup = "/etc/modsecurity/crs/crs-setup.conf";
constexpr const char* kCoreRules = "/usr/share/modsecurity-crs/rules/REQUEST-*.conf";

// What is asked in any case, after ModSecurity's own recommendation; a body is at most what HAProxy keeps of it.
constexpr std::string_view kBase = R"(SecRuleEngine On
SecResponseBodyAccess Off
SecAuditEngine Off
SecRequestBodyLimit 1048576
SecRequestBodyNoFilesLimit 1048576
SecArgumentSeparator &
SecCookieFormat 0
SecRule REQUEST_HEADERS:Content-Type "^(?:application(?:/soap\+|/)|text/)xml" "id:200000,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=XML"
SecRule REQUEST_HEADERS:Content-Type "^application/(?:[a-z0-9.-]+\+)?json" "id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"
SecRule &ARGS "@gt 1000" "id:200007,phase:2,t:none,log,deny,status:400,msg:'Too many arguments'"
)";

Error refused(std::string_view annotation, std::string_view why) {
  return Error(Code::kInvalid, fmt::format("the annotation {}: {}", annotation, why));
}

// One line of a snippet.
Result<> readDirective(std::string_view line, WafPolicy& policy, bool& engine) {
  const size_t space = std::min(line.find_first_of(" \t"), line.size());
  const std::string_view name = line.substr(0, space), value = trim(line.substr(space));
  auto oneOf = [&](std::string_view a, std::string_view b) { return value == a || value == b; };
  if (name == "SecRuleEngine" && (oneOf("On", "DetectionOnly") || value == "Off")) {
    policy.prevent = value == "On";
    engine = value != "Off";
    return {};
  }
  if (name == "SecRequestBodyAccess" && oneOf("On", "Off")) {
    policy.readsBody = value == "On";
    return {};
  }
  if (name == "SecRequestBodyLimitAction" && oneOf("Reject", "ProcessPartial")) {
    policy.partly = value == "ProcessPartial";
    return {};
  }
  // Findings are told in our own log.
  if (name.starts_with("SecAudit") || name.starts_with("SecDebugLog")) return {};
  constexpr std::string_view kExclusions[] = {"SecRuleRemoveById", "SecRuleRemoveByTag", "SecRuleUpdateTargetById",
                                              "SecRuleUpdateTargetByTag"};
  const bool exclusion = std::find(std::begin(kExclusions), std::end(kExclusions), name) != std::end(kExclusions);
  if (exclusion && isWord(value, "\"!:/.,-_* |")) {
    policy.exclusions.emplace_back(fmt::format("{} {}", name, value));
    return {};
  }
  return Error(Code::kInvalid, fmt::format("\"{}\" is not served; SecRuleEngine, SecRequestBodyAccess, "
                                           "SecRequestBodyLimitAction, SecRuleRemoveBy(Id|Tag) and "
                                           "SecRuleUpdateTargetBy(Id|Tag) are",
                                           line.substr(0, 80)));
}

Result<bool> flagOf(const boost::json::object& annotations, const std::string& name) {
  const auto value = text(annotations, name);
  if (value != "true" && value != "false" && !value.empty()) return refused(name, "it is neither true nor false");
  return value == "true";
}

}  // namespace

bool isWafAnnotation(std::string_view name) {
  return name == "enable-modsecurity" || name == "enable-owasp-core-rules" || name == "modsecurity-snippet" ||
         name == "modsecurity-transaction-id";
}

Result<std::optional<WafPolicy>> wafPolicyOf(const boost::json::object& annotations) {
  const std::string nginx = kNginx;
  const auto own = text(annotations, "dhow.io/waf"), failure = text(annotations, "dhow.io/waf-failure"),
             paranoia = text(annotations, "dhow.io/waf-paranoia"),
             snippet = text(annotations, nginx + "modsecurity-snippet");
  ASSIGN_OR_RETURN(const bool nginxAsks, flagOf(annotations, nginx + "enable-modsecurity"));
  ASSIGN_OR_RETURN(const bool coreRules, flagOf(annotations, nginx + "enable-owasp-core-rules"));
  bool engine = nginxAsks || !own.empty();
  if (!engine || own == "off") return std::optional<WafPolicy>();
  WafPolicy out;
  // As ingress-nginx: without more, ModSecurity's recommended configuration, which detects.
  if (own.empty()) out.coreRules = coreRules;
  if (snippet.size() > kLongestSnippet) return refused(nginx + "modsecurity-snippet", "it is too long");
  for (const std::string& line : split(snippet, '\n')) {
    const std::string_view directive = trim(line);
    if (directive.empty() || directive.starts_with('#')) continue;
    auto read = readDirective(directive, out, engine);
    if (!read.ok()) return refused(nginx + "modsecurity-snippet", read.error().message());
  }
  if (!own.empty() && own != "detect" && own != "prevent")
    return refused("dhow.io/waf", fmt::format("\"{}\" is not one of detect, prevent, off", own));
  if (!own.empty()) out.prevent = own == "prevent";
  if (!failure.empty() && failure != "open" && failure != "closed")
    return refused("dhow.io/waf-failure", fmt::format("\"{}\" is not one of open, closed", failure));
  out.failOpen = failure.empty() ? !out.prevent : failure == "open";
  if (!paranoia.empty()) {
    auto level = parseInt(paranoia);
    if (!level || *level < 1 || *level > 4) return refused("dhow.io/waf-paranoia", "it is no number from 1 to 4");
    out.paranoia = static_cast<int>(*level);
  }
  return engine ? std::optional(std::move(out)) : std::nullopt;
}

std::string wafRules(const WafPolicy& policy) {
  std::string out(kBase);
  out += fmt::format("SecRequestBodyAccess {}\n", policy.readsBody ? "On" : "Off");
  if (policy.coreRules) {
    out += fmt::format("Include {}\n", kSetup);
    if (policy.paranoia > 1)
      out += fmt::format("SecAction \"id:900000,phase:1,nolog,pass,t:none,setvar:tx.paranoia_level={}\"\n",
                         policy.paranoia);
    out += fmt::format("Include {}\n", kCoreRules);
  }
  for (const std::string& one : policy.exclusions) out += one + "\n";
  return out;
}

}  // namespace dhow::ingress
