#include "apiserver/audit.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <boost/json/parse.hpp>

#include "apiserver/server.h"
#include "base/files.h"
#include "base/pki.h"
#include "base/strings.h"
#include "client/fields.h"
#include "http/client.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

using client::text;

class AuditTest : public testing::Test {
 protected:
  AuditTest() : dir_(makeTempDir("/tmp", "dhow-audit-").value()) {}
  ~AuditTest() override { EXPECT_TRUE(removeTree(dir_).ok()); }
  std::string path(int old = 0) const { return dir_ + "/audit/audit.log" + (old ? "." + std::to_string(old) : ""); }

  const std::string dir_;
  BlockingPool pool_{1};
  RealLoop loop_;
};

TEST_F(AuditTest, LinesAreOnDiskAfterStopForTheirOwnerAlone) {
  Audit audit(loop_, pool_, {.path = path()});
  for (int i = 0; i < 1000; ++i) audit.add(fmt::format("{{\"n\":{}}}", i));
  runOn(loop_, audit.stop());
  audit.add("late");
  auto lines = split(readFile(path()).value(), '\n');
  ASSERT_EQ(lines.size(), 1001u);
  EXPECT_EQ(lines[999], "{\"n\":999}");
  struct stat info{};
  ASSERT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(AuditTest, FilesAreRotatedBySizeAndBounded) {
  for (int i = 0; i < 6; ++i) {
    Audit audit(loop_, pool_, {.path = path(), .maxSize = 100, .maxFiles = 3});
    audit.add(std::string(60, static_cast<char>('a' + i)));
    runOn(loop_, audit.stop());
  }
  EXPECT_EQ(readFile(path()).value().front(), 'f');
  EXPECT_EQ(readFile(path(1)).value().front(), 'e');
  EXPECT_EQ(readFile(path(2)).value().front(), 'd');
  EXPECT_FALSE(pathExists(path(3)));
}

TEST_F(AuditTest, WhatTheDiskDoesNotTakeIsDroppedAndTheServerGoesOn) {
  Audit audit(loop_, pool_, {.path = path(), .maxQueued = 100});
  audit.add(std::string(90, 'a'));
  audit.add(std::string(90, 'b'));
  runOn(loop_, audit.stop());
  EXPECT_EQ(readFile(path()).value(), std::string(90, 'a') + "\n");
  Audit nowhere(loop_, pool_, {.path = "/proc/dhow-nowhere/audit.log"});
  nowhere.add("x");
  runOn(loop_, nowhere.stop());
}

// A server in the clear; requests come without a certificate, and tokens say who asks.
class AuditedServer : public AuditTest {
 protected:
  AuditedServer() {
    ServerOptions options;
    options.tokens.signingKeyPem = generatePrivateKey();
    options.audit = &audit_;
    server_ = std::make_unique<ApiServer>(loop_, store_, object::Kinds::builtin(), std::move(options));
    EXPECT_TRUE(runOn(loop_, server_->start()).ok());
    http_ = std::make_unique<http::Server>(loop_, http::Server::Options{.name = "api"},
                                           [this](http::Request& request, http::ResponseWriter& writer) {
                                             request.peer.certificateCommonName = "ann";
                                             request.peer.certificateOrganizations = {"system:masters"};
                                             return server_->handler()(request, writer);
                                           });
    port_ = http_->listenTcp("127.0.0.1", 0).value();
  }
  int call(std::string method, std::string target, std::string body = "", std::string type = "application/json") {
    http::Request request;
    request.method = std::move(method);
    request.headers.set("Content-Type", type);
    request.headers.set("User-Agent", "tester/1");
    if (!body.empty()) request.body = http::bodyOf(std::move(body));
    http::Client client(loop_, {});
    auto answer = runOn(loop_, client.fetch(fmt::format("http://127.0.0.1:{}{}", port_, target), std::move(request)));
    client.close();
    return answer.ok() ? answer->status : -1;
  }
  // All events, after the end of the server.
  std::vector<json::object> events() {
    runOn(loop_, server_->stop());
    runOn(loop_, http_->stop());
    runOn(loop_, audit_.stop());
    runOn(loop_, store_.close());
    std::vector<json::object> events;
    for (const auto& line : split(readFile(path()).value(), '\n')) {
      if (!line.empty()) events.push_back(json::parse(line).get_object());
    }
    return events;
  }

  store::MemoryStore store_{loop_};
  Audit audit_{loop_, pool_, {.path = path()}};
  std::unique_ptr<ApiServer> server_;
  std::unique_ptr<http::Server> http_;
  uint16_t port_ = 0;
};

TEST_F(AuditedServer, EachRequestIsAnEventAndSecretsAreInNone) {
  EXPECT_EQ(call("POST", "/api/v1/namespaces", R"({"metadata":{"name":"a"}})"), 201);
  EXPECT_EQ(call("POST", "/api/v1/namespaces/a/secrets", R"({"metadata":{"name":"s"},"stringData":{"k":"needle"}})"),
            201);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/a/secrets/s?pretty=1"), 200);
  EXPECT_EQ(call("GET", "/api/v1/namespaces/a/pods/missing"), 404);
  EXPECT_EQ(
      call("PATCH", "/api/v1/namespaces/a", R"({"metadata":{"labels":{"x":"y"}}})", "application/merge-patch+json"),
      200);
  EXPECT_EQ(call("GET", "/readyz"), 200);
  auto all = events();
  EXPECT_EQ(readFile(path()).value().find("bmVlZGxl"), std::string::npos);
  EXPECT_EQ(readFile(path()).value().find("needle"), std::string::npos);
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(text(all[0], "kind"), "Event");
  EXPECT_EQ(text(all[0], "apiVersion"), "audit.k8s.io/v1");
  EXPECT_EQ(text(all[0], "level"), "RequestResponse");
  EXPECT_EQ(text(all[0], "stage"), "ResponseComplete");
  EXPECT_EQ(text(all[0], "verb"), "create");
  EXPECT_EQ(text(all[0], {"user", "username"}), "ann");
  EXPECT_EQ(text(all[0], "userAgent"), "tester/1");
  EXPECT_EQ(text(all[0], {"requestObject", "metadata", "name"}), "a");
  EXPECT_FALSE(text(all[0], {"responseObject", "metadata", "uid"}).empty());
  EXPECT_EQ(text(all[0], {"annotations", "authorization.k8s.io/decision"}), "allow");
  EXPECT_EQ(client::number(all[0], {"responseStatus", "code"}), 201);
  EXPECT_EQ(text(all[1], "level"), "Metadata");
  EXPECT_FALSE(all[1].contains("requestObject"));
  EXPECT_EQ(text(all[2], "requestURI"), "/api/v1/namespaces/a/secrets/s?pretty=1");
  EXPECT_EQ(text(all[2], {"objectRef", "resource"}), "secrets");
  EXPECT_EQ(client::number(all[3], {"responseStatus", "code"}), 404);
  EXPECT_EQ(text(all[3], {"responseStatus", "reason"}), "NotFound");
  EXPECT_EQ(text(all[4], {"requestObject", "metadata", "labels", "x"}), "y");
}

}  // namespace
}  // namespace dhow::apiserver
