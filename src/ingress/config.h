// What a node's HAProxy shall serve, as a plain value: made of documents (compile.h), turned into its files (render.h),
// and compared with what it serves already (runtime.h). Names are those of HAProxy's manual, version 2.6.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace dhow::ingress {

struct Server {
  std::string address;
  uint16_t port = 0;
  bool leaving = false;  // its pod ends: nothing new is sent to it
  auto operator<=>(const Server&) const = default;
};

// A section of the configuration: one port of a service, and what is done to requests on the way there.
struct Backend {
  std::vector<std::string> lines;  // beside its servers
  std::string serverOptions;       // at the end of each server's line
  std::vector<Server> servers;     // sorted; change without a reload
  std::string service, port;       // "ns/name", and the name of its slices' port: where servers come from; may be empty
  bool operator==(const Backend&) const = default;
};

// A certificate file, and for which server names. Its name is made of what it is for: other hosts, another file.
struct Certificate {
  std::string pem;      // certificates and key
  std::string options;  // as a line of a crt-list has them between brackets
  std::vector<std::string> hosts;
  bool operator==(const Certificate&) const = default;
};

struct Listener {
  uint16_t port = 0;
  bool tls = false;
  auto operator<=>(const Listener&) const = default;
};

// How a request finds its backend: its port and host give a site ("80|shop.example.com", "80|*.example.com", "80|*"),
// the site and its path a route: the name of a backend, or of a split, or of a choice that `choices` makes.
struct Config {
  std::vector<Listener> listeners;
  std::map<std::string, std::string> sites;     // host -> site, which is another one for an alias
  std::map<std::string, std::string> exact;     // site and path -> route
  std::map<std::string, std::string> prefixes;  // site and beginning, "/" at its end where elements count -> route
  std::vector<std::pair<std::string, std::string>> patterns;  // regular expression -> route; the first counts
  std::map<std::string, std::string> splits;                  // "split:x:0" to "split:x:99" -> route
  std::vector<std::string> choices;                           // lines that set txn.to of some requests anew
  std::vector<std::string> userlists;                         // whole sections
  std::map<std::string, Backend> backends;
  std::map<std::string, Certificate> certificates;  // by file name
  std::map<std::string, std::string> files;         // others that lines name, as @name
  bool empty() const { return listeners.empty(); }
  bool operator==(const Config&) const = default;
};

}  // namespace dhow::ingress
