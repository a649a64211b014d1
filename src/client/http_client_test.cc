#include "client/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/files.h"
#include "base/strings.h"
#include "client/fields.h"
#include "client/kubeconfig.h"
#include "client/reflector.h"
#include "http/server.h"

namespace dhow::client {
namespace {

using namespace std::chrono_literals;
using object::resources::kDeployments;
using object::resources::kNodes;
using object::resources::kPods;

// Answers as an API server does, from a script.
struct Served {
  explicit Served(Loop& loop)
      : loop(loop), server(loop, {}, [this](http::Request& q, http::ResponseWriter& w) { return handle(this, q, w); }) {
    port = server.listenTcp("127.0.0.1", 0).value();
  }
  static Task<> handle(Served* self, http::Request& request, http::ResponseWriter& writer) {
    self->seen.push_back(request.method + " " + request.path);
    if (request.query.get("watch") == "true") {
      co_await watch(self, writer);
      co_return;
    }
    if (request.path == "/api/v1/pods") {
      http::Response response;
      response.body = R"({"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},)"
                      R"("items":[{"metadata":{"name":"a","namespace":"d","resourceVersion":"5"}}]})";
      (void)co_await writer.send(std::move(response));
      co_return;
    }
    if (request.path == "/silent") {
      co_await self->loop.sleep(300ms);
      co_return;
    }
    http::Response response{404,
                            {},
                            R"({"kind":"Status","status":"Failure","reason":"NotFound","code":404,)"
                            R"("message":"pods \"x\" not found"})"};
    (void)co_await writer.send(std::move(response));
  }
  static Task<> watch(Served* self, http::ResponseWriter& writer) {
    http::Headers headers;
    headers.set("Content-Type", "application/json");
    (void)co_await writer.start(200, std::move(headers));
    for (const std::string& piece : self->pieces) (void)co_await writer.write(piece);
    (void)co_await writer.finish();
  }
  Loop& loop;
  std::vector<std::string> pieces;
  std::vector<std::string> seen;
  http::Server server;
  uint16_t port = 0;
};

struct Fixture : testing::Test {
  HttpClient::Options options() {
    return {.servers = {fmt::format("http://127.0.0.1:{}", served.port)}, .requestTimeout = 5s};
  }
  void TearDown() override {
    runOn(loop, client.stop());
    runOn(loop, served.server.stop());
  }
  RealLoop loop;
  Served served{loop};
  HttpClient client{loop, options()};
};
using HttpClientTest = Fixture;

TEST(ResourcePath, FollowsGroupScopeAndSubresource) {
  EXPECT_EQ(resourcePath(kPods, "ns", "p", "status"), "/api/v1/namespaces/ns/pods/p/status");
  EXPECT_EQ(resourcePath(kDeployments, "", ""), "/apis/apps/v1/deployments");
  EXPECT_EQ(resourcePath(kNodes, "", "n1"), "/api/v1/nodes/n1");
}

TEST_F(HttpClientTest, ListFillsInWhatItemsAre) {
  auto list = runOn(loop, client.list(kPods, {}));
  ASSERT_TRUE(list.ok()) << list.error().message();
  EXPECT_EQ(list->resourceVersion, "7");
  ASSERT_EQ(list->items.size(), 1u);
  EXPECT_EQ(list->items[0]->kind(), "Pod");
}

TEST_F(HttpClientTest, StatusBecomesAnErrorWithItsCode) {
  auto got = runOn(loop, client.get(kPods, "d", "x"));
  ASSERT_FALSE(got.ok());
  EXPECT_TRUE(got.error().is(Code::kNotFound));
  EXPECT_EQ(got.error().message(), "pods \"x\" not found");
}

TEST_F(HttpClientTest, SilentServerIsGivenUp) {
  HttpClient::Options given = options();
  given.requestTimeout = 50ms;
  HttpClient impatient(loop, given);
  auto got = runOn(loop, impatient.raw("GET", "/silent"));
  ASSERT_FALSE(got.ok());
  EXPECT_TRUE(got.error().is(Code::kDeadlineExceeded));
  runOn(loop, impatient.stop());
}

TEST_F(HttpClientTest, AsksTheNextServerWhenOneIsAway) {
  HttpClient::Options given = options();
  given.servers.insert(given.servers.begin(), "http://127.0.0.1:1");
  HttpClient both(loop, given);
  auto list = runOn(loop, both.list(kPods, {}));
  EXPECT_TRUE(list.ok());
  runOn(loop, both.stop());
}

Task<std::vector<std::string>> drain(Client& client) {
  std::vector<std::string> out;
  Result<std::unique_ptr<Watcher>> watcher = co_await client.watch(kPods, {}, "7");
  if (!watcher.ok()) co_return std::vector<std::string>{watcher.error().message()};
  while (true) {
    Result<WatchEvent> event = co_await (*watcher)->next();
    if (!event.ok()) {
      out.push_back(fmt::format("!{}", codeName(event.error().code())));
      co_return out;
    }
    out.push_back(fmt::format("{} {}", static_cast<int>(event->type), event->object->name()));
  }
}

TEST_F(HttpClientTest, WatchEventsSplitAnywhereArriveWhole) {
  served.pieces = {R"({"type":"ADDED","object":{"metad)", R"(ata":{"name":"a"}}})", "\n{\"type\":\"DELETED\",",
                   "\"object\":{\"metadata\":{\"name\":\"b\"}}}\n{\"type\":\"BOOKMARK\",\"object\":{}}\n"};
  auto events = runOn(loop, drain(client));
  EXPECT_THAT(events, testing::ElementsAre("0 a", "2 b", "3 ", "!" + std::string(codeName(Code::kDeadlineExceeded))));
}

TEST_F(HttpClientTest, WatchErrorCarriesItsCode) {
  served.pieces = {R"({"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}})"
                   "\n"};
  EXPECT_THAT(runOn(loop, drain(client)), testing::ElementsAre("!" + std::string(codeName(Code::kExpired))));
}

TEST_F(HttpClientTest, EndlessWatchLineIsRefused) {
  HttpClient::Options given = options();
  given.watchLineLimit = 10000;
  HttpClient small(loop, given);
  served.pieces = {std::string(60000, 'x')};
  EXPECT_THAT(runOn(loop, drain(small)), testing::ElementsAre("!" + std::string(codeName(Code::kUnavailable))));
  runOn(loop, small.stop());
}

constexpr std::string_view kConfig = R"(apiVersion: v1
kind: Config
current-context: dev
contexts:
- name: dev
  context: {cluster: c, user: u, namespace: shop}
clusters:
- name: c
  cluster: {server: "http://10.0.0.1:8080/", certificate-authority-data: Y2E=}
users:
- name: u
  user: {token: secret}
- name: plugin
  user: {exec: {command: x}}
)";

TEST(Kubeconfig, ReadsTheCurrentContext) {
  auto config = parseKubeconfig(kConfig, ".");
  ASSERT_TRUE(config.ok()) << config.error().message();
  EXPECT_EQ(config->server, "http://10.0.0.1:8080");
  EXPECT_EQ(config->caPem, "ca");
  EXPECT_EQ(config->token, "secret");
  EXPECT_EQ(config->ns, "shop");
}

TEST(Kubeconfig, NamesWhatIsMissing) {
  auto config = parseKubeconfig(kConfig, ".", "prod");
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.error().message(), "the kubeconfig has no context \"prod\"");
}

}  // namespace
}  // namespace dhow::client
