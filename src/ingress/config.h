// What a node's HAProxy shall serve, as a plain value: made of documents (compile.h), turned into its files (render.h),
// and compared with what it serves already (haproxy.h). Names are those of HAProxy's manual, version 2.6.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace dhow::ingress {

inline constexpr const char* kTablePrefix = "sessions_";
inline constexpr int kShares = 100;  // of a split

struct Server {
  std::string address;
  uint16_t port = 0;
  enum class State : uint8_t {
    kReady,
    kLast,      // draining, and no other is ready: it is sent to until it has ended
    kDraining,  // its pod ends, or its node is silent: it serves the users that it has, no others are sent to it
    kLeaving,   // its pod ends: nothing new is sent to it
  };
  State state = State::kReady;
  std::string pod;  // uid; empty where it is not known
  auto operator<=>(const Server&) const = default;
};

// A section of the configuration: one port of a service, and what is done to requests on the way there.
struct Backend {
  std::vector<std::string> lines;  // beside its servers
  std::string serverOptions;       // at the end of each server's line
  std::vector<Server> servers;     // sorted; change without a reload
  std::string service, port;       // "ns/name", and the name of its slices' port: where servers come from; may be empty
  bool tcp = false;                // connections, not requests
  bool replaceable = false;        // while no pod serves it, its routes lead to another: those depend on `servers`
  // Its users are counted in a table, whose name begins with kTablePrefix. Backends with the same servers may share it.
  struct Sessions {
    std::string table;
    int64_t idle = 0;  // seconds without a request after which a user has left
    bool operator==(const Sessions&) const = default;
  };
  std::optional<Sessions> sessions;
  // Whether a pod serves it now.
  bool served() const;
  bool operator==(const Backend&) const = default;
};

// A certificate file, and for which server names. Its name is made of what it is for: other hosts, another file.
struct Certificate {
  std::string pem;      // certificates and key
  std::string options;  // as a line of a crt-list has them between brackets
  std::vector<std::string> hosts;
  std::string frontend;  // that it is for
  bool operator==(const Certificate&) const = default;
};

struct Listener {
  uint16_t port = 0;
  bool tls = false;
  bool v4 = true, v6 = true;  // on which of the node's addresses
  auto operator<=>(const Listener&) const = default;
};

// Where requests or connections come in. All of it is structure: a change is a reload.
struct Frontend {
  enum class Mode {
    kHttp,
    kTls,  // TLS that is not ended here, told apart by its server name
    kTcp,  // connections; where TLS is ended here, told apart by its server name
  };
  std::string name;  // its sites begin with "<name>|"
  Mode mode = Mode::kHttp;
  std::vector<Listener> listeners;
  std::vector<std::string> proxies;     // ranges: who comes from there tells of its client by PROXY protocol
  std::vector<std::string> forwarders;  // ranges: who comes from there tells of its client by X-Forwarded- headers
  uint16_t port = 0;                    // as clients know it; 0: the listener's
  std::string certificate;              // for names that no other is for; empty: the node's own
  std::string clientCertificates;       // file of the authorities of clients, which must show a certificate; or empty
  bool anyDepth = false;                // the star of a wildcard is any number of labels; else it is one
  std::set<int> depths;                 // of its wildcards: how many labels follow the star
  std::set<std::string> names;  // hostnames of its listeners, where a connection of one must not be used for another
  std::string owner;            // "Gateway/<ns>/<name>"; empty: the Ingresses
  std::string otherwise;        // the backend of requests that no route is for; empty: a plain 404
  std::map<int, std::string> errorFiles;               // by status, of Config::files: HAProxy's own errors
  std::vector<std::string> acls;                       // that the lines below use
  std::vector<std::string> afterExact, afterPrefixes;  // lines that set txn.to of some requests anew
  // What its routes have, so that others need not be looked for with each request. What was needed once stays.
  struct Routes {
    bool otherHosts = false;  // wildcards, aliases, all hosts: the host alone does not say which site it is
    bool exact = false, splits = false;
    Routes& operator|=(const Routes& other) {
      otherHosts |= other.otherHosts;
      exact |= other.exact;
      splits |= other.splits;
      return *this;
    }
    bool operator==(const Routes&) const = default;
  } routes;
  bool operator==(const Frontend&) const = default;
};

// How a request finds its backend: its frontend and host give a site ("i|shop.example.com", "i|*.example.com", "i|*"),
// the site and its path a route: the name of a backend and whose it is ("b_a_web_80_0123456789@Ingress/a/shop"), or of
// a split, or of a choice that a frontend's lines make.
struct Config {
  std::vector<Frontend> frontends;
  std::map<std::string, std::string> sites;     // host -> site, which is another one for an alias
  std::map<std::string, std::string> exact;     // site and path -> route
  std::map<std::string, std::string> prefixes;  // site and beginning, "/" at its end where elements count -> route
  std::map<std::string, std::string> splits;    // "split:x:0" to "split:x:99", kShares -> route
  std::map<std::string, Backend> backends;
  std::map<std::string, Certificate> certificates;  // by file name
  std::map<std::string, std::string> files;         // others that lines name, as @name
  std::set<std::string> decisive;  // services, "ns/name", whose endpoints all this depends on, and not servers alone
  bool empty() const { return frontends.empty(); }
  // Sets what the frontends' routes have.
  void lookAtRoutes();
  bool operator==(const Config&) const = default;
};

}  // namespace dhow::ingress
