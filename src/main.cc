#include "cli/command.h"
#include "roles.h"

int main(int argc, char** argv) {
  return dhow::cli::run(argc, argv, {.server = dhow::runServer, .engine = dhow::runEngine, .agent = dhow::runAgent});
}
