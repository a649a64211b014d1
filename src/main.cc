#include "cli/command.h"
#include "roles.h"

int main(int argc, char** argv) {
  return dhow::cli::run(argc, argv,
                        {.server = dhow::runServer,
                         .member = dhow::runMember,
                         .region = dhow::runRegion,
                         .engine = dhow::runEngine,
                         .agent = dhow::runAgent,
                         .edgeFilter = dhow::runEdgeFilter});
}
