#include "filter_lines.h"

#include <algorithm>

#include "base/strings.h"
#include "text.h"

namespace dhow::ingress {

namespace {

// One question at a time on a connection, so that none is lost when a filter is replaced.
constexpr std::string_view kAgent = R"([{0}]
spoe-agent {0}
  groups {1}
  option var-prefix filter
  option continue-on-error
  no option async
  no option pipelining
  no option send-frag-payload
  timeout hello 2s
  timeout idle 2m
  timeout processing 5s
  use-backend edge_filter
)";
static_assert(kFilterBody == 65536);  // below, too
constexpr std::string_view kRequests = R"(spoe-message inspect
  args policy=var(txn.waf) client=src port=src_port method=method uri=pathq version=req.ver headers=req.hdrs_bin body=req.body,bytes(0,65536)
spoe-message mirror
  args target=var(txn.mirror) host=var(txn.mirror_host) method=method uri=pathq headers=req.hdrs_bin body=req.body,bytes(0,65536)
spoe-group inspect
  messages inspect
spoe-group mirror
  messages mirror
)";
// Apart from the others, so that these need no buffers for whole requests.
constexpr std::string_view kUsers = R"(spoe-message authenticate
  args users=var(txn.users) authorization=req.fhdr(authorization,1),bytes(0,2048)
spoe-group authenticate
  messages authenticate
)";

constexpr std::string_view kErrors = R"(spoe-message error
  args place=var(txn.errors) code=var(txn.error_code) format=var(txn.error_format) uri=var(txn.error_uri) host=var(txn.host) id=var(txn.error_id)
spoe-group error
  messages error
)";

struct Engine {
  std::string_view name, file, groups, messages;
};
constexpr Engine kRequestsEngine{"edge", kFilterFile, "inspect mirror", kRequests};
constexpr Engine kUsersEngine{"users", kUsersFile, "authenticate", kUsers};
constexpr Engine kErrorsEngine{"errors", kErrorsFile, "error", kErrors};

void engine(std::vector<std::string>& out, Files& files, const Engine& which = kRequestsEngine) {
  files.emplace(which.file, fmt::format(kAgent, which.name, which.groups) + std::string(which.messages));
  std::string line = fmt::format("filter spoe engine {} config @{}", which.name, which.file);
  if (std::find(out.begin(), out.end(), line) == out.end()) out.push_back(std::move(line));
}

}  // namespace

void wafLines(std::vector<std::string>& out, const WafPolicy& policy, Files& files) {
  engine(out, files);
  std::string rules = wafRules(policy);
  const std::string name = kPolicyPrefix + shortDigest(rules);
  files.emplace(name, std::move(rules));
  out.push_back(fmt::format("http-request set-var(txn.waf) str({})", name));
  // What does not fit would not be judged.
  if (policy.prevent) {
    out.push_back(fmt::format("http-request deny deny_status 400 if {{ req.hdrs,length gt {} }}", kFilterHead));
    out.push_back(fmt::format(
        "http-request return status 414 content-type text/plain string 'too long' if {{ pathq,length gt {} }}",
        kFilterUri));
  }
  if (policy.readsBody) {
    if (policy.prevent && !policy.partly)
      out.push_back(
          fmt::format("http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {} }}", kFilterBody));
    out.push_back(fmt::format("http-request wait-for-body time 10s at-least {}", kFilterBody + 1));
    if (policy.prevent && !policy.partly)
      out.push_back(fmt::format("http-request deny deny_status 413 if {{ req.body_len gt {} }}", kFilterBody));
  }
  out.push_back("http-request send-spoe-group edge inspect if { nbsrv(edge_filter) gt 0 }");
  if (policy.prevent) out.push_back("http-request deny deny_status 403 if { var(txn.filter.blocked) -m bool }");
  if (!policy.failOpen) out.push_back("http-request deny deny_status 503 unless { var(txn.filter.judged) -m bool }");
}

void mirrorLines(std::vector<std::string>& out, const Mirror& mirror, Files& files) {
  if (mirror.share == 0) return;
  engine(out, files);
  std::string share;
  if (mirror.share < mirror.of) share = fmt::format(" if {{ rand({}) lt {} }}", mirror.of, mirror.share);
  const std::string target = fmt::format("{}{}{}", mirror.address, mirror.path, mirror.withUri ? "*" : "");
  out.push_back("http-request unset-var(txn.mirror)");
  out.push_back(fmt::format("http-request set-var(txn.mirror) str({}){}", quoted(target), share));
  out.push_back(mirror.host.empty()
                    ? "http-request unset-var(txn.mirror_host)"
                    : fmt::format("http-request set-var(txn.mirror_host) str({})", quoted(mirror.host)));
  // A body whose length nobody tells may never end: it has no copy.
  if (mirror.withBody)
    out.push_back(
        fmt::format("http-request wait-for-body time 60s if {{ var(txn.mirror) -m found }} "
                    "{{ req.hdr_val(content-length) gt 0 }} {{ req.hdr_val(content-length) le {} }}",
                    kFilterBody));
  out.push_back("http-request send-spoe-group edge mirror if { var(txn.mirror) -m found } { nbsrv(edge_filter) gt 0 }");
}

void usersLines(std::vector<std::string>& out, const std::string& list, const std::string& realm, Files& files) {
  engine(out, files, kUsersEngine);
  const std::string ask = "http-request auth realm " + realm, closed = "http-request deny deny_status 503";
  out.push_back(fmt::format("http-request set-var(txn.users) str({})", list));
  out.push_back(closed + " if { nbsrv(edge_filter) eq 0 }");
  out.push_back(ask + " unless { req.hdr(authorization) -m found }");
  out.push_back("http-request send-spoe-group users authenticate");
  out.push_back(closed + " unless { var(txn.filter.user) -m found }");
  out.push_back(ask + " unless { var(txn.filter.user) -m bool }");
}

void customErrorLines(std::vector<std::string>& out, const ErrorBackend& errors, Files& files) {
  constexpr std::string_view kAnswer =
      "http-response return status {} content-type text/html lf-string '%[var(txn.filter.error_body)]' if {}";
  constexpr int kOk = 200;
  engine(out, files, kErrorsEngine);
  out.push_back(fmt::format(
      "http-request set-var(txn.errors) str({})",
      quoted(fmt::format("{} {} {} {} {}", errors.address, errors.ns, errors.ingress, errors.service, errors.port))));
  // As it was asked: rewrites come later.
  out.push_back("http-request set-var(txn.error_uri) pathq,bytes(0,2048)");
  out.push_back("http-request set-var(txn.error_format) req.fhdr(accept,1),bytes(0,512)");
  out.push_back("http-request set-var(txn.error_id) req.fhdr(x-request-id,1),bytes(0,128)");
  std::string codes;
  for (int code : errors.codes) codes += fmt::format(" {}", code);
  out.push_back(fmt::format("http-response set-var(txn.error_code) status if {{ status{} }}", codes));
  out.push_back(
      "http-response send-spoe-group errors error if { var(txn.error_code) -m found } { nbsrv(edge_filter) gt 0 }");
  // Its own status counts where it is one of these; a line has one that is fixed.
  std::vector<int> statuses = errors.codes;
  statuses.push_back(kOk);
  for (int status : statuses)
    out.push_back(fmt::format(kAnswer, status, fmt::format("{{ var(txn.filter.error_status) -m str {} }}", status)));
  for (int code : errors.codes)
    out.push_back(
        fmt::format(kAnswer, code, fmt::format("{{ status {} }} {{ var(txn.filter.error_status) -m found }}", code)));
  for (auto [header, variable] : {std::pair("Content-Type", "error_type"), std::pair("Cache-Control", "error_cache")})
    out.push_back(
        fmt::format("http-after-response set-header {0} %[var(txn.filter.{1})] if {{ var(txn.filter.{1}) -m "
                    "found }}",
                    header, variable));
}

// One that is not there is noticed at once, as a request that asks it waits until `timeout processing`.
std::string filterBackend(const std::string& socket) {
  return fmt::format(
      "backend {}\n  mode tcp\n  timeout connect 2s\n  timeout server 3m\n  server filter unix@{} check inter 1s "
      "fastinter 100ms downinter 100ms rise 1 fall 1 observe layer4 error-limit 1 on-error mark-down\n",
      kFilterBackend, socket);
}

}  // namespace dhow::ingress
