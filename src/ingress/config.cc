#include "config.h"

#include <algorithm>

namespace dhow::ingress {

bool Backend::served() const {
  return std::any_of(servers.begin(), servers.end(), [](const Server& server) {
    return server.state == Server::State::kReady || server.state == Server::State::kLast;
  });
}

void Config::lookAtRoutes() {
  for (Frontend& frontend : frontends) {
    const std::string mine = frontend.name + "|", all = mine + "*/";
    Frontend::Routes& routes = frontend.routes;
    routes = {};
    auto each = [&mine](const std::map<std::string, std::string>& map, const auto& look) {
      for (auto at = map.lower_bound(mine); at != map.end() && at->first.starts_with(mine); ++at)
        look(at->first, at->second);
    };
    each(sites, [&](const std::string& host, const std::string& site) {
      routes.otherHosts = routes.otherHosts || host != site || host.starts_with(mine + "*");
    });
    auto look = [&](const std::string& key, const std::string& to) {
      routes.otherHosts = routes.otherHosts || key.starts_with(all);
      routes.splits = routes.splits || to.starts_with("split:");
    };
    each(prefixes, look);
    each(exact, look);
    each(exact, [&](const std::string&, const std::string&) { routes.exact = true; });
  }
}

}  // namespace dhow::ingress
