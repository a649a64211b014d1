// Gateways and routes while they are compiled. Private to this folder.
#pragma once

#include <optional>

#include "error_pages.h"
#include "filter_lines.h"
#include "ingress/annotations.h"
#include "ingress/gateway.h"

namespace dhow::ingress {

namespace json = boost::json;

template <class Visit>
void eachObject(const json::array& values, Visit visit) {
  for (const auto& value : values)
    if (value.is_object()) visit(value.get_object());
}

struct GatewayListener {
  std::string name, hostname, protocol;
  uint16_t port = 0;
  bool passthrough = false;  // TLS is not ended here
  const json::object* spec = nullptr;
  std::vector<RouteKind> kinds;           // that may attach
  std::vector<std::string> certificates;  // PEM: chain and key
  std::string clientAuthorities;          // PEM; clients must show a certificate of one of them
  Verdict accepted{"Accepted", true, "Accepted", "the listener is accepted"};
  Verdict conflicted{"Conflicted", false, "NoConflicts", "no other listener is in its way"};
  Verdict resolved{"ResolvedRefs", true, "ResolvedRefs", "what it refers to is there"};
  std::set<std::string> attached;  // kind and key of routes
  struct Taken {
    RouteKind kind;
    std::vector<std::string> hosts;
    std::string route;
  };
  std::vector<Taken> taken;  // by routes so far

  bool endsTls() const { return (protocol == "HTTPS" || protocol == "TLS") && !passthrough; }
  bool isHttp() const { return protocol == "HTTP" || protocol == "HTTPS"; }
  bool served() const { return accepted.status && !conflicted.status && (!endsTls() || !certificates.empty()); }
};

struct Gateway {
  ObjectPtr object;
  std::vector<GatewayListener> listeners;
  std::map<uint16_t, uint16_t> nodePorts;  // by listeners' ports
  std::vector<ErrorPage> pages;
  std::vector<std::string> forwarders;
  Verdict accepted{"Accepted", true, "Accepted", "the gateway is accepted"};
  Verdict resolved{"ResolvedRefs", true, "ResolvedRefs", "what it refers to is there"};
};

// A route at one listener, for the hosts that both are for; "" is any host.
struct Attachment {
  Gateway* gateway;
  GatewayListener* listener;
  std::vector<std::string> hosts;
};

// gateway_matches.cc: which requests a rule is for.
struct Match {
  enum class Path : uint8_t { kExact, kRegex, kPrefix };  // in the order in which they count
  Path type = Path::kPrefix;
  std::string path = "/";
  std::vector<std::string> conditions;  // as an ACL has them after its name; all of them
  bool method = false;
  size_t headers = 0, parameters = 0;
};
struct RuleModel {
  const json::object* spec = nullptr;
  std::vector<Match> matches;
  std::string problem;  // why it cannot be served: requests are answered with 500
};
std::vector<RuleModel> readRules(const Route& route);
// Whether its requests go to several services, by weight.
bool isSplit(const RuleModel& rule);

struct RouteModel {
  Route route;
  std::vector<RuleModel> rules;
  std::string created, key;
  std::vector<std::string> problems;  // of its annotations
  std::optional<WafPolicy> waf;
  std::optional<Annotations::Affinity> affinity;
  std::vector<Attachment> attachments;  // that were accepted
  std::set<const json::object*> loops;  // references that lead back to where connections come from
  Verdict resolved{"ResolvedRefs", true, "ResolvedRefs", "what it refers to is there"};

  const json::object& spec() const;
};

// gateway_listeners.cc: what stands in a gateway, checked.
// Adds to `files`.
Gateway readGateway(const ObjectPtr& object, const GatewayDocuments& documents, Files& files);

// gateway_routes.cc
// The hosts that are in both; none when there are none. "" is any, "*.x" any below x.
std::optional<std::string> intersection(const std::string& a, const std::string& b);
// Of these hosts the one that counts for `host`, which may be a wildcard; null when none does.
const std::string* bestHost(const std::vector<std::string>& hosts, const std::string& host);
// Fills attachments, by age; the verdicts of every parent that is a gateway of ours. `usable` says why a route as a
// whole cannot be served, if so.
std::vector<ParentVerdict> attach(RouteModel& route, std::vector<Gateway>& gateways, const GatewayDocuments& documents,
                                  const std::optional<Verdict>& unusable);

// Whether a grant of namespace `ns` lets objects of `kind` in `from` refer to `toKind` `name`.
bool granted(const std::vector<ObjectPtr>& grants, std::string_view kind, std::string_view from,
             std::string_view toGroup, std::string_view toKind, std::string_view ns, std::string_view name);

// gateway_backends.cc: what a reference leads to.
struct ResolvedBackend {
  Backend backend;                 // its lines: those that come before all others
  std::string name;                // "ns_service_port", for names of sections
  std::string address;             // of the service itself, "address:port"; empty: it has none
  std::optional<Verdict> problem;  // of ResolvedRefs; requests are answered with 500
  bool unusable = false;           // there, but not to be talked to: 500, too
};

class BackendResolver {
 public:
  BackendResolver(const GatewayDocuments& documents, Config& config);
  ResolvedBackend resolve(const Route& route, const json::object& ref);
  // Of every policy: which gateways use it, and how it was judged.
  std::vector<AttachmentVerdict> policies(const std::vector<RouteModel>& routes) const;

 private:
  struct Policy {
    ObjectPtr object;
    std::string authorities;             // PEM; empty: the machine's
    std::string hostname, verifiedName;  // that is asked for, and that the certificate must be for
    Verdicts verdicts;                   // Accepted, ResolvedRefs
    bool usable = true;
  };
  void readPolicy(const ObjectPtr& object);
  const Policy* policyOf(std::string_view ns, std::string_view service, std::string_view port) const;

  const GatewayDocuments& documents_;
  Config& config_;
  std::vector<Policy> policies_;           // the older first
  std::map<std::string, size_t> targets_;  // "ns/service:port's name" -> policy
};

// gateway_loops.cc: connections that would come around again and again. Of requests CDN-Loop tells (backend_lines.h);
// in mode tcp nothing can, so it is found by where services lead: to a gateway's own service, or to its addresses.
class TcpLoops {
 public:
  TcpLoops(const GatewayDocuments& documents, const std::vector<Gateway>& gateways, Config& config);
  // Of routes that are added one after the other the one that closes a circle is told (RouteModel::loops, resolved).
  void add(RouteModel& route);

 private:
  using Place = std::pair<std::string, uint16_t>;  // a gateway's key and port
  std::set<Place> targets(const Route& route, const json::object& ref);
  bool leads(const Place& from, const std::set<Place>& to, std::set<Place>& seen) const;

  const GatewayDocuments& documents_;
  Config& config_;
  std::set<std::string> gateways_;         // their services
  std::map<std::string, Place> places_;    // by endpoint
  std::map<std::string, Place> services_;  // by "ns/name:port"
  std::map<Place, std::set<Place>> next_;
};

// gateway_filters.cc: what a rule does to requests on the way.
struct RuleContext {
  const GatewayListener* listener;
  const std::vector<ErrorPage>* pages;
  std::string prefix;  // that a path matched, where it did by its beginning
  // "address:port" for copies of requests; empty: nowhere.
  std::function<std::string(const json::object& ref)> mirror;
  Files* files = nullptr;  // gets what lines name
};
struct FilterLines {
  std::vector<std::string> lines;
  bool answers = false;  // a redirect: nothing is sent on
};
// Why the filters cannot be served; empty when they can.
std::string filterProblem(const json::array& filters, const json::array& matches);
FilterLines filterLines(const json::array& filters, const RuleContext& context);
std::vector<std::string> timeoutLines(const json::object& timeouts);

// gateway_rules.cc: the frontends of gateways' ports, and which request goes where.
void addFrontends(std::vector<Gateway>& gateways, const std::vector<RouteModel>& routes, BackendResolver& resolver,
                  Config& config);

}  // namespace dhow::ingress
