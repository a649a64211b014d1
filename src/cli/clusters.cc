// clusters: what is on this machine.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>
#include <vector>

#include "base/gate.h"
#include "base/loop.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "commands.h"
#include "platform/config.h"
#include "platform/region.h"

namespace dhow::cli {

namespace {

constexpr Duration kPatience = std::chrono::seconds(2);

struct Row {
  std::string name, status;
  platform::ClusterPaths paths;
  bool readable = false;
  platform::ClusterConfig config;
};

// Asks all clusters beside each other.
Task<> look(RealLoop* loop, Row* row) {
  row->status = "Down";
  if (!platform::regionExists(row->config)) co_return;
  row->status = "NotReady";
  auto kubeconfig = client::loadKubeconfig(row->paths.kubeconfig());
  if (!kubeconfig.ok()) co_return;
  auto options = client::httpOptions(*kubeconfig);
  if (!options.ok()) co_return;
  options->requestTimeout = kPatience;
  client::HttpClient api(*loop, std::move(*options));
  auto answer = co_await api.raw("GET", "/readyz");
  co_await api.stop();
  if (answer.ok()) row->status = "Ready";
}

Task<> lookAtAll(RealLoop* loop, std::vector<Row>* rows) {
  Gate gate(*loop);
  for (auto& row : *rows) {
    if (row.readable) gate.spawn(look(loop, &row));
  }
  co_await gate.close();
  loop->stop();
}

Result<std::vector<Row>> findRows(const std::string& data) {
  ASSIGN_OR_RETURN(auto known, platform::knownClusters());
  ASSIGN_OR_RETURN(auto kept, platform::clustersIn(data));
  known.insert(known.end(), kept.begin(), kept.end());
  std::vector<Row> rows;
  std::set<std::string> seen;
  for (auto& paths : known) {
    if (!seen.insert(paths.root).second) continue;
    Row row{paths.root.substr(paths.root.rfind('/') + 1), "Damaged", paths, false, {}};
    if (auto config = platform::loadConfig(paths); config.ok()) {
      row.readable = true;
      row.config = std::move(*config);
    }
    rows.push_back(std::move(row));
  }
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return std::tie(a.name, a.paths.data) < std::tie(b.name, b.paths.data); });
  return rows;
}

int clusters(const std::string& data) {
  if (::geteuid() != 0)
    return fail(Error(Code::kPermissionDenied, "this needs root: the clusters' identities are root's"));
  auto rows = findRows(data);
  if (!rows.ok()) return fail(rows.error());
  if (rows->empty()) {
    std::fprintf(stderr, "there is no cluster on this machine; `dhow up` starts one\n");
    return 0;
  }
  RealLoop loop;
  spawn(loop, lookAtAll(&loop, &*rows));
  loop.run();
  auto print = [](const std::string& name, const std::string& sensitivity, const std::string& status,
                  const std::string& masters, const std::string& nodes, const std::string& zones,
                  const std::string& api, const std::string& folder) {
    std::printf("%-20s %-12s %-9s %-8s %-6s %-6s %-24s %s\n", name.c_str(), sensitivity.c_str(), status.c_str(),
                masters.c_str(), nodes.c_str(), zones.c_str(), api.c_str(), folder.c_str());
  };
  print("NAME", "SENSITIVITY", "STATUS", "MASTERS", "NODES", "ZONES", "API", "DATA");
  for (const auto& row : *rows) {
    if (!row.readable) {
      print(row.name, "-", row.status, "-", "-", "-", "-", row.paths.data);
      continue;
    }
    const auto& request = row.config.request;
    print(row.name, request.sensitivity, row.status, std::to_string(request.masters), std::to_string(request.nodes),
          std::to_string(request.zones), row.config.apiUrl(), row.paths.data);
  }
  return 0;
}

}  // namespace

void addClusters(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("clusters", "list the clusters of this machine");
  auto data = std::make_shared<std::string>(platform::kDefaultDataDir);
  command->add_option("--data", *data, "where clusters that are down keep their data")->capture_default_str();
  command->callback([=] { *chosen = [=] { return clusters(*data); }; });
}

}  // namespace dhow::cli
