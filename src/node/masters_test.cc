#include "masters.h"

#include <gtest/gtest.h>

#include "base/files.h"

namespace dhow::node {
namespace {

ObjectPtr slice(std::string ns, std::string service, json::array addresses, int64_t port = 6443) {
  json::array endpoints;
  for (auto& address : addresses) endpoints.push_back(json::object{{"addresses", json::array{address}}});
  return Object::make(
      {{"kind", "EndpointSlice"},
       {"metadata", {{"name", "kubernetes"}, {"namespace", ns}, {"labels", {{"kubernetes.io/service-name", service}}}}},
       {"endpoints", std::move(endpoints)},
       {"ports", json::array{json::object{{"name", "https"}, {"port", port}}}}});
}

TEST(Masters, AreTheAddressesOfTheServiceKubernetesAlone) {
  EXPECT_EQ(mastersOf(*slice("default", "kubernetes", {"10.0.0.2", "10.0.0.1"})),
            (std::vector<std::string>{"https://10.0.0.2:6443", "https://10.0.0.1:6443"}));
  EXPECT_TRUE(mastersOf(*slice("other", "kubernetes", {"10.0.0.1"})).empty());
  EXPECT_TRUE(mastersOf(*slice("default", "web", {"10.0.0.1"})).empty());
  EXPECT_TRUE(mastersOf(*slice("default", "kubernetes", {"evil.example/"})).empty());
  EXPECT_TRUE(mastersOf(*slice("default", "kubernetes", {"10.0.0.1"}, 70000)).empty());
}

TEST(Masters, AreKeptForAStartWithoutAny) {
  auto dir = makeTempDir("/tmp", "dhow-masters-");
  ASSERT_TRUE(dir.ok());
  const auto file = *dir + "/masters";
  EXPECT_TRUE(loadMasters(file).empty());
  const std::vector<std::string> masters{"https://10.0.0.1:6443", "https://10.0.0.2:6443"};
  ASSERT_TRUE(saveMasters(file, masters).ok());
  EXPECT_EQ(loadMasters(file), masters);
  EXPECT_EQ(merged(masters, {"https://a:6443", "https://10.0.0.1:6443"}),
            (std::vector<std::string>{"https://10.0.0.1:6443", "https://10.0.0.2:6443", "https://a:6443"}));
  EXPECT_TRUE(removeTree(*dir).ok());
}

}  // namespace
}  // namespace dhow::node
