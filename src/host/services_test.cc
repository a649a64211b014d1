#include "host/services.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/files.h"
#include "base/process.h"

namespace dhow::host {
namespace {

using testing::HasSubstr;
using testing::Not;

HostConfig everything() {
  HostConfig config;
  config.name = "a";
  config.cluster = "c";
  config.master = config.member = config.node = true;
  return config;
}

TEST(Services, AreWhatTheHostIs) {
  auto services = servicesOf(everything());
  ASSERT_EQ(services.size(), 3u);
  EXPECT_EQ(services[0].name, "dhow-member");
  EXPECT_EQ(services[1].name, "dhow-server");
  EXPECT_EQ(services[2].args, (std::vector<std::string>{"/var/lib/dhow/host/programs/links/dhow-agent/dhow", "agent",
                                                        "--config", "/var/lib/dhow/host/node/node.json"}));
  HostConfig node;
  node.node = true;
  EXPECT_EQ(servicesOf(node).size(), 1u);
}

TEST(Units, LetContainersOutliveTheirAgent) {
  auto services = servicesOf(everything());
  auto agent = unitText(services[2]), server = unitText(services[1]), member = unitText(services[0]);
  for (const auto* line : {"Type=notify\n", "KillMode=process\n", "Delegate=yes\n", "Restart=always\n",
                           "ExecStart=\"/var/lib/dhow/host/programs/links/dhow-agent/dhow\" \"agent\" \"--config\" "
                           "\"/var/lib/dhow/host/node/node.json\"\n"})
    EXPECT_THAT(agent, HasSubstr(line));
  EXPECT_THAT(server, HasSubstr("Type=notify\n"));
  EXPECT_THAT(server, Not(HasSubstr("KillMode")));
  EXPECT_THAT(member, HasSubstr("Type=exec\n"));
}

TEST(Units, KeepWordsThatSystemdWouldRead) {
  EXPECT_THAT(unitText({"x", "", {"/a b/$c", "100%", "\"q\"\\"}}),
              HasSubstr("ExecStart=\"/a b/$$c\" \"100%%\" \"\\\"q\\\"\\\\\"\n"));
}

TEST(Units, AreRightToSystemd) {
  if (!pathExists("/usr/bin/systemd-analyze")) GTEST_SKIP() << "systemd-analyze is not installed";
  auto dir = makeTempDir("/tmp", "dhow-units-");
  ASSERT_TRUE(dir.ok());
  std::vector<std::string> args = {"/usr/bin/systemd-analyze", "verify", "--man=no"};
  for (auto service : servicesOf(everything())) {
    service.args[0] = "/bin/true";  // it must be there
    args.push_back(fmt::format("{}/{}.service", *dir, service.name));
    ASSERT_TRUE(writeFile(args.back(), unitText(service)).ok());
  }
  auto verified = runCommand(args);
  ASSERT_TRUE(verified.ok());
  EXPECT_THAT(verified->errors, Not(HasSubstr(*dir)));
  EXPECT_TRUE(removeTree(*dir).ok());
}

}  // namespace
}  // namespace dhow::host
