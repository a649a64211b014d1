// image: makes an image out of files of this machine and pushes it to the cluster's registry.
#include <cstdio>

#include "base/blocking.h"
#include "base/strings.h"
#include "cluster_option.h"
#include "commands.h"
#include "platform/deploy.h"

namespace dhow::cli {

namespace {

struct ImageOptions {
  std::string tag;
  std::vector<std::string> additions;  // source:target
  std::vector<std::string> archives;   // tars that are unpacked at the root
  std::vector<std::string> entrypoint, command, env, expose;
  std::string user, directory;
};

Result<image::AssembleOptions> assembleOptions(const ImageOptions& options) {
  image::AssembleOptions out;
  out.tags = {options.tag};
  for (const auto& addition : options.additions) {
    auto pair = splitOnce(addition, ':');
    if (!pair || pair->second.empty() || pair->second[0] != '/')
      return Error(Code::kInvalid, "--add " + addition + ": give <file or folder here>:<absolute path in the image>");
    out.additions.push_back({std::string(pair->first), std::string(pair->second)});
  }
  for (const auto& archive : options.archives)
    out.additions.push_back({.source = archive, .target = "/", .extract = true});
  if (out.additions.empty()) return Error(Code::kInvalid, "nothing to put into the image; give --add or --archive");
  out.config.entrypoint = options.entrypoint;
  out.config.cmd = options.command;
  out.config.env = options.env;
  out.config.exposedPorts = options.expose;
  out.config.user = options.user;
  out.config.workingDir = options.directory;
  return out;
}

int publish(const ClusterOption& cluster, const ImageOptions& options) {
  auto config = cluster.load();
  if (!config.ok()) return fail(config.error());
  auto assemble = assembleOptions(options);
  if (!assemble.ok()) return fail(assemble.error());
  RealLoop loop;
  BlockingPool pool(2);
  auto pushed = runOn(loop, platform::publishImage(loop, pool, *config, std::move(*assemble)));
  if (!pushed.ok()) return fail(pushed.error());
  std::printf("%s\n%s\n", options.tag.c_str(), pushed->digest.c_str());
  return 0;
}

}  // namespace

void addImage(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("image", "make an image out of files and push it to the cluster's registry");
  auto cluster = addClusterOption(command);
  auto options = std::make_shared<ImageOptions>();
  command->add_option("--tag", options->tag, "its name, e.g. registry.dhow.internal:5000/web:1")->required();
  command->add_option("--add", options->additions, "<file or folder here>:<path in the image>; may be repeated");
  command
      ->add_option("--archive", options->archives,
                   "a tar (plain, gzip, zstd) that is unpacked at the root; may be repeated")
      ->check(CLI::ExistingFile);
  command->add_option("--entrypoint", options->entrypoint, "what runs; one word each");
  command->add_option("--cmd", options->command, "its arguments; one word each");
  command->add_option("--env", options->env, "NAME=value");
  command->add_option("--expose", options->expose, "a port: 80/tcp");
  command->add_option("--user", options->user, "user[:group]");
  command->add_option("--workdir", options->directory, "working directory");
  command->callback([=] { *chosen = [=] { return publish(*cluster, *options); }; });
}

}  // namespace dhow::cli
