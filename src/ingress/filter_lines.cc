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
// Apart from the others, so that it needs no buffers for whole requests.
constexpr std::string_view kUsers = R"(spoe-message authenticate
  args users=var(txn.users) authorization=req.fhdr(authorization,1),bytes(0,2048)
spoe-group authenticate
  messages authenticate
)";

void engine(std::vector<std::string>& out, Files& files, bool users = false) {
  const std::string_view name = users ? "users" : "edge", file = users ? kUsersFile : kFilterFile;
  files.emplace(file, users ? fmt::format(kAgent, name, "authenticate") + std::string(kUsers)
                            : fmt::format(kAgent, name, "inspect mirror") + std::string(kRequests));
  std::string line = fmt::format("filter spoe engine {} config @{}", name, file);
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
  engine(out, files, true);
  const std::string ask = "http-request auth realm " + realm, closed = "http-request deny deny_status 503";
  out.push_back(fmt::format("http-request set-var(txn.users) str({})", list));
  out.push_back(closed + " if { nbsrv(edge_filter) eq 0 }");
  out.push_back(ask + " unless { req.hdr(authorization) -m found }");
  out.push_back("http-request send-spoe-group users authenticate");
  out.push_back(closed + " unless { var(txn.filter.user) -m found }");
  out.push_back(ask + " unless { var(txn.filter.user) -m bool }");
}

// One that is not there is noticed at once, as a request that asks it waits until `timeout processing`.
std::string filterBackend(const std::string& socket) {
  return fmt::format(
      "backend {}\n  mode tcp\n  timeout connect 2s\n  timeout server 3m\n  server filter unix@{} check inter 1s "
      "fastinter 100ms downinter 100ms rise 1 fall 1 observe layer4 error-limit 1 on-error mark-down\n",
      kFilterBackend, socket);
}

}  // namespace dhow::ingress
