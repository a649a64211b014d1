#include "ingress/edge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/files.h"
#include "base/strings.h"
#include "client/fake_client.h"
#include "ingress/gateway.h"
#include "object/resource_names.h"

namespace dhow::ingress {
namespace {

namespace kinds = object::resources;
using namespace std::chrono_literals;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

// Knows of nothing that it was not told of.
struct FakeNamed final : NamedObjects {
  void use(std::set<Name> names, std::function<void()> changed) override {
    used = std::move(names);
    tell = std::move(changed);
  }
  bool known(const Name& name) const override { return objects.contains(name); }
  client::ObjectPtr find(const Name& name) const override {
    auto found = objects.find(name);
    return found == objects.end() ? nullptr : found->second;
  }
  std::set<Name> used;
  std::map<Name, client::ObjectPtr> objects;
  std::function<void()> tell;
};

struct Recorded final : client::Caches {
  explicit Recorded(client::FakeClient& a) : api(a) {}
  client::Cache& of(const client::Resource& resource) override {
    asked.insert(resource.plural);
    return api.of(resource);
  }
  client::FakeClient& api;
  std::set<std::string> asked;
};

// With a program in HAProxy's place that takes every configuration: what it is given stands in the files.
class EdgeTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = makeTempDir("/tmp", "edge-test-").value();
    Edge::Options options;
    options.program = "/bin/true";
    options.folder = folder_ + "/data";
    options.run = folder_ + "/run";
    options.address = "127.0.0.1";
    edge_ = std::make_unique<Edge>(loop_, pool_, caches_, named_, options);
    api_.seed(kinds::kIngressClasses,
              R"({"metadata":{"name":"dhow","namespace":""},"spec":{"controller":"dhow.io/ingress"}})");
  }
  void TearDown() override {
    spawn(loop_, stop(this));
    EXPECT_TRUE(until([this] { return stopped_; }));
    EXPECT_TRUE(removeTree(folder_).ok());
  }
  static Task<> run(EdgeTest* self) {
    co_await self->edge_->start();
    self->started_ = true;
  }
  static Task<> stop(EdgeTest* self) {
    co_await self->edge_->stop();
    self->stopped_ = true;
  }
  bool appears(std::string_view name, std::string_view text) {
    return until([&] { return file(name).find(text) != std::string::npos; });
  }
  void start() {
    spawn(loop_, run(this));
    EXPECT_TRUE(until([this] { return started_; }));
    loop_.advance(1ms);
  }
  // Lets little of the loop's time pass: the pool's threads are real.
  bool until(const std::function<bool()>& done) {
    for (int i = 0; i < 10'000 && !done(); ++i) {
      loop_.advance(1us);
      std::this_thread::sleep_for(1ms);
    }
    return done();
  }
  std::string file(std::string_view name) { return readFile(fmt::format("{}/data/{}", folder_, name)).valueOr(""); }
  void ingress(std::string_view name, std::string_view more = "") {
    api_.seed(
        kinds::kIngresses,
        fmt::format(
            R"({{"metadata":{{"name":"{0}","namespace":"a"}},"spec":{{"ingressClassName":"dhow","rules":[{{"host":"{0}.test","http":{{"paths":[
                      {{"path":"/","pathType":"Prefix","backend":{{"service":{{"name":"web","port":{{"number":80}}}}}}}}]}}}}]{1}}}}})",
            name, more));
  }

  std::string folder_;
  SimLoop loop_;
  BlockingPool pool_{1};
  client::FakeClient api_{loop_};
  Recorded caches_{api_};
  FakeNamed named_;
  std::unique_ptr<Edge> edge_;
  bool started_ = false, stopped_ = false;
};

TEST_F(EdgeTest, ASecretThatNobodyTellsOfStopsNoOtherForLong) {
  ingress("open");
  ingress("secret", R"(,"tls":[{"hosts":["secret.test"],"secretName":"unknown"}])");
  start();
  EXPECT_THAT(named_.used, Contains(NamedObjects::Name{"secrets", "a", "unknown"}));
  EXPECT_EQ(file("sites.map"), "");
  loop_.advance(6s);
  EXPECT_TRUE(appears("sites.map", "i|open.test"));
  EXPECT_THAT(file("sites.map"), HasSubstr("i|secret.test"));
}

TEST_F(EdgeTest, ASecretThatComesIsNotWaitedForAnyLonger) {
  ingress("secret", R"(,"tls":[{"hosts":["secret.test"],"secretName":"soon"}])");
  start();
  named_.objects[{"secrets", "a", "soon"}] = nullptr;
  named_.tell();
  EXPECT_TRUE(appears("sites.map", "i|secret.test"));
}

TEST_F(EdgeTest, RoutesAreWatchedFromTheFirstGatewayOn) {
  start();
  EXPECT_THAT(caches_.asked, Contains("gateways"));
  EXPECT_THAT(caches_.asked, Not(Contains("httproutes")));
  EXPECT_THAT(caches_.asked, Not(Contains("namespaces")));
  api_.seed(kinds::kGatewayClasses,
            R"({"metadata":{"name":"dhow","namespace":""},"spec":{"controllerName":"dhow.io/gateway"}})");
  auto gateway = api_.seed(
      kinds::kGateways,
      R"({"metadata":{"name":"g","namespace":"a"},"spec":{"gatewayClassName":"dhow","listeners":[{"name":"x","port":80,"protocol":"HTTP"}]}})");
  loop_.advance(1ms);
  EXPECT_THAT(caches_.asked, Contains("httproutes"));
  EXPECT_EQ(file("haproxy.cfg"), "");
  // The service says which port of the nodes is the gateway's.
  api_.seed(
      kinds::kServices,
      fmt::format(
          R"({{"metadata":{{"name":"{}","namespace":"kube-system"}},"spec":{{"ports":[{{"port":80,"targetPort":28007}}]}}}})",
          gatewayService(*gateway)));
  EXPECT_TRUE(appears("haproxy.cfg", "bind 127.0.0.1:28007"));
}

}  // namespace
}  // namespace dhow::ingress
