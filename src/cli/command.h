// The command line: one table of subcommands, each in a file of its own.
#pragma once

#include <CLI/CLI.hpp>

#include <functional>
#include <string>

#include "base/error.h"

namespace dhow::cli {

// What a command does when it was chosen; gives the exit code.
using Action = std::function<int()>;

// Adds a subcommand to `app` that sets *chosen when the user picks it.
using AddCommand = void (*)(CLI::App& app, Action* chosen);

// Prints "dhow: <message>" on standard error; gives 1.
int fail(const Error& error);

// Roles need the whole house; main.cc brings them (see src/roles.h).
struct Roles {
  int (*server)(const std::string& configFile);
  int (*member)(const std::string& configFile);
  int (*region)(const std::string& clusterDir);
  int (*engine)(const std::string& clusterDir);
  int (*agent)(const std::string& configFile);
  int (*edgeFilter)(const std::string& configFile);
};

int run(int argc, char** argv, const Roles& roles);

}  // namespace dhow::cli
