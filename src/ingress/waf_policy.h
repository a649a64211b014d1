// What annotations say about a web application firewall, on an Ingress or an HTTPRoute: ours (dhow.io/waf: detect or
// prevent, dhow.io/waf-failure: open or closed, dhow.io/waf-paranoia: 1 to 4) and ingress-nginx's (enable-modsecurity,
// enable-owasp-core-rules, and of modsecurity-snippet what switches rules off). Pure. Private to this folder.
#pragma once

#include <boost/json/object.hpp>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace dhow::ingress {

struct WafPolicy {
  bool prevent = false;   // else what is found is told, and passes
  bool coreRules = true;  // OWASP's
  bool failOpen = false;  // when nobody judges; else 503
  bool readsBody = true;
  bool partly = false;  // of a body that is too long the beginning is judged; else it is refused
  int paranoia = 1;
  std::vector<std::string> exclusions;  // directives
};

// Nothing when none is asked for. kInvalid when it cannot be understood: then nothing may be served.
Result<std::optional<WafPolicy>> wafPolicyOf(const boost::json::object& annotations);
// The names of ingress-nginx's annotations that this is about, without the prefix.
bool isWafAnnotation(std::string_view name);

// As ModSecurity reads them.
std::string wafRules(const WafPolicy& policy);

}  // namespace dhow::ingress
