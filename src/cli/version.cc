#include <cstdio>

#include <boost/json/serialize.hpp>

#include "base/version.h"
#include "commands.h"

namespace dhow::cli {

namespace {

namespace json = boost::json;

int print(const ProgramInfo& info, bool asJson) {
  if (asJson) {
    // Asked by `dhow upgrade` of another version (platform/programs.cc).
    const json::object out{{"version", info.version.text()},
                           {"build", info.build},
                           {"storeForm", json::object{{"writes", info.store.writes}, {"reads", info.store.reads}}}};
    std::printf("%s\n", json::serialize(out).c_str());
    return 0;
  }
  std::printf("dhow %s (build %s)\nKubernetes API v1.35\nDocker API 1.51 (from 1.24)\n", info.version.text().c_str(),
              info.build.c_str());
  return 0;
}

}  // namespace

void addVersion(CLI::App& app, Action* chosen) {
  auto* command = app.add_subcommand("version", "print the program's version and the APIs that it serves");
  auto output = std::make_shared<std::string>();
  command->add_option("-o,--output", *output, "json: for programs")->check(CLI::IsMember({"json"}));
  command->callback([=] { *chosen = [=] { return print(thisProgram(), !output->empty()); }; });
}

}  // namespace dhow::cli
