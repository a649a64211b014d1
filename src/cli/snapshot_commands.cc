// snapshot, datastore: the content of a cluster's store kept, brought back, and moved.
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "base/time.h"
#include "cluster_option.h"
#include "commands.h"
#include "host/restore.h"
#include "platform/snapshots.h"

namespace dhow::cli {

namespace {

// Where a cluster of this machine, or the cluster whose master this machine is, is reached and keeps its snapshots.
struct Place {
  std::string kubeconfig, snapshots;
};
Result<Place> placeOf(const ClusterOption& option) {
  if (option.meansHost()) {
    ASSIGN_OR_RETURN(auto host, host::loadHost(option.data));
    if (!host.master)
      return Error(Code::kFailedPrecondition, "this machine is a node: snapshots are saved and kept on its masters");
    return Place{host::kKubeconfig, host.paths().snapshots()};
  }
  ASSIGN_OR_RETURN(auto config, option.load());
  return Place{config.paths().kubeconfig(), config.paths().snapshots()};
}

std::string sizeText(uint64_t bytes) {
  if (bytes < 1024 * 1024) return fmt::format("{:.1f} KiB", static_cast<double>(bytes) / 1024);
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1024 * 1024));
}

int save(const ClusterOption& option, std::string file) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto place = placeOf(option);
  if (!place.ok()) return fail(place.error());
  RealLoop loop;
  if (file.empty()) {
    if (auto made = makeDirs(place->snapshots, 0700); !made.ok()) return fail(made.error());
    file = place->snapshots + "/" + platform::snapshotName(loop.wallNow(), false);
  } else if (std::error_code error; std::filesystem::is_directory(file, error)) {
    return fail(Error(Code::kInvalid, file + " is a folder; name a file in it"));
  }
  auto saved = runOn(loop, platform::fetchSnapshot(loop, place->kubeconfig, file));
  if (!saved.ok()) return fail(saved.error());
  std::printf("saved %s: revision %lld, %llu objects, %s\n", file.c_str(), static_cast<long long>(saved->revision),
              static_cast<unsigned long long>(saved->entries), sizeText(saved->bytes).c_str());
  return 0;
}

int list(const ClusterOption& option) {
  if (auto root = needRoot(); !root.ok()) return fail(root.error());
  auto place = placeOf(option);
  if (!place.ok()) return fail(place.error());
  auto files = platform::listSnapshots(place->snapshots);
  if (!files.ok()) return fail(files.error());
  size_t width = 32;
  for (const auto& file : *files) width = std::max(width, file.name.size());
  const int column = static_cast<int>(width);
  std::printf("%-*s  %-20s  %-12s  %-8s  %s\n", column, "NAME", "CREATED", "REVISION", "OBJECTS", "SIZE");
  for (const auto& file : *files) {
    if (file.damage) {
      std::printf("%-*s  %-20s  %-12s  %-8s  %s\n", column, file.name.c_str(), "Damaged", "-", "-", "-");
      continue;
    }
    std::printf("%-*s  %-20s  %-12lld  %-8llu  %s\n", column, file.name.c_str(), formatTime(file.info.taken).c_str(),
                static_cast<long long>(file.info.revision), static_cast<unsigned long long>(file.info.entries),
                sizeText(file.info.bytes).c_str());
  }
  return 0;
}

// A file by its path, or by the name that `list` shows.
Result<std::string> findSnapshot(const std::string& folder, const std::string& given) {
  const std::string listed = folder + "/" + given;
  std::string file = given.find('/') == given.npos && !pathExists(given) && pathExists(listed) ? listed : given;
  if (pathExists(file)) return file;
  return Error(Code::kNotFound,
               fmt::format("there is no snapshot {}; `dhow snapshot list` shows those of the cluster", given));
}

int printRestored(const store::SnapshotInfo& snapshot, const std::string& kept) {
  std::printf("restored the state of %s: %llu objects\n", formatTime(snapshot.taken).c_str(),
              static_cast<unsigned long long>(snapshot.entries));
  if (!kept.empty()) std::printf("what was there before is kept in %s\n", kept.c_str());
  return 0;
}

int restoreHost(const ClusterOption& option, const std::string& given, bool otherCluster) {
  auto config = host::loadHost(option.data);
  if (!config.ok()) return fail(config.error());
  auto file = findSnapshot(config->paths().snapshots(), given);
  if (!file.ok()) return fail(file.error());
  return withWorkbench([&](Workbench& workbench) {
    auto done = runOn(workbench.loop, host::restore(workbench.loop, workbench.pool, *config, *file, otherCluster));
    return done.ok() ? printRestored(done->snapshot, done->kept) : fail(done.error());
  });
}

int restore(const ClusterOption& option, const std::string& given, bool otherCluster) {
  if (option.meansHost()) return restoreHost(option, given, otherCluster);
  return withCluster(option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
    auto file = findSnapshot(config.paths().snapshots(), given);
    if (!file.ok()) return fail(file.error());
    auto done = runOn(workbench.loop, workbench.cluster.restore(config, *file, otherCluster, printStep));
    return done.ok() ? printRestored(done->snapshot, done->kept) : fail(done.error());
  });
}

int migrate(const ClusterOption& option, const std::string& to) {
  return withCluster(option, [&](Workbench& workbench, const platform::ClusterConfig& config) {
    auto done = runOn(workbench.loop, workbench.cluster.moveToEtcd(config, printStep));
    if (!done.ok()) return fail(done.error());
    std::printf("cluster \"%s\" has its store in %s now\n", config.request.name.c_str(), to.c_str());
    return 0;
  });
}

}  // namespace

void addSnapshot(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("snapshot", "save, list and restore the content of a cluster's store");
  command->require_subcommand(1);
  auto* saving = command->add_subcommand("save", "save a snapshot of a running cluster");
  auto saveOf = addClusterOption(saving);
  auto file = std::make_shared<std::string>();
  saving->add_option("file", *file, "where to; by itself among the cluster's data, named after the time");
  saving->callback([=] { *chosen = [=] { return save(*saveOf, *file); }; });
  auto* listing = command->add_subcommand("list", "list the cluster's snapshots");
  auto listOf = addClusterOption(listing);
  listing->callback([=] { *chosen = [=] { return list(*listOf); }; });
  auto* restoring = command->add_subcommand("restore", "bring a snapshot back; pods that are in it run on");
  auto restoreOf = addClusterOption(restoring);
  auto from = std::make_shared<std::string>();
  auto other = std::make_shared<bool>(false);
  restoring->add_option("file", *from, "a file, or a name that `list` shows")->required();
  restoring->add_flag("--other-cluster", *other, "take one that was saved by another cluster");
  restoring->callback([=] { *chosen = [=] { return restore(*restoreOf, *from, *other); }; });
}

void addDatastore(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("datastore", "change what a cluster keeps its objects in");
  command->require_subcommand(1);
  auto* migrating =
      command->add_subcommand("migrate", "move a cluster with one master from its embedded store to etcd");
  auto option = addClusterOption(migrating);
  auto to = std::make_shared<std::string>();
  migrating->add_option("--to", *to, "etcd")->required()->check(CLI::IsMember(std::vector<std::string>{"etcd"}));
  migrating->callback([=] { *chosen = [=] { return migrate(*option, *to); }; });
}

}  // namespace dhow::cli
