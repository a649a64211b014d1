// The HTTP front without a network: requests in, answers out, on virtual time.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "apiserver/server.h"
#include "base/files.h"
#include "base/pki.h"
#include "base/strings.h"
#include "client/fields.h"
#include "http/client.h"
#include "store/memory_store.h"
#include "store/snapshot.h"

namespace dhow::apiserver {
namespace {

using client::text;

class Recorder final : public http::ResponseWriter {
 public:
  Task<Result<>> send(http::Response response) override {
    answer = std::move(response);
    started_ = finished = true;
    co_return Result<>();
  }
  Task<Result<>> start(int status, http::Headers headers) override {
    answer.status = status;
    answer.headers = std::move(headers);
    started_ = true;
    co_return Result<>();
  }
  Task<Result<>> write(std::string_view bytes) override {
    answer.body += bytes;
    co_return Result<>();
  }
  Task<Result<>> finish() override {
    finished = true;
    co_return Result<>();
  }
  Task<Result<std::unique_ptr<http::Stream>>> hijack(int, http::Headers) override {
    co_return Error(Code::kUnimplemented, "no stream here");
  }
  bool started() const override { return started_; }
  bool closed() const override { return closed_; }
  void onClose(std::function<void()> run) override { onClose_ = std::move(run); }
  void hangUp() {
    closed_ = true;
    if (onClose_) onClose_();
  }

  http::Response answer;
  bool finished = false;

 private:
  bool started_ = false;
  bool closed_ = false;
  std::function<void()> onClose_;
};

struct Exchange {
  http::Request request;
  Recorder writer;
  json::object body() const { return json::parse(writer.answer.body).as_object(); }
  int status() const { return writer.answer.status; }
};

Task<> serve(http::Handler handler, std::shared_ptr<Exchange> exchange) {
  co_await handler(exchange->request, exchange->writer);
}

class FrontTest : public testing::Test {
 protected:
  void SetUp() override {
    ServerOptions options;
    options.tokens.signingKeyPem = generatePrivateKey();
    options.clusterId = "unit";
    server_ = std::make_unique<ApiServer>(loop_, store_, object::Kinds::builtin(), options);
    auto started = runOn(loop_, server_->start());
    ASSERT_TRUE(started.ok()) << started.error().message();
    client_ = server_->clientFor("test");
    runOn(loop_, client_->create(object::resources::kServiceAccounts, "default",
                                 json::object{{"metadata", json::object{{"name", "default"}}}}))
        .value();
  }
  void TearDown() override {
    runOn(loop_, server_->stop());
    runOn(loop_, store_.close());
    loop_.runReady();
  }
  std::shared_ptr<Exchange> begin(std::string method, std::string url, std::string body = "",
                                  std::string type = "application/json",
                                  std::vector<std::pair<std::string, std::string>> headers = {}) {
    auto exchange = std::make_shared<Exchange>();
    auto& request = exchange->request;
    request.method = std::move(method);
    auto question = url.find('?');
    request.path = url.substr(0, question);
    if (question != url.npos) request.query = http::Query::parse(std::string_view(url).substr(question + 1));
    request.peer.certificateCommonName = user_;
    request.peer.certificateOrganizations = groups_;
    request.headers.set("Content-Type", type);
    request.headers.set("User-Agent", "unit/1.0");
    for (auto& [name, value] : headers) request.headers.set(name, value);
    request.body = http::bodyOf(std::move(body));
    spawn(loop_, serve(server_->handler(), exchange));
    loop_.runReady();
    return exchange;
  }
  std::shared_ptr<Exchange> call(std::string method, std::string url, std::string body = "",
                                 std::string type = "application/json",
                                 std::vector<std::pair<std::string, std::string>> headers = {}) {
    auto exchange = begin(std::move(method), std::move(url), std::move(body), std::move(type), std::move(headers));
    loop_.runUntil([&] { return exchange->writer.finished; }, std::chrono::seconds(10));
    EXPECT_TRUE(exchange->writer.finished);
    return exchange;
  }
  void as(std::string user, std::vector<std::string> groups = {}) {
    user_ = std::move(user);
    groups_ = std::move(groups);
  }

  SimLoop loop_;
  store::MemoryStore store_{loop_};
  std::unique_ptr<ApiServer> server_;
  std::unique_ptr<client::Client> client_;
  std::string user_ = "admin";
  std::vector<std::string> groups_ = {"system:masters"};
};

constexpr const char* kMaps = "/api/v1/namespaces/default/configmaps";

TEST_F(FrontTest, SnapshotsAreWholeAndForAdministratorsAlone) {
  auto taken = call("GET", "/dhow/v1/snapshot");
  ASSERT_EQ(taken->status(), 200);
  auto dir = makeTempDir("/tmp", "dhow-front-").value();
  ASSERT_TRUE(writeFile(dir + "/s", taken->writer.answer.body).ok());
  auto info = store::inspectSnapshot(dir + "/s");
  ASSERT_TRUE(info.ok()) << info.error().message();
  EXPECT_EQ(info->cluster, "unit");
  EXPECT_EQ(info->revision, store_.revision());
  EXPECT_EQ(info->entries, runOn(loop_, store_.list("", "", 0))->entries.size());
  ASSERT_TRUE(removeTree(dir).ok());
  EXPECT_EQ(call("POST", "/dhow/v1/snapshot")->status(), 405);
  as("bob", {"developers"});
  EXPECT_EQ(call("GET", "/dhow/v1/snapshot")->status(), 403);
  as("system:node:n1", {"system:nodes"});
  EXPECT_EQ(call("GET", "/dhow/v1/snapshot")->status(), 403);
  // A role over all paths is not enough.
  as("system:masters", {"system:authenticated"});
  EXPECT_EQ(call("GET", "/dhow/v1/snapshot")->status(), 403);
}

TEST_F(FrontTest, ErrorsAreStatusesWithCodeReasonAndDetails) {
  auto missing = call("GET", std::string(kMaps) + "/x");
  EXPECT_EQ(missing->status(), 404);
  auto status = missing->body();
  EXPECT_EQ(text(status, "reason"), "NotFound");
  EXPECT_EQ(text(status, {"details", "kind"}), "configmaps");
  EXPECT_EQ(text(status, {"details", "name"}), "x");
  EXPECT_EQ(client::number(status, {"code"}), 404);
  EXPECT_EQ(text(call("GET", "/apis/none/v1/things")->body(), "message"),
            "the server could not find the requested resource");
  EXPECT_EQ(call("POST", kMaps, "{nonsense")->status(), 400);
  EXPECT_EQ(call("POST", kMaps, "x", "text/csv")->status(), 415);
  EXPECT_EQ(call("POST", kMaps, std::string(4 << 20, ' '))->status(), 413);
  EXPECT_EQ(call("PATCH", std::string(kMaps) + "/x", "{}")->status(), 415);
  EXPECT_EQ(call("PUT", kMaps, "{}")->status(), 405);
  EXPECT_EQ(call("GET", kMaps, "", "", {{"Accept", "application/vnd.kubernetes.protobuf"}})->status(), 406);
  EXPECT_EQ(call("GET", kMaps, "", "", {{"Accept", "application/vnd.kubernetes.protobuf,application/json"}})->status(),
            200);
}

TEST_F(FrontTest, UnknownFieldsWarnOrFailAsAsked) {
  std::string body = R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"datum":{}})";
  auto warned = call("POST", kMaps, body);
  EXPECT_EQ(warned->status(), 201);
  EXPECT_EQ(warned->writer.answer.headers.get("Warning"), "299 - \"unknown field \\\"datum\\\"\"");
  auto strict = call("POST", std::string(kMaps) + "?fieldValidation=Strict", body);
  EXPECT_EQ(strict->status(), 400);
  auto quiet =
      call("POST", std::string(kMaps) + "?fieldValidation=Ignore&dryRun=All", R"({"metadata":{"name":"b"},"datum":1})");
  EXPECT_EQ(quiet->status(), 201);
  EXPECT_FALSE(quiet->writer.answer.headers.has("Warning"));
  EXPECT_EQ(call("GET", std::string(kMaps) + "/b")->status(), 404);
}

TEST_F(FrontTest, DocumentsAreNotSentTwice) {
  for (const char* path : {"/api", "/apis", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"}) {
    auto first = call("GET", path);
    std::string tag(first->writer.answer.headers.get("ETag"));
    EXPECT_FALSE(tag.empty()) << path;
    auto again = call("GET", path, "", "", {{"If-None-Match", tag}});
    EXPECT_EQ(again->status(), 304) << path;
    EXPECT_TRUE(again->writer.answer.body.empty()) << path;
    EXPECT_EQ(call("GET", path, "", "", {{"If-None-Match", "\"other\""}})->status(), 200) << path;
  }
  auto index = call("GET", "/openapi/v3")->body();
  std::string url(text(index, {"paths", "apis/apps/v1", "serverRelativeURL"}));
  EXPECT_NE(call("GET", url)->writer.answer.headers.get("Cache-Control").find("immutable"), std::string_view::npos)
      << url;
  EXPECT_EQ(call("GET", "/openapi/v3/apis/none/v1")->status(), 404);
}

TEST_F(FrontTest, OpenApiV2ComesInTheFormAskedFor) {
  for (const char* type : {"application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                           "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"}) {
    auto packed = call("GET", "/openapi/v2", "", "", {{"Accept", type}});
    EXPECT_EQ(packed->writer.answer.headers.get("Content-Type"),
              "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    EXPECT_TRUE(
        packed->writer.answer.body.starts_with("\x0a\x03"
                                               "2.0"))
        << type;
  }
  EXPECT_EQ(text(call("GET", "/openapi/v2", "", "", {{"Accept", "application/json"}})->body(), "swagger"), "2.0");
  EXPECT_EQ(text(call("GET", "/openapi/v2")->body(), "swagger"), "2.0");
}

TEST_F(FrontTest, WhatAPatchLacksIsSaidSoThatKubectlShowsIt) {
  call("POST", kMaps, R"({"metadata":{"name":"a"},"data":{}})");
  auto refused =
      call("PATCH", std::string(kMaps) + "/a", R"([{"op":"remove","path":"/data/x"}])", "application/json-patch+json");
  EXPECT_EQ(refused->status(), 422);
  EXPECT_TRUE(client::object(refused->body(), {"details"}).empty());
  auto debug =
      call("PATCH", "/api/v1/namespaces/default/pods/p/ephemeralcontainers", "{}", "application/merge-patch+json");
  EXPECT_EQ(debug->status(), 404);
  EXPECT_TRUE(client::object(debug->body(), {"details"}).empty() && debug->body().contains("details"));
}

TEST_F(FrontTest, TakesYamlBodies) {
  auto made =
      call("POST", kMaps, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: y}\ndata: {k: v}\n", "application/yaml");
  EXPECT_EQ(made->status(), 201) << made->writer.answer.body;
}

TEST_F(FrontTest, ListsAreTablesOrMetadataWhenAskedFor) {
  call("POST", kMaps, R"({"metadata":{"name":"a"},"data":{"k":"v"}})");
  auto table =
      call("GET", kMaps, "", "", {{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}})->body();
  EXPECT_EQ(text(table, "kind"), "Table");
  auto partial =
      call("GET", kMaps, "", "", {{"Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}})
          ->body();
  EXPECT_EQ(text(partial, "kind"), "PartialObjectMetadataList");
  auto plain = call("GET", kMaps)->body();
  EXPECT_EQ(text(plain, "kind"), "ConfigMapList");
  EXPECT_EQ(client::array(plain, {"items"}).size(), 1u);
}

std::vector<json::object> linesOf(const std::string& body) {
  std::vector<json::object> lines;
  for (const auto& line : split(body, '\n')) {
    if (!line.empty()) lines.push_back(json::parse(line).as_object());
  }
  return lines;
}

TEST_F(FrontTest, AWatchStreamsLinesAndEndsAtItsTimeout) {
  auto watch = begin(
      "GET", std::string(kMaps) + "?watch=true&timeoutSeconds=5&resourceVersion=" + std::to_string(store_.revision()));
  call("POST", kMaps, R"({"metadata":{"name":"a"}})");
  call("DELETE", std::string(kMaps) + "/a");
  loop_.runReady();
  auto lines = linesOf(watch->writer.answer.body);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(text(lines[0], "type"), "ADDED");
  EXPECT_EQ(text(lines[1], "type"), "DELETED");
  EXPECT_FALSE(watch->writer.finished);
  loop_.advance(std::chrono::seconds(6));
  EXPECT_TRUE(watch->writer.finished);
}

TEST_F(FrontTest, AWatchFromARevisionThatNeverWasIsExpired) {
  auto lines = linesOf(call("GET", std::string(kMaps) + "?watch=true&resourceVersion=99999")->writer.answer.body);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(text(lines[0], "type"), "ERROR");
  EXPECT_EQ(client::number(lines[0], {"object", "code"}), 410);
}

TEST_F(FrontTest, ACollectionIsDeletedBySelector) {
  for (int i = 0; i < 100; ++i)
    call("POST", kMaps, fmt::format(R"({{"metadata":{{"name":"m{}","labels":{{"odd":"{}"}}}}}})", i, i % 2));
  auto removed = call("DELETE", std::string(kMaps) + "?labelSelector=odd%3D1");
  EXPECT_EQ(removed->status(), 200);
  EXPECT_EQ(client::array(removed->body(), {"items"}).size(), 50u);
  EXPECT_EQ(client::array(call("GET", kMaps)->body(), {"items"}).size(), 50u);
}

TEST_F(FrontTest, AWatchListEndsItsInitialEventsWithABookmark) {
  call("POST", kMaps, R"({"metadata":{"name":"a"}})");
  auto watch =
      begin("GET", std::string(kMaps) +
                       "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
  auto lines = linesOf(watch->writer.answer.body);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(text(lines[1], "type"), "BOOKMARK");
  EXPECT_EQ(text(lines[1], {"object", "metadata", "annotations", "k8s.io/initial-events-end"}), "true");
  loop_.advance(std::chrono::seconds(61));
  EXPECT_EQ(linesOf(watch->writer.answer.body).size(), 3u) << "a bookmark a minute";
  watch->writer.hangUp();
  loop_.runReady();
  EXPECT_EQ(call("GET", "/metrics")->writer.answer.body.find("longrunning_requests{verb=\"watch\"} 1"),
            std::string::npos);
  EXPECT_EQ(call("GET", std::string(kMaps) + "?watch=true&sendInitialEvents=true")->status(), 422);
}

TEST_F(FrontTest, NobodyEntersWithoutCredentialsButForHealthAndVersion) {
  as("");
  EXPECT_EQ(call("GET", kMaps)->status(), 401);
  for (auto path : {"/healthz", "/livez", "/readyz", "/version"}) EXPECT_EQ(call("GET", path)->status(), 200) << path;
  EXPECT_EQ(call("GET", "/metrics")->status(), 401);
  EXPECT_EQ(call("GET", kMaps, "", "", {{"Authorization", "Bearer nonsense"}})->status(), 401);
}

TEST_F(FrontTest, StrangersReadTheClusterInfoWhereARoleLetsThemAndNothingElse) {
  constexpr auto kInfo = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
  ASSERT_EQ(call("POST", "/api/v1/namespaces/kube-public/configmaps",
                 R"({"metadata":{"name":"cluster-info"},"data":{"kubeconfig":"x"}})")
                ->status(),
            201);
  as("");
  EXPECT_EQ(call("GET", kInfo)->status(), 403);
  as("admin", {"system:masters"});
  ASSERT_EQ(call("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/roles",
                 R"({"metadata":{"name":"info"},"rules":[{"apiGroups":[""],"resources":["configmaps"],
                     "resourceNames":["cluster-info"],"verbs":["get"]}]})")
                ->status(),
            201);
  ASSERT_EQ(
      call(
          "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-public/rolebindings",
          R"({"metadata":{"name":"info"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"info"},
                     "subjects":[{"kind":"User","apiGroup":"rbac.authorization.k8s.io","name":"system:anonymous"}]})")
          ->status(),
      201);
  as("");
  EXPECT_EQ(call("GET", kInfo)->status(), 200);
  EXPECT_EQ(call("PUT", kInfo, "{}")->status(), 401);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/kube-public/configmaps")->status(), 401);
}

TEST_F(FrontTest, ABootstrapTokenIsAUserUntilItExpiresOrItsSecretIsGone) {
  client::BootstrapTokenRecord record;
  record.token = *client::BootstrapToken::parse("abcdef.0123456789abcdef");
  record.expires = loop_.wallNow() + std::chrono::hours(1);
  record.authenticates = true;
  record.groups = {"system:bootstrappers:more"};
  constexpr auto kSecrets = "/api/v1/namespaces/kube-system/secrets";
  auto keep = [&] { return call("POST", kSecrets, json::serialize(client::bootstrapTokenSecret(record)))->status(); };
  auto who = [&](std::string token) {
    as("");
    auto answer = call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                       R"({"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"})", "application/json",
                       {{"Authorization", "Bearer " + token}});
    as("admin", {"system:masters"});
    return answer;
  };
  const auto good = record.token.str();
  EXPECT_EQ(who(good)->status(), 401) << "nobody has made it";
  ASSERT_EQ(keep(), 201);
  auto me = who(good);
  ASSERT_EQ(me->status(), 201) << me->writer.answer.body;
  EXPECT_EQ(text(me->body(), {"status", "userInfo", "username"}), "system:bootstrap:abcdef");
  EXPECT_EQ(client::strings(client::array(me->body(), {"status", "userInfo", "groups"})),
            (std::vector<std::string>{"system:bootstrappers:more", "system:bootstrappers", "system:authenticated"}));
  EXPECT_EQ(who("abcdef.0123456789abcdee")->status(), 401) << "another secret";
  EXPECT_EQ(who("abcdeg.0123456789abcdef")->status(), 401) << "another id";
  loop_.advance(std::chrono::hours(1));
  EXPECT_EQ(who(good)->status(), 401) << "it has expired";
  ASSERT_EQ(call("DELETE", std::string(kSecrets) + "/bootstrap-token-abcdef")->status(), 200);
  record.expires.reset();
  record.authenticates = false;
  ASSERT_EQ(keep(), 201);
  EXPECT_EQ(who(good)->status(), 401) << "it is for signing only";
}

TEST_F(FrontTest, TokensOpenTheDoorUntilTheirAccountOrPodIsGone) {
  auto issued = call(
      "POST", "/api/v1/namespaces/default/serviceaccounts/default/token",
      R"({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":[],"expirationSeconds":600}})");
  ASSERT_EQ(issued->status(), 201) << issued->writer.answer.body;
  std::string bearer = "Bearer " + std::string(text(issued->body(), {"status", "token"}));
  as("");
  auto who = [&] {
    return call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews",
                R"({"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"})", "application/json",
                {{"Authorization", bearer}});
  };
  auto me = who();
  ASSERT_EQ(me->status(), 201) << me->writer.answer.body;
  EXPECT_EQ(text(me->body(), {"status", "userInfo", "username"}), "system:serviceaccount:default:default");
  EXPECT_EQ(call("GET", kMaps, "", "", {{"Authorization", bearer}})->status(), 403);
  loop_.advance(std::chrono::minutes(11));
  EXPECT_EQ(who()->status(), 401) << "it has expired";
}

TEST_F(FrontTest, ANodeReachesWhatItsPodsUseAndNothingElse) {
  call("POST", "/api/v1/namespaces/default/secrets", R"({"metadata":{"name":"used"}})");
  call("POST", "/api/v1/namespaces/default/secrets", R"({"metadata":{"name":"other"}})");
  auto pod = call(
      "POST", "/api/v1/namespaces/default/pods",
      R"({"metadata":{"name":"p"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i","env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"used","key":"k"}}}]}]}})");
  ASSERT_EQ(pod->status(), 201) << pod->writer.answer.body;
  call("POST", "/api/v1/nodes", R"({"metadata":{"name":"n2"}})");
  as("system:node:n1", {"system:nodes"});
  EXPECT_EQ(call("GET", "/api/v1/namespaces/default/secrets/used")->status(), 200);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/default/secrets/other")->status(), 403);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/default/secrets")->status(), 403);
  EXPECT_EQ(call("POST", "/api/v1/nodes", R"({"metadata":{"name":"n1"}})")->status(), 201);
  EXPECT_EQ(
      call("PATCH", "/api/v1/nodes/n1/status", R"({"status":{"phase":"Running"}})", "application/merge-patch+json")
          ->status(),
      200);
  EXPECT_EQ(call("PATCH", "/api/v1/nodes/n2/status", "{}", "application/merge-patch+json")->status(), 403);
  EXPECT_EQ(call("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1")->status(), 200);
  EXPECT_EQ(call("GET", "/api/v1/pods")->status(), 403);
  // Who and where all pods are it may know, but not what they run.
  const std::pair<std::string, std::string> addresses{"Accept", "application/json;as=PodAddress;g=dhow.io;v=v1"};
  auto known = call("GET", "/api/v1/pods", "", "", {addresses});
  EXPECT_EQ(known->status(), 200);
  EXPECT_NE(known->writer.answer.body.find(R"("name":"p")"), std::string::npos);
  EXPECT_EQ(known->writer.answer.body.find("secretKeyRef"), std::string::npos);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/default/pods/p", "", "", {addresses})->status(), 200);  // its own
  EXPECT_EQ(call("GET", "/api/v1/nodes", "", "", {addresses})->status(), 406);
  EXPECT_EQ(call("GET", "/apis/networking.k8s.io/v1/networkpolicies")->status(), 200);
  EXPECT_EQ(call("DELETE", "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies/x")->status(), 403);
  EXPECT_EQ(call("PATCH", "/api/v1/namespaces/default/pods/p/status", R"({"status":{"phase":"Running"}})",
                 "application/merge-patch+json")
                ->status(),
            200);
  EXPECT_EQ(call("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0")->status(), 200);
  as("system:node:n2", {"system:nodes"});
  EXPECT_EQ(call("GET", "/api/v1/namespaces/default/secrets/used")->status(), 403);
}

TEST_F(FrontTest, ANodeReachesWhatGatewaysMayUse) {
  constexpr auto kGateways = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways";
  call("POST", "/apis/gateway.networking.k8s.io/v1/gatewayclasses",
       R"({"metadata":{"name":"ours"},"spec":{"controllerName":"dhow.io/gateway"}})");
  for (std::string_view ns : {"default", "kube-system"}) {
    for (std::string_view name : {"tls", "other"})
      call("POST", fmt::format("/api/v1/namespaces/{}/secrets", ns),
           fmt::format(R"({{"metadata":{{"name":"{}"}}}})", name));
    call("POST", fmt::format("/api/v1/namespaces/{}/configmaps", ns), R"({"metadata":{"name":"ca"}})");
  }
  auto may = [&](std::string_view ns, std::string_view what) {
    as("system:node:n1", {"system:nodes"});
    const int status = call("GET", fmt::format("/api/v1/namespaces/{}/{}", ns, what))->status();
    as("admin", {"system:masters"});
    return status == 200;
  };
  EXPECT_FALSE(may("default", "secrets/tls"));
  auto made = call(
      "POST", kGateways,
      R"({"metadata":{"name":"g"},"spec":{"gatewayClassName":"ours","listeners":[{"name":"x","port":443,"protocol":"HTTPS","tls":{
        "certificateRefs":[{"name":"tls"},{"name":"tls","namespace":"kube-system"}]}}],
        "tls":{"frontend":{"default":{"validation":{"caCertificateRefs":[{"group":"","kind":"ConfigMap","name":"ca"},
        {"group":"","kind":"ConfigMap","name":"ca","namespace":"kube-system"}]}}}}}})");
  ASSERT_EQ(made->status(), 201) << made->writer.answer.body;
  EXPECT_TRUE(may("default", "secrets/tls"));
  EXPECT_TRUE(may("default", "configmaps/ca"));
  EXPECT_FALSE(may("default", "secrets/other"));
  EXPECT_FALSE(may("kube-system", "secrets/tls"));
  EXPECT_FALSE(may("kube-system", "configmaps/ca"));
  auto granted = call(
      "POST", "/apis/gateway.networking.k8s.io/v1/namespaces/kube-system/referencegrants",
      R"({"metadata":{"name":"g"},"spec":{"from":[{"group":"gateway.networking.k8s.io","kind":"Gateway","namespace":"default"}],
        "to":[{"group":"","kind":"Secret","name":"tls"}]}})");
  ASSERT_EQ(granted->status(), 201) << granted->writer.answer.body;
  EXPECT_TRUE(may("kube-system", "secrets/tls"));
  EXPECT_FALSE(may("kube-system", "secrets/other"));
  EXPECT_FALSE(may("kube-system", "configmaps/ca"));
}

TEST_F(FrontTest, RolesGrantByVerbNamespaceAndName) {
  auto role = call(
      "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
      R"({"metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"resourceNames":["a"],"verbs":["get"]}]})");
  ASSERT_EQ(role->status(), 201) << role->writer.answer.body;
  auto binding = call(
      "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
      R"({"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"kind":"Group","name":"devs","apiGroup":"rbac.authorization.k8s.io"}]})");
  ASSERT_EQ(binding->status(), 201) << binding->writer.answer.body;
  call("POST", kMaps, R"({"metadata":{"name":"a"}})");
  as("jane", {"devs"});
  EXPECT_EQ(call("GET", std::string(kMaps) + "/a")->status(), 200);
  EXPECT_EQ(call("GET", std::string(kMaps) + "/b")->status(), 403);
  EXPECT_EQ(call("DELETE", std::string(kMaps) + "/a")->status(), 403);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/kube-system/configmaps/a")->status(), 403);
  auto review = call(
      "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
      R"({"kind":"SelfSubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{"resourceAttributes":{"namespace":"default","verb":"get","resource":"configmaps","name":"a"}}})");
  EXPECT_EQ(review->status(), 201) << review->writer.answer.body;
  EXPECT_TRUE(client::flag(review->body(), {"status", "allowed"}));
  EXPECT_EQ(call("GET", std::string(kMaps) + "/a", "", "", {{"Impersonate-User", "admin"}})->status(), 403);
}

TEST_F(FrontTest, NobodyGrantsWhatTheyDoNotHave) {
  std::string rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/";
  std::string bindAdmin =
      R"({"metadata":{"name":"jane"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"admin"},"subjects":[{"kind":"User","name":"jane","apiGroup":"rbac.authorization.k8s.io"}]})";
  ASSERT_EQ(call("POST", rbac + "rolebindings", bindAdmin)->status(), 201);
  as("jane");
  std::string role =
      R"({"metadata":{"name":"x"},"rules":[{"apiGroups":[""],"resources":["RESOURCE"],"verbs":["get"]}]})";
  auto with = [&](std::string resource) {
    std::string body = role;
    body.replace(body.find("RESOURCE"), 8, resource);
    return call("POST", rbac + "roles", body);
  };
  auto refused = with("nodes");
  EXPECT_EQ(refused->status(), 403);
  EXPECT_NE(refused->writer.answer.body.find("attempting to grant RBAC permissions not currently held"),
            std::string::npos)
      << refused->writer.answer.body;
  EXPECT_EQ(with("secrets")->status(), 201);
  std::string all = bindAdmin;
  all.replace(all.find("\"admin\""), 7, "\"cluster-admin\"");
  all.replace(all.find("\"jane\""), 6, "\"more\"");
  EXPECT_EQ(call("POST", rbac + "rolebindings", all)->status(), 403);
}

TEST_F(FrontTest, ANodeGetsTokensForItsOwnPodsOnly) {
  std::string pod =
      R"({"metadata":{"name":"NAME"},"spec":{"nodeName":"NODE","containers":[{"name":"c","image":"i"}]}})";
  for (auto node : {"n1", "n2"}) {
    std::string body = pod;
    body.replace(body.find("NAME"), 4, std::string("on-") + node);
    body.replace(body.find("NODE"), 4, node);
    ASSERT_EQ(call("POST", "/api/v1/namespaces/default/pods", body)->status(), 201);
  }
  as("system:node:n1", {"system:nodes"});
  auto token = [&](std::string bound) {
    return call("POST", "/api/v1/namespaces/default/serviceaccounts/default/token",
                R"({"spec":{"audiences":[])" + bound + "}}")
        ->status();
  };
  EXPECT_EQ(token(R"(,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"on-n1"})"), 201);
  EXPECT_EQ(token(R"(,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":"on-n2"})"), 403);
  EXPECT_EQ(token(""), 403);
}

TEST_F(FrontTest, EventsHaveTwoForms) {
  auto made = call(
      "POST", "/apis/events.k8s.io/v1/namespaces/default/events",
      R"({"metadata":{"name":"e"},"eventTime":"2026-01-01T00:00:00.000000Z","reportingController":"unit","reportingInstance":"u","action":"Test","reason":"Tested","type":"Normal","note":"hello","regarding":{"kind":"Pod","name":"p","namespace":"default"}})");
  ASSERT_EQ(made->status(), 201) << made->writer.answer.body;
  EXPECT_EQ(text(made->body(), "note"), "hello");
  auto core = call("GET", "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")->body();
  ASSERT_EQ(client::array(core, {"items"}).size(), 1u);
  EXPECT_EQ(text(client::array(core, {"items"})[0].as_object(), "message"), "hello");
}

TEST_F(FrontTest, StartingAgainOnTheSameStoreWritesNothing) {
  auto revision = store_.revision();
  ApiServer second(loop_, store_, object::Kinds::builtin(), {});
  ASSERT_TRUE(runOn(loop_, second.start()).ok());
  EXPECT_EQ(store_.revision(), revision);
  runOn(loop_, second.stop());
}

}  // namespace
}  // namespace dhow::apiserver
