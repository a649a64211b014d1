// For tests: an API server on TLS on its own thread, and the real kubectl.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/serialize.hpp>

#include <future>
#include <thread>

#include "apiserver/server.h"
#include "base/files.h"
#include "base/pki.h"
#include "base/process.h"
#include "base/strings.h"
#include "client/fields.h"
#include "http/server.h"
#include "store/sqlite_store.h"

namespace dhow::apiserver {

inline bool haveKubectl() {
  auto found = runCommand({"sh", "-c", "command -v kubectl"});
  return found.ok() && found->status.code == 0;
}

inline Task<> make(client::Client* client, Resource resource, std::string ns, std::string name) {
  auto made = co_await client->create(resource, ns, json::object{{"metadata", json::object{{"name", name}}}}, "", "");
  CHECK(made.ok() || made.error().is(Code::kAlreadyExists), "{}", made.error().message());
}

// A server on its own thread.
class Cluster {
 public:
  explicit Cluster(std::string dir) : dir_(std::move(dir)) {
    std::promise<uint16_t> port;
    auto ready = port.get_future();
    thread_ = std::thread([this, &port] { run(port); });
    port_ = ready.get();
  }
  ~Cluster() {
    loop_.post([this] { spawn(loop_, shutDown()); });
    thread_.join();
  }
  uint16_t port() const { return port_; }
  std::string user(const std::string& name, const std::vector<std::string>& groups) {
    auto identity = identityOf(name, groups);
    auto data = [](std::string_view text) { return toBase64(text); };
    std::string path = fmt::format("{}/{}.kubeconfig", dir_, name);
    std::string text = fmt::format(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters:\n- name: c\n  cluster: {{server: "
        "\"https://127.0.0.1:{}\", certificate-authority-data: {}}}\n"
        "users:\n- name: u\n  user: {{client-certificate-data: {}, client-key-data: {}}}\ncontexts:\n- name: c\n  "
        "context: {{cluster: c, user: u}}\n",
        port_, data(authority_.certificatePem), data(identity.certificatePem), data(identity.privateKeyPem));
    CHECK(writeFile(path, text).ok());
    return path;
  }
  Identity identityOf(const std::string& name, const std::vector<std::string>& groups) {
    CertificateSpec spec;
    spec.commonName = name;
    spec.organizations = groups;
    spec.client = true;
    spec.notBefore = std::chrono::system_clock::now();
    return issueCertificate(authority_, spec).value();
  }
  const Identity& authority() const { return authority_; }
  RealLoop& loop() { return loop_; }

 private:
  void run(std::promise<uint16_t>& port) {
    authority_ = createAuthority("test-ca", loop_.wallNow(), std::chrono::hours(24)).value();
    CertificateSpec spec;
    spec.commonName = "apiserver";
    spec.ipAddresses = {"127.0.0.1"};
    spec.server = true;
    spec.notBefore = loop_.wallNow();
    auto identity = issueCertificate(authority_, spec).value();
    store_ = store::SqliteStore::open(loop_, {.path = dir_ + "/state.db"}).value();
    ServerOptions options;
    options.tokens.signingKeyPem = generatePrivateKey();
    options.pool = &pool_;
    server_ = std::make_unique<ApiServer>(loop_, *store_, object::Kinds::builtin(), options);
    http::TlsServer::Options tls;
    tls.keyPair = {identity.certificatePem, identity.privateKeyPem};
    tls.clientCaPem = authority_.certificatePem;
    http_ = std::make_unique<http::Server>(
        loop_, http::Server::Options{.name = "api", .tls = http::TlsServer::create(tls).value()}, server_->handler());
    spawn(loop_, startUp(&port));
    loop_.run();
  }
  Task<> startUp(std::promise<uint16_t>* port) {
    auto started = co_await server_->start();
    CHECK(started.ok(), "{}", started.error().message());
    client_ = server_->clientFor("test");
    co_await make(client_.get(), object::resources::kServiceAccounts, "default", "default");
    port->set_value(http_->listenTcp("127.0.0.1", 0).value());
  }
  Task<> shutDown() {
    co_await server_->stop();
    co_await http_->stop();
    co_await store_->close();
    http_.reset();
    client_.reset();
    server_.reset();
    store_.reset();
    loop_.stop();
  }

  std::string dir_;
  RealLoop loop_;
  BlockingPool pool_{1};
  Identity authority_;
  std::unique_ptr<store::SqliteStore> store_;
  std::unique_ptr<ApiServer> server_;
  std::unique_ptr<client::Client> client_;
  std::unique_ptr<http::Server> http_;
  std::thread thread_;
  uint16_t port_ = 0;
};

class KubectlTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!haveKubectl()) GTEST_SKIP() << "kubectl is not on PATH";
    dir_ = makeTempDir("/tmp", "dhow-kubectl").value();
    cluster_ = std::make_unique<Cluster>(dir_);
    admin_ = cluster_->user("admin", {"system:masters"});
  }
  void TearDown() override {
    cluster_.reset();
    if (!dir_.empty()) EXPECT_TRUE(removeTree(dir_).ok());
  }
  CommandOutput run(const std::string& line, const std::string& input = "", std::string config = "") {
    if (config.empty()) config = admin_;
    std::string command = fmt::format("HOME={} KUBECONFIG={} timeout 30 kubectl {}", dir_, config, line);
    auto out = runCommand({"sh", "-c", command}, input);
    CHECK(out.ok(), "{}", out.error().message());
    return *out;
  }
  std::string good(const std::string& line, const std::string& input = "") {
    auto out = run(line, input);
    EXPECT_EQ(out.status.code, 0) << "kubectl " << line << "\n" << out.output << out.errors;
    return out.output + out.errors;
  }
  std::string bad(const std::string& line, const std::string& input = "", std::string config = "") {
    auto out = run(line, input, std::move(config));
    EXPECT_NE(out.status.code, 0) << "kubectl " << line << "\n" << out.output;
    return out.errors;
  }

  std::string dir_;
  std::string admin_;
  std::unique_ptr<Cluster> cluster_;
};

inline void expectHas(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "wanted: " << part << "\nin: " << text;
}

}  // namespace dhow::apiserver
