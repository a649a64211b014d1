// What annotations of an Ingress ask for: ingress-nginx's (nginx.ingress.kubernetes.io/) and those of the Application
// Gateway's controller (appgw.ingress.kubernetes.io/), as people know them, and ours (dhow.io/). One that is wrong or
// not served is told and has no effect; the others have.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ingress/waf_policy.h"
#include "object/object.h"

namespace dhow::ingress {

constexpr int kPermanentRedirect = 308;

struct Annotations {
  enum class Protocol { kHttp, kHttps, kGrpc, kGrpcs };

  std::optional<bool> sslRedirect;  // missing: for hosts with TLS
  bool forceSslRedirect = false;
  int sslRedirectCode = kPermanentRedirect;
  std::string rewriteTarget, appRoot, redirect, backendPathPrefix;
  int redirectCode = 301;
  bool useRegex = false;
  std::optional<Protocol> protocol;
  std::string upstreamHost, forwardedPrefix, loadBalance;
  std::vector<std::string> aliases;

  struct Affinity {
    std::string name = "INGRESSCOOKIE", domain, sameSite;
    bool secure = false;
    int64_t maxAge = 0;  // seconds; 0: while the browser is open
    int64_t idle = 300;  // seconds without a request after which a user has left (dhow.io/session-idle)
  };
  std::optional<Affinity> affinity;

  int64_t bodySize = 0;                                             // bytes; 0: any
  std::optional<int64_t> connectTimeout, sendTimeout, readTimeout;  // seconds
  std::vector<std::string> allowed, denied;                         // ranges
  struct Retries {
    std::string when;   // HAProxy's words; empty: what holds by default
    int64_t tries = 0;  // the first one among them; 0: what holds by default
  } retries;
  bool compression = false;   // of answers, for clients that take gzip
  std::string proxyProtocol;  // in which version pods are told of clients, v1 or v2; empty: in none
  int64_t limitPerMinute = 0, limitConnections = 0, limitBurst = 5;

  bool accessLog = true;
  std::string errorPages;         // a config map
  std::vector<int> customErrors;  // statuses that are answered by the default backend instead
  std::string defaultBackend;     // a service, which answers, too, while the Ingress's own has no pod
  std::optional<WafPolicy> waf;
  struct Mirror {
    std::string service, path, host;
    int64_t port = 80;
    bool withUri = false, withBody = true;
  };
  std::optional<Mirror> mirror;

  std::string closed;  // why nothing is served: what protects it cannot be understood
  std::string authSecret, authRealm = "Authentication Required";
  bool authMap = false;  // the secret's keys are users; else its key `auth` is a file of them
  std::string clientCertificateSecret;
  enum class Verify { kOn, kOptional, kOff } clientCertificate = Verify::kOn;
  bool passClientCertificate = false;
  std::string backendSecret;  // authorities of backends' certificates, and what is shown to them
  bool verifyBackends = false;
  std::string backendName;  // that is asked for, and that their certificate must be for

  struct Canary {
    std::string header, headerValue, headerPattern, cookie;
    int weight = 0, total = 100;
  };
  std::optional<Canary> canary;

  struct Cors {
    std::vector<std::string> origins{"*"};
    std::string methods = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
    std::string headers =
        "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization";
    std::string expose;
    bool credentials = true;
    int64_t maxAge = 1728000;
  };
  std::optional<Cors> cors;
};

struct ParsedAnnotations {
  Annotations values;
  std::vector<std::string> problems;  // whole sentences without a full stop
};
ParsedAnnotations parseAnnotations(const object::Object& ingress);

// What of them is about cookie affinity alone; of other objects than Ingresses, too.
struct ParsedAffinity {
  std::optional<Annotations::Affinity> affinity;
  std::vector<std::string> problems;
};
ParsedAffinity parseAffinity(const object::Object& object);

// Of an IngressClass or Gateway: load balancers in front that tell of clients by PROXY protocol, or by headers.
constexpr std::string_view kProxyProtocolFrom = "dhow.io/proxy-protocol-from";
constexpr std::string_view kForwardedHeadersFrom = "dhow.io/forwarded-headers-from";
struct ParsedRanges {
  std::vector<std::string> ranges;
  std::string problem;  // empty: none
};
ParsedRanges parseRanges(const object::Object& object, std::string_view annotation);

}  // namespace dhow::ingress
