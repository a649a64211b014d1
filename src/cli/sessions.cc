// sessions: which users hold which pods.
#include <cstdio>

#include "client/fields.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "cluster_option.h"
#include "commands.h"

namespace dhow::cli {

namespace {

using client::ObjectPtr;
using client::text;

Task<Result<client::List>> readFrom(Loop* loop, platform::ClusterPaths paths, std::string ns) {
  CO_ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(paths.kubeconfig()));
  CO_ASSIGN_OR_RETURN(auto connection, client::httpOptions(kubeconfig));
  client::HttpClient api(*loop, std::move(connection));
  client::ListOptions options;
  options.ns = std::move(ns);
  auto listed = co_await api.list(object::resources::kPodSessions, std::move(options));
  co_await api.stop();
  co_return listed;
}

void print(const std::vector<ObjectPtr>& pods, bool withNamespace) {
  std::vector<std::vector<std::string>> rows{{"NAMESPACE", "POD", "NODE", "SESSIONS", "CONNECTIONS", "STATE", "UNTIL"}};
  for (const ObjectPtr& pod : pods) {
    const auto& root = pod->root();
    auto sessions = client::number(root, {"sessions"});
    const std::string_view until = text(root, "until");
    rows.push_back({std::string(pod->ns()), std::string(pod->name()), std::string(text(root, "node")),
                    sessions ? std::to_string(*sessions) : "<none>",
                    std::to_string(client::number(root, {"connections"}, 0)), std::string(text(root, "state")),
                    until.empty() ? "<none>" : std::string(until)});
  }
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size() + 3);
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = withNamespace ? 0 : 1; i < row.size(); ++i)
      line += i + 1 < row.size() ? fmt::format("{:<{}}", row[i], widths[i]) : row[i];
    std::printf("%s\n", line.c_str());
  }
}

int show(const ClusterOption& option, const std::string& ns, bool all) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto config = option.load();
  if (!config.ok()) return fail(config.error());
  RealLoop loop;
  auto listed = runOn(loop, readFrom(&loop, config->paths(), all ? "" : ns));
  if (!listed.ok()) return fail(listed.error());
  if (listed->items.empty()) {
    std::fprintf(stderr, "No pod%s has users that are counted.\n", all ? "" : (" in namespace " + ns).c_str());
    return 0;
  }
  print(listed->items, all);
  return 0;
}

}  // namespace

void addSessions(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("sessions", "pods with the sessions and connections that the edge holds of them");
  auto option = addClusterOption(command);
  auto ns = std::make_shared<std::string>("default");
  auto all = std::make_shared<bool>(false);
  command->add_option("-n,--namespace", *ns, "of the pods (default \"default\")");
  command->add_flag("-A,--all-namespaces", *all, "pods of all namespaces");
  command->callback([=] { *chosen = [=] { return show(*option, *ns, *all); }; });
}

}  // namespace dhow::cli
