// What annotations do to a backend's section. Private to this folder.
#pragma once

#include "error_pages.h"
#include "filter_lines.h"
#include "ingress/annotations.h"
#include "ingress/config.h"

namespace dhow::ingress {

// Where a backend of an Ingress is used, as far as its lines depend on it.
struct Place {
  std::string key;                                // of the Ingress
  std::string path;                               // for rewrites
  bool regex = false, tls = false, root = false;  // root: it is the path / itself
  std::string users;                              // a file of them
  std::string clientCertificates;                 // a file of authorities
  std::vector<ErrorPage> pages;
  std::string mirror;                   // "address:port" of the service that gets copies
  std::optional<ErrorBackend> errors;   // who answers in place of the backend
  std::optional<ErrorBackend> instead;  // it is the one that does, as no pod is there
};

// Of cookie affinity; `owner` is whose cookies it gives.
std::vector<std::string> affinityLines(const Annotations::Affinity& cookie, const std::string& owner);
// What counts the users of a backend with cookie affinity, after the lines that may refuse a request. The cookie names
// the server and, after a dot, the user; the table has for each user the server and, in gpt0, the second of the last
// request, or 0 when the application has ended the session by the header `Dhow-Session: end`.
std::vector<std::string> sessionLines(const Annotations::Affinity& cookie, const std::string& table);
// Of a backend that may lead back here, as a name elsewhere or endpoints that somebody wrote: a request that comes
// again is answered with 508, by CDN-Loop (RFC 8586). Empty for other services.
std::vector<std::string> loopLines(const object::Object& service);
// Adds to `files` what the lines name.
std::vector<std::string> backendLines(const Annotations& annotations, const Place& place,
                                      std::map<std::string, std::string>& files);
// What a default backend is told of a request that it answers because no pod does.
std::vector<std::string> defaultBackendLines(const ErrorBackend& errors);
void corsLines(std::vector<std::string>& out, const Annotations::Cors& cors);
// At the end of each server's line.
struct BackendTls {
  std::string authorities;  // a file; empty: certificates are not looked at
  std::string certificate;  // a file of what is shown; may be empty
};
std::string serverOptions(Annotations::Protocol protocol, const Annotations& annotations, const BackendTls& tls = {});

}  // namespace dhow::ingress
