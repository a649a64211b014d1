#include <cstdio>

#include "commands.h"

namespace dhow::cli {

void addVersion(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("version", "print the program's version and the APIs that it serves");
  command->callback([=] {
    *chosen = [] {
      std::printf("dhow %s\nKubernetes API v1.35\nDocker API 1.51 (from 1.24)\n", DHOW_VERSION);
      return 0;
    };
  });
}

}  // namespace dhow::cli
