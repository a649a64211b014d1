// A master's member of etcd: what has to be done before it starts, then etcd itself in this process's place.
#include <unistd.h>

#include <cstdlib>

#include "base/log.h"
#include "platform/members.h"
#include "roles.h"

namespace dhow {

int runMember(const std::string& configFile) {
  auto options = platform::loadMasterOptions(configFile);
  if (!options.ok()) {
    log::error("member", "{}", options.error().message());
    return 1;
  }
  Result<std::vector<std::string>> command(Error(Code::kInternal, "nothing was prepared"));
  {
    RealLoop loop;
    command = runOn(loop, platform::prepareMember(loop, *options));
  }
  if (!command.ok()) {
    log::error("member", "{}", command.error().message());
    return 1;
  }
  std::vector<char*> argv;
  for (auto& word : *command) argv.push_back(word.data());
  argv.push_back(nullptr);
  // The machine's own socket is the server's: etcd would tell in its name that it is ready.
  if (options->memberReady.empty())
    ::unsetenv("NOTIFY_SOCKET");
  else
    ::setenv("NOTIFY_SOCKET", options->memberReady.c_str(), 1);
  ::execv(argv[0], argv.data());
  log::error("member", "{}", Error::fromErrno("start " + command->front()).message());
  return 1;
}

}  // namespace dhow
