#include "ingress/annotations.h"

#include <arpa/inet.h>

#include <algorithm>
#include <functional>

#include "base/strings.h"
#include "client/fields.h"
#include "client/sessions.h"
#include "text.h"

namespace dhow::ingress {

namespace {

constexpr std::string_view kNginx = "nginx.ingress.kubernetes.io/";
constexpr std::string_view kGateway = "appgw.ingress.kubernetes.io/";
constexpr std::string_view kOwn = "dhow.io/";
constexpr size_t kLongestValue = 1024;  // of what becomes a line of HAProxy's configuration
constexpr size_t kMostItems = 500;
constexpr size_t kMostCustomErrors = 40;  // a line holds 64 words

// Of ingress-nginx; they tune what nginx does and have no meaning here, and leaving them out changes nothing.
constexpr std::string_view kNeedless[] = {"proxy-buffering",
                                          "proxy-buffer-size",
                                          "proxy-buffers-number",
                                          "proxy-request-buffering",
                                          "proxy-http-version",
                                          "proxy-max-temp-file-size",
                                          "client-body-buffer-size",
                                          "service-upstream",
                                          "affinity-mode",
                                          "connection-proxy-header",
                                          "http2-push-preload",
                                          "session-cookie-change-on-failure",
                                          "session-cookie-path",
                                          "session-cookie-conditional-samesite-none",
                                          "affinity-canary-behavior",
                                          "auth-type",
                                          "auth-secret-type",
                                          "auth-tls-verify-depth",
                                          "ssl-ciphers",
                                          "ssl-prefer-server-ciphers",
                                          "proxy-ssl-server-name",
                                          "proxy-ssl-verify-depth",
                                          "proxy-ssl-protocols",
                                          "proxy-ssl-ciphers",
                                          "session-cookie-hash",
                                          "preserve-trailing-slash",
                                          "proxy-busy-buffers-size",
                                          "enable-rewrite-log",
                                          "session-cookie-expires"};

// The first of them that is no address and no range of addresses; empty: there is none.
std::string_view wrongRange(const std::vector<std::string>& ranges) {
  for (const std::string& range : ranges) {
    const std::string address = range.substr(0, range.find('/'));
    unsigned char bytes[16];
    const bool four = ::inet_pton(AF_INET, address.c_str(), bytes) == 1;
    const bool six = !four && ::inet_pton(AF_INET6, address.c_str(), bytes) == 1;
    auto length =
        address.size() == range.size() ? std::optional<int64_t>(0) : parseInt(range.substr(address.size() + 1));
    if ((!four && !six) || !length || *length < 0 || *length > (four ? 32 : 128)) return range;
  }
  return {};
}

std::vector<std::string> itemsOf(std::string_view value, char separator) {
  std::vector<std::string> out;
  for (const std::string& part : split(value, separator))
    if (auto one = trim(part); !one.empty()) out.emplace_back(one);
  return out;
}

class Parser {
 public:
  explicit Parser(const object::Object& ingress) : ingress_(ingress) {}

  ParsedAnnotations parse();
  ParsedAffinity parseAffinity();

 private:
  using Take = std::function<void(const std::string& value)>;
  struct Known {
    std::string_view name;
    Take take;
  };

  void wrong(std::string_view what) {
    out_.problems.push_back(fmt::format("the annotation {} is not used: {}", name_, what));
  }
  // Who asks for protection and would get none gets nothing.
  void close(std::string why) { out_.values.closed = std::move(why); }
  bool flag(const std::string& value, bool otherwise) {
    if (value == "true") return true;
    if (value != "false") wrong(fmt::format("\"{}\" is neither true nor false", value));
    return value == "false" ? false : otherwise;
  }
  std::optional<int64_t> integer(const std::string& value, int64_t least, int64_t most) {
    auto number = parseInt(value);
    if (number && *number >= least && *number <= most) return number;
    wrong(fmt::format("\"{}\" is no number from {} to {}", value, least, most));
    return std::nullopt;
  }
  std::optional<int64_t> seconds(const std::string& value) {
    std::string_view digits = value;
    if (digits.ends_with('s')) digits.remove_suffix(1);
    return integer(std::string(digits), 1, 86400);
  }
  // What is put into a line must be short and without control characters; quoting is render's.
  std::string plain(const std::string& value) {
    const bool good = value.size() <= kLongestValue && std::all_of(value.begin(), value.end(), [](char c) {
                        return static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
                      });
    if (good) return value;
    wrong("it is too long or has control characters");
    return "";
  }
  std::string token(const std::string& value) {
    const bool good = !value.empty() && value.size() <= 256 && std::all_of(value.begin(), value.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || std::string_view("-_.*").find(c) != std::string_view::npos;
    });
    if (good) return value;
    wrong(fmt::format("\"{}\" is no name", value));
    return "";
  }
  std::vector<std::string> items(const std::string& value, char separator) {
    std::vector<std::string> out = itemsOf(value, separator);
    if (out.size() <= kMostItems) return out;
    wrong(fmt::format("more than {} entries", kMostItems));
    return {};
  }
  std::vector<std::string> ranges(const std::string& value) {
    std::vector<std::string> out = items(value, ',');
    const std::string_view bad = wrongRange(out);
    if (bad.empty()) return out;
    wrong(fmt::format("\"{}\" is no range of addresses", bad));
    close("its ranges of addresses cannot be read");
    return {};
  }
  std::optional<int64_t> bytes(const std::string& value) {
    std::string_view digits = value;
    int64_t unit = 1;
    if (!digits.empty()) {
      switch (digits.back()) {
        case 'k':
        case 'K': unit = int64_t{1} << 10; break;
        case 'm':
        case 'M': unit = int64_t{1} << 20; break;
        case 'g':
        case 'G': unit = int64_t{1} << 30; break;
        default: break;
      }
      if (unit > 1) digits.remove_suffix(1);
    }
    auto number = integer(std::string(digits), 0, int64_t{1} << 32);
    return number ? std::optional(*number * unit) : std::nullopt;
  }
  Annotations::Affinity& affinity() { return affinity_; }
  Annotations::Cors& cors() { return cors_; }
  Annotations::Canary& canary() { return canary_; }

  std::optional<Annotations::Affinity> affinityOf();
  std::vector<Known> nginx();
  std::vector<Known> gateway();
  std::vector<Known> own();
  void protocol(const std::string& value);
  void mirrorTarget(std::string value);
  void nextUpstream(const std::string& value);
  void customErrors(const std::string& value);

  const object::Object& ingress_;
  ParsedAnnotations out_;
  std::string name_;
  Annotations::Affinity affinity_;
  Annotations::Cors cors_;
  Annotations::Canary canary_;
  Annotations::Mirror mirror_;
  bool hasAffinity_ = false, hasCors_ = false, isCanary_ = false, isMirrored_ = false;
};

void Parser::protocol(const std::string& value) {
  using Protocol = Annotations::Protocol;
  const std::string upper = [&] {
    std::string text = value;
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::toupper(c); });
    return text;
  }();
  if (upper == "HTTP" || upper == "AUTO_HTTP")
    out_.values.protocol = Protocol::kHttp;
  else if (upper == "HTTPS")
    out_.values.protocol = Protocol::kHttps;
  else if (upper == "GRPC")
    out_.values.protocol = Protocol::kGrpc;
  else if (upper == "GRPCS")
    out_.values.protocol = Protocol::kGrpcs;
  else
    wrong(fmt::format("\"{}\" is not one of HTTP, HTTPS, GRPC, GRPCS", value));
}

// "http://<service>[.<namespace>[.svc[.<domain>]]][:port][/path][$request_uri]": a service of the Ingress's namespace.
void Parser::mirrorTarget(std::string value) {
  constexpr std::string_view kUri = "$request_uri", kScheme = "http://";
  if (!value.starts_with(kScheme)) {
    wrong("copies go to http://<service of this namespace>[:<port>]$request_uri");
    return;
  }
  value.erase(0, kScheme.size());
  mirror_.withUri = value.ends_with(kUri);
  if (mirror_.withUri) value.erase(value.size() - kUri.size());
  const size_t slash = std::min(value.find('/'), value.size());
  mirror_.path = value.substr(slash);
  while (mirror_.withUri && mirror_.path.ends_with('/')) mirror_.path.pop_back();
  std::string place = value.substr(0, slash);
  if (const size_t colon = place.rfind(':'); colon != std::string::npos) {
    auto port = parseInt(std::string_view(place).substr(colon + 1));
    if (!port || *port < 1 || *port > UINT16_MAX) {
      wrong("its port is none");
      return;
    }
    mirror_.port = *port;
    place.resize(colon);
  }
  const std::vector<std::string> labels = split(place, '.');
  const bool ours = labels.size() == 1 || labels[1] == ingress_.ns();
  if (!isWord(place, "-.") || !ours || (labels.size() > 2 && labels[2] != "svc") ||
      (!mirror_.path.empty() && !isWord(mirror_.path, "/-._~%"))) {
    wrong(fmt::format("\"{}\" is no service of this namespace", place));
    return;
  }
  mirror_.service = labels[0];
  isMirrored_ = true;
}

// nginx's conditions under which a request is sent again, as HAProxy names them. A connection that was not made is one
// of each: nothing was sent.
void Parser::nextUpstream(const std::string& value) {
  struct Condition {
    std::string_view nginx, haproxy;
  };
  constexpr Condition kConditions[] = {{"error", "empty-response"},
                                       {"timeout", "response-timeout"},
                                       {"invalid_header", "junk-response"},
                                       {"http_403", "403"},
                                       {"http_404", "404"},
                                       {"http_500", "500"},
                                       {"http_502", "502"},
                                       {"http_503", "503"},
                                       {"http_504", "504"}};
  std::string when = "conn-failure";
  const std::vector<std::string> words = items(value, ' ');
  for (const std::string& word : words) {
    const auto* found = std::find_if(std::begin(kConditions), std::end(kConditions),
                                     [&](const Condition& one) { return one.nginx == word; });
    if (found != std::end(kConditions))
      when += fmt::format(" {}", found->haproxy);
    else if (word == "off")
      when = "none";
    else
      wrong(
          fmt::format("\"{}\" is not one of error, timeout, invalid_header, http_403, http_404, http_500, http_502, "
                      "http_503, http_504, off",
                      word));
    if (word == "off") break;
  }
  if (!words.empty()) out_.values.retries.when = std::move(when);
}

void Parser::customErrors(const std::string& value) {
  std::vector<int>& codes = out_.values.customErrors;
  for (const std::string& one : items(value, ',')) {
    auto code = parseInt(one);
    if (code && *code >= 400 && *code <= 599)
      codes.push_back(static_cast<int>(*code));
    else
      wrong(fmt::format("\"{}\" is no status from 400 to 599", one));
  }
  std::sort(codes.begin(), codes.end());
  codes.erase(std::unique(codes.begin(), codes.end()), codes.end());
  if (codes.size() <= kMostCustomErrors) return;
  wrong(fmt::format("more than {} statuses", kMostCustomErrors));
  codes.clear();
}

std::vector<Parser::Known> Parser::nginx() {
  Annotations& a = out_.values;
  auto text = [this](std::string& field) { return [this, &field](const std::string& value) { field = plain(value); }; };
  auto name = [this](std::string& field) { return [this, &field](const std::string& value) { field = token(value); }; };
  auto yes = [this](bool& field) { return [this, &field](const std::string& value) { field = flag(value, field); }; };
  auto count = [this](int64_t& field, int64_t factor = 1) {
    return [this, &field, factor](const std::string& value) {
      if (auto number = integer(value, 1, 1'000'000)) field = *number * factor;
    };
  };
  auto time = [this](std::optional<int64_t>& field) {
    return [this, &field](const std::string& value) { field = seconds(value); };
  };
  auto list = [this](std::vector<std::string>& field) {
    return [this, &field](const std::string& value) { field = ranges(value); };
  };
  auto code = [this, &a](const std::string& value) {
    if (auto number = integer(value, 301, 308)) a.redirectCode = static_cast<int>(*number);
  };
  auto place = [this, &a](int status) {
    return [this, &a, status](const std::string& value) {
      a.redirect = plain(value);
      if (a.redirectCode == 301) a.redirectCode = status;
    };
  };
  return {
      {"ssl-redirect", [this, &a](const std::string& v) { a.sslRedirect = flag(v, true); }},
      {"force-ssl-redirect", yes(a.forceSslRedirect)},
      {"rewrite-target", text(a.rewriteTarget)},
      {"app-root", text(a.appRoot)},
      {"permanent-redirect", place(301)},
      {"temporal-redirect", place(302)},
      {"permanent-redirect-code", code},
      {"temporal-redirect-code", code},
      {"use-regex", yes(a.useRegex)},
      {"backend-protocol", [this](const std::string& v) { protocol(v); }},
      {"upstream-vhost", name(a.upstreamHost)},
      {"x-forwarded-prefix", text(a.forwardedPrefix)},
      {"server-alias",
       [this, &a](const std::string& v) {
         for (const std::string& one : items(v, ','))
           if (std::string host = token(one); !host.empty()) a.aliases.push_back(toLower(host));
       }},
      {"load-balance",
       [this, &a](const std::string& v) {
         if (v == "round_robin")
           a.loadBalance = "roundrobin";
         else if (v == "ewma" || v == "least_conn")
           a.loadBalance = "leastconn";
         else
           wrong(fmt::format("\"{}\" is not one of round_robin, ewma, least_conn", v));
       }},
      {"upstream-hash-by",
       [this, &a](const std::string& v) {
         if (v == "$request_uri" || v == "$uri")
           a.loadBalance = "uri";
         else if (v == "$remote_addr" || v == "$binary_remote_addr")
           a.loadBalance = "source";
         else if (v.starts_with("$http_")) {
           std::string header = token(v.substr(6));
           std::replace(header.begin(), header.end(), '_', '-');
           if (!header.empty()) a.loadBalance = "hdr(" + header + ")";
         } else
           wrong(fmt::format("\"{}\" is not one of $request_uri, $remote_addr, $http_<header>", v));
       }},
      {"affinity",
       [this](const std::string& v) {
         hasAffinity_ = v == "cookie";
         if (!hasAffinity_) wrong(fmt::format("\"{}\" is not cookie", v));
       }},
      {"session-cookie-name", name(affinity_.name)},
      {"session-cookie-domain", name(affinity_.domain)},
      {"session-cookie-secure", yes(affinity_.secure)},
      {"session-cookie-max-age", count(affinity_.maxAge)},
      {"session-cookie-samesite",
       [this](const std::string& v) {
         if (v == "Lax" || v == "Strict" || v == "None")
           affinity_.sameSite = v;
         else
           wrong(fmt::format("\"{}\" is not one of None, Lax, Strict", v));
       }},
      {"proxy-body-size",
       [this, &a](const std::string& v) {
         if (auto size = bytes(v)) a.bodySize = *size;
       }},
      {"proxy-connect-timeout", time(a.connectTimeout)},
      {"proxy-send-timeout", time(a.sendTimeout)},
      {"proxy-read-timeout", time(a.readTimeout)},
      {"proxy-next-upstream", [this](const std::string& v) { nextUpstream(v); }},
      {"proxy-next-upstream-tries",
       [this, &a](const std::string& v) {  // 0 is any number there
         if (auto tries = integer(v, 0, 100)) a.retries.tries = *tries;
       }},
      {"proxy-next-upstream-timeout",
       [this](const std::string& v) {
         if (v != "0") wrong("how often a request is sent again is bounded by proxy-next-upstream-tries alone");
       }},
      {"whitelist-source-range", list(a.allowed)},
      {"allowlist-source-range", list(a.allowed)},
      {"denylist-source-range", list(a.denied)},
      {"limit-rps", count(a.limitPerMinute, 60)},
      {"limit-rpm", count(a.limitPerMinute)},
      {"limit-connections", count(a.limitConnections)},
      {"limit-burst-multiplier", count(a.limitBurst)},
      {"auth-secret", text(a.authSecret)},
      {"auth-realm", text(a.authRealm)},
      {"auth-tls-secret", text(a.clientCertificateSecret)},
      {"auth-tls-verify-client",
       [this, &a](const std::string& v) {
         using Verify = Annotations::Verify;
         if (v == "on")
           a.clientCertificate = Verify::kOn;
         else if (v == "optional" || v == "optional_no_ca")
           a.clientCertificate = Verify::kOptional;
         else if (v == "off")
           a.clientCertificate = Verify::kOff;
         else
           wrong(fmt::format("\"{}\" is not one of on, off, optional, optional_no_ca", v));
       }},
      {"auth-tls-pass-certificate-to-upstream", yes(a.passClientCertificate)},
      {"proxy-ssl-secret", text(a.backendSecret)},
      {"proxy-ssl-name", name(a.backendName)},
      {"proxy-ssl-verify",
       [this, &a](const std::string& v) {
         a.verifyBackends = v != "off";
         if (v != "on" && v != "off") close("proxy-ssl-verify is neither on nor off");
       }},
      {"canary", [this](const std::string& v) { isCanary_ = flag(v, false); }},
      {"canary-by-header", name(canary_.header)},
      {"canary-by-header-value", text(canary_.headerValue)},
      {"canary-by-header-pattern", text(canary_.headerPattern)},
      {"canary-by-cookie", name(canary_.cookie)},
      {"canary-weight",
       [this](const std::string& v) {
         if (auto number = integer(v, 0, 1'000'000)) canary_.weight = static_cast<int>(*number);
       }},
      {"canary-weight-total",
       [this](const std::string& v) {
         if (auto number = integer(v, 1, 1'000'000)) canary_.total = static_cast<int>(*number);
       }},
      {"enable-access-log", yes(a.accessLog)},
      {"custom-http-errors", [this](const std::string& v) { customErrors(v); }},
      {"default-backend", name(a.defaultBackend)},
      {"mirror-target", [this](const std::string& v) { mirrorTarget(plain(v)); }},
      {"mirror-host", name(mirror_.host)},
      {"mirror-request-body",
       [this](const std::string& v) {
         mirror_.withBody = v != "off";
         if (v != "on" && v != "off") wrong(fmt::format("\"{}\" is neither on nor off", v));
       }},
      {"enable-cors", yes(hasCors_)},
      {"cors-allow-origin", [this](const std::string& v) { cors_.origins = items(plain(v), ','); }},
      {"cors-allow-methods", text(cors_.methods)},
      {"cors-allow-headers", text(cors_.headers)},
      {"cors-expose-headers", text(cors_.expose)},
      {"cors-allow-credentials", yes(cors_.credentials)},
      {"cors-max-age", count(cors_.maxAge)},
  };
}

std::vector<Parser::Known> Parser::gateway() {
  Annotations& a = out_.values;
  return {
      {"backend-path-prefix", [this, &a](const std::string& v) { a.backendPathPrefix = plain(v); }},
      {"backend-hostname", [this, &a](const std::string& v) { a.upstreamHost = token(v); }},
      {"backend-protocol", [this](const std::string& v) { protocol(v); }},
      {"ssl-redirect",
       [this, &a](const std::string& v) {
         a.sslRedirect = flag(v, false);
         a.sslRedirectCode = 301;
       }},
      {"cookie-based-affinity",
       [this](const std::string& v) {
         hasAffinity_ = flag(v, false);
         affinity_.name = "ApplicationGatewayAffinity";
       }},
      {"request-timeout", [this, &a](const std::string& v) { a.readTimeout = seconds(v); }},
      {"hostname-extension",
       [this, &a](const std::string& v) {
         for (const std::string& one : items(v, ','))
           if (std::string host = token(one); !host.empty()) a.aliases.push_back(toLower(host));
       }},
      // A pod that leaves is always drained here, until it ends.
      {"connection-draining", [this](const std::string& v) { (void)flag(v, true); }},
      {"connection-draining-timeout", [this](const std::string& v) { (void)integer(v, 1, 3600); }},
  };
}

std::vector<Parser::Known> Parser::own() {
  Annotations& a = out_.values;
  return {
      {"error-pages", [this, &a](const std::string& v) { a.errorPages = token(v); }},
      {"compression", [this, &a](const std::string& v) { a.compression = flag(v, false); }},
      {"proxy-protocol",
       [this, &a](const std::string& v) {
         if (v == "v1" || v == "v2")
           a.proxyProtocol = v;
         else
           wrong(fmt::format("\"{}\" is neither v1 nor v2", v));
       }},
      {"session-idle",
       [this](const std::string& v) {
         if (auto limit = client::sessionTime(v))
           affinity_.idle = std::chrono::duration_cast<std::chrono::seconds>(*limit).count();
         else
           wrong(fmt::format("\"{}\" is no time as 90s, 5m or 1h30m", v));
       }},
  };
}

std::optional<Annotations::Affinity> Parser::affinityOf() {
  // Who has no cookie any more is another user.
  if (affinity_.maxAge > 0) affinity_.idle = std::min(affinity_.idle, affinity_.maxAge);
  return hasAffinity_ ? std::optional(affinity_) : std::nullopt;
}

ParsedAffinity Parser::parseAffinity() {
  auto read = [this](std::string_view prefix, const std::vector<Known>& known) {
    for (const Known& one : known) {
      if (one.name != "affinity" && !one.name.starts_with("session-")) continue;
      name_ = fmt::format("{}{}", prefix, one.name);
      if (const std::string_view value = ingress_.annotation(name_); !value.empty()) one.take(std::string(value));
    }
  };
  read(kNginx, nginx());
  read(kOwn, own());
  return {affinityOf(), std::move(out_.problems)};
}

ParsedAnnotations Parser::parse() {
  const auto& annotations = client::object(ingress_.root(), {"metadata", "annotations"});
  auto read = [&](std::string_view prefix, const std::vector<Known>& known) {
    for (const auto& member : annotations) {
      std::string_view key = member.key();
      if (!key.starts_with(prefix) || !member.value().is_string()) continue;
      const std::string_view name = key.substr(prefix.size());
      name_ = key;
      auto found = std::find_if(known.begin(), known.end(), [&](const Known& one) { return one.name == name; });
      if (found != known.end())
        found->take(std::string(member.value().get_string()));
      else if (prefix == kNginx && isWafAnnotation(name))
        continue;  // wafPolicyOf()
      else if (prefix == kOwn)
        continue;  // others have some, too
      else if (prefix != kNginx || std::find(std::begin(kNeedless), std::end(kNeedless), name) == std::end(kNeedless))
        wrong("it is not served");
    }
  };
  const auto type = client::text(annotations, "nginx.ingress.kubernetes.io/auth-type");
  read(kGateway, gateway());
  read(kNginx, nginx());
  read(kOwn, own());
  Annotations& a = out_.values;
  a.affinity = affinityOf();
  if (hasCors_) a.cors = cors_;
  if (isCanary_) a.canary = canary_;
  if (isMirrored_) a.mirror = mirror_;
  if (auto waf = wafPolicyOf(annotations); waf.ok())
    a.waf = std::move(*waf);
  else
    close(waf.error().message());
  name_ = "nginx.ingress.kubernetes.io/auth-type";
  if (!a.authSecret.empty() && type != "basic") {
    wrong(type.empty() ? "it is missing beside auth-secret" : fmt::format("\"{}\" is not basic", type));
    a.authSecret = "";
    close("its authentication is not served");
  }
  a.authMap = client::text(annotations, "nginx.ingress.kubernetes.io/auth-secret-type") == "auth-map";
  return std::move(out_);
}

}  // namespace

ParsedAnnotations parseAnnotations(const object::Object& ingress) {
  return Parser(ingress).parse();
}

ParsedAffinity parseAffinity(const object::Object& object) {
  return Parser(object).parseAffinity();
}

ParsedRanges parseRanges(const object::Object& object, std::string_view annotation) {
  ParsedRanges out{itemsOf(object.annotation(annotation), ','), ""};
  if (const std::string_view bad = wrongRange(out.ranges); !bad.empty())
    out = {{}, fmt::format("the annotation {} is not used: \"{}\" is no range of addresses", annotation, bad)};
  else if (out.ranges.size() > kMostItems)
    out = {{}, fmt::format("the annotation {} is not used: more than {} entries", annotation, kMostItems)};
  return out;
}

}  // namespace dhow::ingress
