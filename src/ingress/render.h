// A Config as HAProxy's files. Private to this folder.
//
//   haproxy.cfg   sites.map, exact.map, prefixes.map, splits.map
//   certificates-<frontend>.list (a crt-list)   certificates/<name>   files/<name>
#pragma once

#include <functional>

#include "base/strings.h"
#include "slots.h"

namespace dhow::ingress {

struct Layout {
  std::string folder;      // of the files
  std::string socket;      // the runtime API
  std::string filter;      // the socket of the filter (edge_filter.h)
  std::string metrics;     // the socket where it tells counts; empty: nowhere
  std::string address;     // that is listened on; may be empty
  std::string address6;    // and this one of IPv6, if any
  std::string dnsAddress;  // answers names of services elsewhere; may be empty
  bool accessLog = false;  // lines of JSON on the standard output
  int64_t maxConnections = 2000;
  int64_t hardStopSeconds = 3600;  // how long a process that was replaced may keep its connections

  std::string handoverSecret;  // by which one worker knows another

  // Where a worker takes what came to a port from the worker that it replaces. Unlike an abstract socket, it can be
  // taken up again after a reload that failed; and workers may not open our folders.
  static std::string handover(uint16_t port) { return fmt::format("127.0.14.1:{}", port); }
  std::string map(std::string_view name) const { return folder + "/" + std::string(name) + ".map"; }
  std::string certificateList(std::string_view frontend) const {
    return fmt::format("{}/certificates-{}.list", folder, frontend);
  }
  std::string certificate(std::string_view name) const { return folder + "/certificates/" + std::string(name); }
  std::string file(std::string_view name) const { return folder + "/files/" + std::string(name); }
};

struct Rendered {
  std::string config;
  // The first line of each backend, to find the one that HAProxy complains of.
  std::map<size_t, std::string> backends;
  // The lines that are a frontend's own.
  struct Own {
    size_t frontend;
    std::vector<std::string> Frontend::* list;
    size_t index;
  };
  std::map<size_t, Own> lines;
};
Rendered renderConfig(const Config& config, const std::map<std::string, Slots>& slots, const Layout& layout);
// The servers of a configuration that was rendered.
std::map<std::string, Slots> slotsIn(std::string_view config);
// Tables of users, and the backends that have one.
struct Tables {
  std::map<std::string, int64_t> idle;    // seconds, by table
  std::map<std::string, std::string> of;  // by backend
};
Tables tablesOf(const Config& config);
Tables tablesIn(std::string_view config);  // that was rendered
std::string renderMap(const std::map<std::string, std::string>& map);
// "[options] hosts" of a crt-list's line after the file.
std::string certificateFilter(const Certificate& certificate, const Layout& layout);
std::string renderCertificateList(const Config& config, const Frontend& frontend, const Layout& layout);
// As `set server` names it. In `drain` cookies lead to it, and nothing else; in `maint` they do not either.
inline const char* stateOf(const Server& server) {
  switch (server.state) {
    case Server::State::kReady:
    case Server::State::kLast: return "ready";
    case Server::State::kDraining: return "drain";
    case Server::State::kLeaving: break;
  }
  return "maint";
}
// The same at the end of a server's line.
inline const char* stateOption(const std::optional<Server>& server) {
  if (!server || server->state == Server::State::kLeaving) return " disabled";
  return server->state == Server::State::kDraining ? " weight 0" : "";
}

}  // namespace dhow::ingress
