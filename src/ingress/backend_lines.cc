#include "backend_lines.h"

#include "base/digest.h"
#include "base/strings.h"
#include "client/fields.h"
#include "text.h"

namespace dhow::ingress {

namespace {

using Lines = std::vector<std::string>;

constexpr int64_t kWindowSeconds = 5;  // over which rates are counted
constexpr int64_t kSecondsInMinute = 60;

void access(Lines& out, const Annotations& a) {
  if (!a.closed.empty()) out.push_back("http-request deny deny_status 503");
  if (!a.denied.empty()) {
    for (std::string& line : linesOfWords("acl denied src", a.denied)) out.push_back(std::move(line));
    out.push_back("http-request deny deny_status 403 if denied");
  }
  if (!a.allowed.empty()) {
    for (std::string& line : linesOfWords("acl allowed src", a.allowed)) out.push_back(std::move(line));
    out.push_back("http-request deny deny_status 403 unless allowed");
  }
}

void redirects(Lines& out, const Annotations& a, const Place& place) {
  if (a.forceSslRedirect || (place.tls && a.sslRedirect.value_or(true)))
    out.push_back(fmt::format("http-request redirect scheme https code {} unless {{ var(txn.tls) -m found }}",
                              a.sslRedirectCode));
  if (place.root && !a.appRoot.empty())
    out.push_back(fmt::format("http-request redirect location {} code 302 if {{ path / }}", literal(a.appRoot)));
  if (!a.redirect.empty())
    out.push_back(fmt::format("http-request redirect location {} code {}", literal(a.redirect), a.redirectCode));
}

}  // namespace

void corsLines(Lines& out, const Annotations::Cors& c) {
  const bool any = c.origins.size() == 1 && c.origins[0] == "*";
  out.push_back("http-request set-var(txn.origin) req.hdr(Origin)");
  std::string allowed = "{ var(txn.origin) -m found }";
  if (!any) {
    for (const std::string& origin : c.origins) {
      const size_t star = origin.find("://*.");
      if (star == std::string::npos)
        out.push_back("acl cors_origin var(txn.origin) -m str -i " + quoted(origin));
      else  // https://*.example.com
        out.push_back("acl cors_origin var(txn.origin) -m end -i " + quoted(origin.substr(star + 4)));
    }
    allowed = "cors_origin";
  }
  struct Header {
    std::string name, value;
  };
  std::vector<Header> headers{{"Access-Control-Allow-Origin", any && !c.credentials ? "'*'" : "%[var(txn.origin)]"}};
  if (c.credentials) headers.push_back({"Access-Control-Allow-Credentials", "true"});
  std::vector<Header> preflight = headers;
  if (!c.methods.empty()) preflight.push_back({"Access-Control-Allow-Methods", literal(c.methods)});
  if (!c.headers.empty()) preflight.push_back({"Access-Control-Allow-Headers", literal(c.headers)});
  preflight.push_back({"Access-Control-Max-Age", std::to_string(c.maxAge)});
  if (!c.expose.empty()) headers.push_back({"Access-Control-Expose-Headers", literal(c.expose)});
  std::string answer = "http-request return status 204";
  for (const Header& header : preflight) answer += fmt::format(" hdr {} {}", header.name, header.value);
  out.push_back(answer + " if METH_OPTIONS " + allowed);
  for (const Header& header : headers)
    out.push_back(fmt::format("http-response set-header {} {} if {}", header.name, header.value, allowed));
}

namespace {

void limits(Lines& out, const Annotations& a) {
  if (a.limitPerMinute == 0 && a.limitConnections == 0) return;
  out.push_back(
      fmt::format("stick-table type ipv6 size 100k expire 1m store conn_cur,http_req_rate({}s)", kWindowSeconds));
  out.push_back("http-request track-sc0 src");
  if (a.limitConnections > 0)
    out.push_back(fmt::format("http-request deny deny_status 503 if {{ sc0_conn_cur gt {} }}", a.limitConnections));
  if (a.limitPerMinute > 0) {
    // What a bucket of `burst` rates lets through within the window.
    const int64_t rate = std::max<int64_t>(1, a.limitPerMinute / kSecondsInMinute);
    const int64_t burst = rate * a.limitBurst + a.limitPerMinute * kWindowSeconds / kSecondsInMinute;
    out.push_back(
        fmt::format("http-request deny deny_status 503 if {{ sc0_http_req_rate gt {} }}", std::max<int64_t>(1, burst)));
  }
}

void identity(Lines& out, const Annotations& a, const Place& place, Files& files) {
  if (!place.clientCertificates.empty()) {
    if (a.clientCertificate == Annotations::Verify::kOn)
      out.push_back("http-request deny deny_status 400 unless { ssl_c_used } { ssl_c_verify 0 }");
    out.push_back("http-request set-header ssl-client-verify SUCCESS if { ssl_c_used } { ssl_c_verify 0 }");
    out.push_back("http-request set-header ssl-client-verify NONE unless { ssl_c_used } { ssl_c_verify 0 }");
    out.push_back("http-request set-header ssl-client-subject-dn %{+Q}[ssl_c_s_dn] if { ssl_c_used }");
    if (a.passClientCertificate)
      out.push_back("http-request set-header ssl-client-cert %[ssl_c_der,base64] if { ssl_c_used }");
  }
  if (!place.users.empty()) usersLines(out, place.users, quoted(a.authRealm), files);
}

void rewrite(Lines& out, const Annotations& a, const Place& place) {
  if (a.bodySize > 0)
    out.push_back(
        fmt::format("http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {} }}", a.bodySize));
  // As nginx: the whole path becomes the target.
  if (!a.rewriteTarget.empty()) {
    std::string target;
    for (size_t i = 0; i < a.rewriteTarget.size(); ++i) {
      const bool group = a.rewriteTarget[i] == '$' && i + 1 < a.rewriteTarget.size() &&
                         std::isdigit(static_cast<unsigned char>(a.rewriteTarget[i + 1]));
      target += group ? '\\' : a.rewriteTarget[i];
    }
    const std::string path = place.path.empty() ? "/" : place.path;
    out.push_back(fmt::format("http-request replace-path {} {}", quoted("(?i)^" + path + ".*$"), literal(target)));
  } else if (!a.backendPathPrefix.empty()) {
    std::string prefix = place.path;
    while (prefix.ends_with('/') || prefix.ends_with('*')) prefix.pop_back();
    std::string target = a.backendPathPrefix;
    while (target.ends_with('/')) target.pop_back();
    out.push_back(fmt::format("http-request replace-path {} {}", quoted("^" + escaped(prefix) + "/?(.*)$"),
                              literal(target + "/\\1")));
  }
  if (!a.upstreamHost.empty()) out.push_back("http-request set-header Host " + literal(a.upstreamHost));
  if (!a.forwardedPrefix.empty())
    out.push_back("http-request set-header X-Forwarded-Prefix " + literal(a.forwardedPrefix));
}

}  // namespace

std::vector<std::string> affinityLines(const Annotations::Affinity& cookie, const std::string& owner) {
  std::string line = fmt::format("cookie {} insert indirect nocache httponly dynamic", cookie.name);
  if (cookie.secure || cookie.sameSite == "None") line += " secure";
  if (!cookie.domain.empty()) line += " domain " + quoted(cookie.domain);
  if (cookie.maxAge > 0) line += fmt::format(" attr 'Max-Age={}'", cookie.maxAge);
  if (!cookie.sameSite.empty()) line += fmt::format(" attr 'SameSite={}'", cookie.sameSite);
  // All nodes must read each other's cookies; it hides addresses from nobody who knows where pods are.
  return {std::move(line), "dynamic-cookie-key " + sha256Hex(owner).substr(0, 32)};
}

std::vector<std::string> sessionLines(const Annotations::Affinity& cookie, const std::string& table) {
  Lines out;
  const std::string name = escaped(cookie.name), user = "var(txn.user)", ended = "{ var(txn.ended) -m bool }";
  out.push_back(fmt::format("http-request set-var(txn.user) req.cook({}),field(2,.)", cookie.name));
  // A cookie of before users were told apart: a client is one user.
  out.push_back(
      fmt::format("http-request set-var(txn.user) src,hex,lower if {{ req.cook({}),field(1,.) -m found }} !{{ {} -m "
                  "len gt 0 }}",
                  cookie.name, user));
  out.push_back(fmt::format("http-request set-var(txn.user) uuid unless {{ {} -m reg '^[0-9a-f-]{{8,36}}$' }}", user));
  out.push_back(fmt::format("http-request replace-header Cookie {} {}",
                            quoted(fmt::format("^((?:.*; *)?{}=[^;.]*)\\.[^;]*(.*)$", name)), quoted("\\1\\2")));
  out.push_back(fmt::format("http-request track-sc2 {} table {}", user, table));
  out.push_back("http-request sc-set-gpt0(2) date()");
  out.push_back(fmt::format("stick store-request {} table {}", user, table));
  out.push_back("http-response set-var(txn.ended) bool(true) if { res.hdr(Dhow-Session) -m str -i end }");
  out.push_back("http-response sc-set-gpt0(2) 0 if " + ended);
  out.push_back("http-response del-header Dhow-Session");
  out.push_back(fmt::format("http-after-response replace-header Set-Cookie {} {}",
                            quoted(fmt::format("^({}=[^;.]+)(;.*)?$", name)), quoted("\\1.%[var(txn.user)]\\2")));
  std::string gone = cookie.name + "=; path=/; Max-Age=0";
  if (!cookie.domain.empty()) gone += "; domain=" + cookie.domain;
  if (cookie.secure || cookie.sameSite == "None") gone += "; Secure";
  if (!cookie.sameSite.empty()) gone += "; SameSite=" + cookie.sameSite;
  out.push_back(fmt::format("http-after-response add-header Set-Cookie {} if {}", literal(gone), ended));
  return out;
}

std::vector<std::string> defaultBackendLines(const ErrorBackend& errors) {
  auto header = [](std::string_view name, std::string_view value) {
    return fmt::format("http-request set-header {} {}", name, value);
  };
  return {header("X-Code", "503"),
          header("X-Format", "%[req.fhdr(accept,1)]"),
          header("X-Namespace", quoted(errors.ns)),
          header("X-Ingress-Name", quoted(errors.ingress)),
          header("X-Service-Name", quoted(errors.service)),
          header("X-Service-Port", quoted(errors.port))};
}

std::vector<std::string> loopLines(const object::Object& service) {
  // Whoever writes endpoints himself may write the address of a node.
  if (client::text(service.root(), {"spec", "type"}) != "ExternalName" &&
      !client::object(service.root(), {"spec", "selector"}).empty())
    return {};
  const std::string id = "dhow-" + shortDigest(service.uid());  // another one in another cluster
  return {fmt::format("http-request return status 508 content-type 'text/plain; charset=utf-8' string 'loop detected' "
                      "if {{ req.hdr(CDN-Loop) -m str {} }}",
                      id),
          fmt::format("http-request add-header CDN-Loop {}", id)};
}

namespace {

void compression(Lines& out) {
  out.push_back("compression algo gzip");
  out.push_back(
      "compression type text/ application/json application/javascript application/x-javascript application/xml "
      "application/xhtml+xml application/rss+xml application/atom+xml application/x-web-app-manifest+json "
      "application/vnd.ms-fontobject application/x-font-ttf font/ttf font/opentype image/svg+xml image/x-icon");
}

}  // namespace

std::vector<std::string> backendLines(const Annotations& a, const Place& place,
                                      std::map<std::string, std::string>& files) {
  Lines out;
  if (a.loadBalance.empty())
    out.push_back("balance roundrobin");
  else
    out.push_back("balance " + a.loadBalance);
  if (a.loadBalance == "uri" || a.loadBalance == "source" || a.loadBalance.starts_with("hdr("))
    out.push_back("hash-type consistent");
  if (!a.accessLog) out.push_back("http-request set-log-level silent");
  if (a.affinity)
    for (std::string& line : affinityLines(*a.affinity, place.key)) out.push_back(std::move(line));
  if (a.connectTimeout) out.push_back(fmt::format("timeout connect {}s", *a.connectTimeout));
  if (a.readTimeout || a.sendTimeout)
    out.push_back(fmt::format("timeout server {}s", std::max(a.readTimeout.value_or(0), a.sendTimeout.value_or(0))));
  if (a.retries.tries == 1)
    out.push_back("retry-on none");
  else if (!a.retries.when.empty())
    out.push_back("retry-on " + a.retries.when);
  if (a.retries.tries > 0) out.push_back(fmt::format("retries {}", a.retries.tries - 1));
  if (a.compression) compression(out);
  access(out, a);
  redirects(out, a, place);
  if (a.cors) corsLines(out, *a.cors);
  limits(out, a);
  identity(out, a, place, files);
  if (a.waf && a.closed.empty()) wafLines(out, *a.waf, files);
  if (!place.mirror.empty())
    mirrorLines(out,
                {.address = place.mirror,
                 .path = a.mirror->path,
                 .withUri = a.mirror->withUri,
                 .host = a.mirror->host.empty() ? a.mirror->service : a.mirror->host,
                 .withBody = a.mirror->withBody},
                files);
  if (place.errors && !place.errors->codes.empty()) customErrorLines(out, *place.errors, files);
  if (place.instead)
    for (std::string& line : defaultBackendLines(*place.instead)) out.push_back(std::move(line));
  rewrite(out, a, place);
  errorPageLines(out, place.pages);
  return out;
}

std::string serverOptions(Annotations::Protocol protocol, const Annotations& a, const BackendTls& tls) {
  using Protocol = Annotations::Protocol;
  std::string out;
  if (protocol == Protocol::kGrpc) out = "proto h2";
  if (protocol == Protocol::kHttps || protocol == Protocol::kGrpcs) {
    // Pods' certificates are their own affair, as with ingress-nginx, unless somebody asks.
    out = tls.authorities.empty() ? "ssl verify none" : "ssl verify required ca-file @" + tls.authorities;
    if (!tls.certificate.empty()) out += " crt @" + tls.certificate;
    out += protocol == Protocol::kGrpcs ? " alpn h2" : " alpn h2,http/1.1";
    // The name that is asked for is the one that a certificate is checked for.
    const std::string& name = a.backendName.empty() ? a.upstreamHost : a.backendName;
    out += name.empty() ? " sni var(txn.host)" : " sni str(" + name + ")";
  }
  if (!a.proxyProtocol.empty()) out += a.proxyProtocol == "v1" ? " send-proxy" : " send-proxy-v2";
  return out;
}

}  // namespace dhow::ingress
