// Pull, push and the registry server against each other and against skopeo and docker-registry.
#include "image/registry_server.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <boost/json/serialize.hpp>

#include "base/process.h"
#include "base/strings.h"
#include "http/client.h"
#include "test_util.h"

namespace dhow::image {
namespace {

using namespace std::chrono_literals;

Task<Result<CommandOutput>> command(Loop& loop, BlockingPool& pool, std::vector<std::string> args) {
  auto out = co_await pool.run(loop, [args] { return runCommand(args); });
  co_return out;
}

class Registry : public StoreTest {
 protected:
  void SetUp() override {
    StoreTest::SetUp();
    if (!IsSkipped()) serveRegistry({});
  }
  void TearDown() override {
    if (server) run(server->stop());
    server.reset();
    registry.reset();
    StoreTest::TearDown();
  }
  void serveRegistry(RegistryServer::Options options) {
    if (server) run(server->stop());
    options.root = base + "/registry";
    auto opened = RegistryServer::open(loop, pool, std::move(options));
    ASSERT_TRUE(opened.ok());
    registry = std::move(*opened);
    // Faults are put in front of the handler.
    auto inner = registry->handler();
    server = std::make_unique<http::Server>(
        loop, http::Server::Options{}, [this, inner](http::Request& request, http::ResponseWriter& writer) {
          requests.push_back(request.method + " " + request.path);
          return fault && fault(request) ? faulty(request, writer) : inner(request, writer);
        });
    auto listening = server->listenTcp("127.0.0.1", 0);
    ASSERT_TRUE(listening.ok());
    port = *listening;
  }
  Reference ref(const std::string& rest) { return *Reference::parse("localhost:" + std::to_string(port) + "/" + rest); }
  ImagePtr pushed(const std::string& rest, const std::map<std::string, std::string>& files) {
    auto image = assemble(ref(rest).familiar(), files);
    auto done = run(store->push(ref(rest), {}));
    EXPECT_TRUE(done.ok()) << (done.ok() ? "" : done.error().message());
    return image;
  }
  void forget(const std::string& rest) {
    RemoveOptions force;
    force.force = true;
    EXPECT_TRUE(run(store->remove(ref(rest).familiar(), force)).ok());
    EXPECT_TRUE(store->content().list()->empty());
  }
  Result<ImagePtr> pull(const std::string& rest, PullOptions options = {}) {
    return run(store->pull(ref(rest), std::move(options)));
  }
  size_t count(const std::string& part) {
    return static_cast<size_t>(std::count_if(requests.begin(), requests.end(),
                                             [&](const auto& r) { return r.find(part) != std::string::npos; }));
  }
  void expectNothingLeft() {
    EXPECT_TRUE(store->content().list()->empty());
    EXPECT_TRUE(listDir(root + "/ingest")->empty());
    EXPECT_EQ(*listDir(root + "/layers"), std::vector<std::string>{"0"});
  }

  std::unique_ptr<RegistryServer> registry;
  std::unique_ptr<http::Server> server;
  uint16_t port = 0;
  std::vector<std::string> requests;
  std::function<bool(const http::Request&)> fault;
  std::function<Task<>(http::Request&, http::ResponseWriter&)> faulty;
};

Task<> answer(http::ResponseWriter& writer, http::Response response) {
  (void)(co_await writer.send(std::move(response))).ok();
}

Task<> cutShort(http::ResponseWriter& writer, std::string body, size_t total) {
  http::Headers headers;
  headers.set("Content-Length", std::to_string(total));
  (void)(co_await writer.start(200, headers)).ok();
  (void)(co_await writer.write(body)).ok();
}

TEST_F(Registry, PushedImagesComeBackTheSame) {
  auto image = pushed("a/hello:1", {{"bin/hello", "program"}, {"etc/x", "y"}});
  std::string id = image->id;
  forget("a/hello:1");
  std::vector<std::string> lines;
  PullOptions options;
  options.progress = [&](const ProgressEvent& event) { lines.push_back(event.id + "|" + event.status); };
  auto back = pull("a/hello:1", options);
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_EQ((*back)->id, id);
  std::string layer = (*back)->layers[0].digest.substr(7, 12);
  EXPECT_EQ(lines.front(), "1|Pulling from a/hello");
  EXPECT_NE(std::find(lines.begin(), lines.end(), layer + "|Pulling fs layer"), lines.end());
  EXPECT_NE(std::find(lines.begin(), lines.end(), layer + "|Download complete"), lines.end());
  EXPECT_NE(std::find(lines.begin(), lines.end(), layer + "|Pull complete"), lines.end());
  EXPECT_EQ(lines.back(), "|Status: Downloaded newer image for " + ref("a/hello:1").familiar());
  EXPECT_EQ(lines[lines.size() - 2], "|Digest: " + (*back)->targetDigest);
  auto snapshot = run(store->prepare(ref("a/hello:1").familiar(), "c"));
  EXPECT_EQ(*readFile(snapshot->lowers[0] + "/bin/hello"), "program");
  lines.clear();
  ASSERT_TRUE(pull("a/hello:1", options).ok());
  EXPECT_EQ(lines.back(), "|Status: Image is up to date for " + ref("a/hello:1").familiar());
  EXPECT_NE(std::find(lines.begin(), lines.end(), layer + "|Already exists"), lines.end());
}

TEST_F(Registry, SkopeoCopiesBothWays) {
  if (!pathExists("/usr/bin/skopeo")) GTEST_SKIP() << "skopeo is not installed";
  pushed("a/hello:1", {{"bin/hello", "program"}});
  std::string at = "docker://localhost:" + std::to_string(port) + "/";
  auto out = run(
      command(loop, pool, {"skopeo", "copy", "--src-tls-verify=false", at + "a/hello:1", "oci:" + base + "/layout:1"}));
  ASSERT_EQ(out->status.code, 0) << out->errors;
  out = run(command(loop, pool,
                    {"skopeo", "copy", "--dest-tls-verify=false", "oci:" + base + "/layout:1", at + "b/other:2"}));
  ASSERT_EQ(out->status.code, 0) << out->errors;
  out = run(command(
      loop, pool,
      {"skopeo", "copy", "--dest-tls-verify=false", "--format=v2s2", "oci:" + base + "/layout:1", at + "b/docker:2"}));
  ASSERT_EQ(out->status.code, 0) << out->errors;
  out = run(command(loop, pool,
                    {"skopeo", "copy", "--dest-tls-verify=false", "--dest-compress-format=zstd", "--dest-compress",
                     "oci:" + base + "/layout:1", at + "b/zstd:2"}));
  ASSERT_EQ(out->status.code, 0) << out->errors;
  out = run(command(loop, pool, {"skopeo", "list-tags", "--tls-verify=false", at + "b/other"}));
  EXPECT_NE(out->output.find("\"2\""), std::string::npos) << out->errors;
  for (const char* name : {"b/other:2", "b/docker:2", "b/zstd:2"}) {
    auto image = pull(name);
    ASSERT_TRUE(image.ok()) << name << ": " << image.error().message();
    EXPECT_EQ((*image)->config.run.entrypoint, std::vector<std::string>{"/bin/hello"});
  }
  out = run(command(loop, pool, {"skopeo", "delete", "--tls-verify=false", at + "b/other:2"}));
  EXPECT_EQ(out->status.code, 0) << out->errors;
  EXPECT_FALSE(pull("b/other:2").ok());
  // An archive of ours is readable by others.
  ASSERT_TRUE(run(store->save({ref("a/hello:1").familiar()}, base + "/saved.tar")).ok());
  out = run(command(loop, pool, {"skopeo", "inspect", "--config", "docker-archive:" + base + "/saved.tar"}));
  EXPECT_EQ(out->status.code, 0) << out->errors;
}

TEST_F(Registry, SpeaksToDockerRegistry) {
  if (!pathExists("/usr/bin/docker-registry")) GTEST_SKIP() << "docker-registry is not installed";
  uint16_t other = 0;
  {
    http::Server probe(loop, {}, [](http::Request&, http::ResponseWriter& writer) { return answer(writer, {}); });
    other = *probe.listenTcp("127.0.0.1", 0);
    run(probe.stop());
  }
  std::string at = "127.0.0.1:" + std::to_string(other);
  ASSERT_TRUE(writeFile(base + "/config.yml",
                        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: " + base +
                            "/docker-registry\nhttp:\n  addr: " + at + "\n")
                  .ok());
  SpawnOptions spawnOptions;
  spawnOptions.args = {"/usr/bin/docker-registry", "serve", base + "/config.yml"};
  spawnOptions.fds = {-1, -1, -1};
  spawnOptions.dieWithParent = true;
  auto process = Process::spawn(spawnOptions);
  ASSERT_TRUE(process.ok());
  http::Client client(loop, {});
  bool up = false;
  for (int i = 0; i < 200 && !up; ++i) {
    auto pinged = run(client.fetch("http://" + at + "/v2/", {}));
    up = pinged.ok();
    if (!up) run(loop.sleep(50ms));
  }
  ASSERT_TRUE(up);
  auto image = assemble(at + "/x/hello:1", {{"bin/hello", std::string(300000, 'p')}});
  auto done = run(store->push(*Reference::parse(at + "/x/hello:1"), {}));
  ASSERT_TRUE(done.ok()) << done.error().message();
  EXPECT_EQ(done->digest, image->manifestDigest);
  std::string id = image->id;
  image.reset();
  RemoveOptions force;
  force.force = true;
  ASSERT_TRUE(run(store->remove(at + "/x/hello:1", force)).ok());
  auto back = run(store->pull(*Reference::parse(at + "/x/hello@" + done->digest), {}));
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_EQ((*back)->id, id);
  auto missing = run(store->pull(*Reference::parse(at + "/x/hello:2"), {}));
  EXPECT_EQ(missing.error().message(),
            "manifest for " + at + "/x/hello:2 not found: manifest unknown: manifest unknown");
  ASSERT_TRUE(process->kill(SIGKILL).ok());
  (void)run(process->wait(loop)).ok();
}

TEST_F(Registry, TellsWhatIsWrongInDockersWords) {
  pushed("a/hello:1", {{"bin/hello", "program"}});
  EXPECT_EQ(pull("a/hello:2").error().message(),
            "manifest for " + ref("a/hello:2").familiar() + " not found: manifest unknown: manifest unknown");
  auto unknown = pull("nothing:1");
  EXPECT_EQ(unknown.error().code(), Code::kNotFound);
  EXPECT_EQ(unknown.error().message(), "repository " + ref("nothing").familiarName() +
                                           " not found: name unknown: repository name not known to registry");
}

TEST_F(Registry, FailsAtOnceWhenNobodyAnswers) {
  // Whoever waits between attempts waits for ever here.
  close();
  retryDelay = std::chrono::hours(24);
  openStore();
  run(server->stop());
  server.reset();
  for (const char* host : {"127.0.0.1", "localhost"}) {
    std::string name = fmt::format("{}:{}/a/hello:1", host, port);
    auto unreachable = run(store->pull(*Reference::parse(name), {}));
    EXPECT_EQ(unreachable.error().code(), Code::kUnavailable);
    const auto& text = unreachable.error().message();
    EXPECT_TRUE(text.starts_with(fmt::format("Get \"http://{}:{}/v2/\": dial tcp ", host, port))) << text;
    EXPECT_TRUE(text.ends_with(fmt::format(":{}: connect: connection refused", port))) << text;
  }
  auto nowhere = run(store->pull(*Reference::parse("nowhere.invalid/a"), {}));
  const auto& text = nowhere.error().message();
  EXPECT_TRUE(
      text.starts_with("Get \"https://nowhere.invalid/v2/a/manifests/latest\": dial tcp: lookup nowhere.invalid: "))
      << text;
}

TEST_F(Registry, RefusesWindowsImagesAndNamesThePlatformsThereAre) {
  auto image = pushed("w:1", {{"a", "b"}});
  ASSERT_TRUE(image);
  std::string windows = R"({"architecture":"amd64","os":"windows","rootfs":{"type":"layers","diff_ids":[]}})";
  std::string digest = "sha256:" + sha256Hex(windows);
  Manifest manifest;
  manifest.mediaType = media::kOciManifest;
  manifest.config = {std::string(media::kOciConfig), digest, static_cast<int64_t>(windows.size()), {}, {}, {}};
  std::string single = toJson(manifest);
  Index index;
  index.mediaType = media::kDockerList;
  index.manifests = {{std::string(media::kOciManifest),
                      "sha256:" + sha256Hex(single),
                      static_cast<int64_t>(single.size()),
                      Platform{"windows", "amd64", "", "10.0.20348.2"},
                      {},
                      {}},
                     {std::string(media::kOciManifest),
                      "sha256:" + sha256Hex("other"),
                      5,
                      Platform{"linux", "s390x", "", ""},
                      {},
                      {}}};
  std::string list = toJson(index);
  fault = [](const http::Request& request) { return request.path.find("/v2/w") == 0; };
  faulty = [&](http::Request& request, http::ResponseWriter& writer) {
    http::Response out;
    bool blob = request.path.find("/blobs/") != std::string::npos;
    out.headers.set("Content-Type", blob                              ? "application/octet-stream"
                                    : request.path.ends_with("/list") ? media::kDockerList
                                                                      : media::kOciManifest);
    out.body = blob ? windows : request.path.ends_with("/list") ? list : single;
    return answer(writer, out);
  };
  std::vector<std::string> lines;
  PullOptions options;
  options.progress = [&](const ProgressEvent& event) { lines.push_back(event.status); };
  auto fromList = pull("w:list", options);
  EXPECT_EQ(fromList.error().message(),
            "no matching manifest for linux/amd64 in the manifest list entries\navailable platforms: windows/amd64 "
            "10.0.20348.2, linux/s390x");
  EXPECT_EQ(lines, std::vector<std::string>{"Pulling from w"});
  auto fromSingle = pull("w:single");
  EXPECT_EQ(fromSingle.error().message(),
            "image operating system \"windows\" cannot be used on this platform: operating system is not supported");
  EXPECT_EQ(fromSingle.error().code(), Code::kBadRequest);
}

TEST_F(Registry, GoesOnAfterServerErrorsAndBrokenConnections) {
  std::string noise;
  for (int i = 0; i < 60000; ++i) noise += std::to_string(i * 48271ll % 65521);
  auto image = pushed("r:1", {{"big", noise}});
  auto layer = image->layers[0];
  std::string bytes = *store->content().read(layer.digest, 64 << 20);
  image.reset();
  forget("r:1");
  int errors = 0, cuts = 0;
  fault = [&](const http::Request& request) {
    if (request.path.find(layer.digest) != std::string::npos && cuts < 1) return true;
    return request.path.find("/manifests/") != std::string::npos && errors++ < 2;
  };
  faulty = [&](http::Request& request, http::ResponseWriter& writer) {
    if (request.path.find("/manifests/") == std::string::npos) {
      ++cuts;
      return cutShort(writer, bytes.substr(0, bytes.size() / 2), bytes.size());
    }
    http::Response out;
    out.status = 503;
    return answer(writer, out);
  };
  auto back = pull("r:1");
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_EQ(cuts, 1);
  EXPECT_GE(errors, 3);
}

TEST_F(Registry, DamagedLayersLeaveNothingBehind) {
  auto image = pushed("d:1", {{"a", "content"}});
  auto layer = image->layers[0];
  std::string bytes = *store->content().read(layer.digest);
  image.reset();
  forget("d:1");
  std::string sent = bytes;
  fault = [&](const http::Request& request) { return request.path.find(layer.digest) != std::string::npos; };
  faulty = [&](http::Request&, http::ResponseWriter& writer) {
    http::Response out;
    out.body = sent;
    return answer(writer, out);
  };
  sent[sent.size() - 1] = static_cast<char>(sent.back() ^ 1);
  auto flipped = pull("d:1");
  ASSERT_FALSE(flipped.ok());
  EXPECT_EQ(flipped.error().message(), "filesystem layer verification failed for digest " + layer.digest);
  EXPECT_EQ(flipped.error().code(), Code::kDataLoss);
  expectNothingLeft();
  sent = bytes + "tail";
  EXPECT_EQ(pull("d:1").error().code(), Code::kDataLoss);
  sent = bytes.substr(0, bytes.size() / 2);
  EXPECT_FALSE(pull("d:1").ok());
  faulty = [&](http::Request&, http::ResponseWriter& writer) {
    http::Response out;
    out.status = 404;
    return answer(writer, out);
  };
  EXPECT_FALSE(pull("d:1").ok());
  expectNothingLeft();
  EXPECT_TRUE(store->list().empty());
  fault = nullptr;
  EXPECT_TRUE(pull("d:1").ok());
}

TEST_F(Registry, ACancelledPullLeavesNothing) {
  pushed("c:1", {{"a", std::string(100000, 'x')}});
  forget("c:1");
  PullOptions options;
  options.cancelled = [] { return true; };
  fault = [](const http::Request& request) {
    return request.path.find("/blobs/") != std::string::npos && request.path.find("sha256") != std::string::npos;
  };
  int served = 0;
  auto inner = registry->handler();
  faulty = [&, inner](http::Request& request, http::ResponseWriter& writer) -> Task<> {
    return ++served > 1 ? cutShort(writer, "", 100) : inner(request, writer);
  };
  EXPECT_FALSE(pull("c:1", options).ok());
  expectNothingLeft();
}

Task<> pullInto(ImageStore& store, Reference reference, int* done) {
  auto image = co_await store.pull(std::move(reference), {});
  EXPECT_TRUE(image.ok()) << (image.ok() ? "" : image.error().message());
  ++*done;
}

TEST_F(Registry, ParallelPullsFetchEachBlobOnce) {
  auto image = pushed("p:1", {{"a", "content"}});
  std::string layer = image->layers[0].digest;
  ASSERT_TRUE(run(store->tag(image->id, ref("p:2"))).ok());
  ASSERT_TRUE(run(store->push(ref("p:2"), {})).ok());
  image.reset();
  RemoveOptions force;
  force.force = true;
  ASSERT_TRUE(run(store->remove(ref("p:2").familiar(), force)).ok());
  forget("p:1");
  requests.clear();
  int done = 0;
  spawn(loop, pullInto(*store, ref("p:1"), &done));
  spawn(loop, pullInto(*store, ref("p:2"), &done));
  run([](ImageStore& s, Reference r, int* d) -> Task<> { co_await pullInto(s, r, d); }(*store, ref("p:1"), &done));
  for (int i = 0; i < 1000 && done < 3; ++i) run(loop.sleep(5ms));
  EXPECT_EQ(done, 3);
  EXPECT_EQ(count("GET /v2/p/blobs/" + layer), 1u);
}

TEST_F(Registry, AsksForTokensAndPasswords) {
  RegistryServer::Options options;
  std::string realm;
  options.authorize = [&realm](const http::Request& request,
                               const RegistryServer::Access& access) -> std::optional<std::string> {
    if (request.headers.get("Authorization") == "Bearer good") return std::nullopt;
    return "Bearer realm=\"" + realm + "\",service=\"here\",scope=\"repository:" + access.repository + ":pull,push\"";
  };
  serveRegistry(std::move(options));
  realm = "http://127.0.0.1:" + std::to_string(port) + "/token";
  std::string scope;
  fault = [](const http::Request& request) { return request.path == "/token"; };
  faulty = [&](http::Request& request, http::ResponseWriter& writer) {
    http::Response out;
    scope = std::string(request.query.get("scope"));
    bool known = request.headers.get("Authorization") == "Basic " + toBase64("me:secret");
    out.status = known ? 200 : 401;
    out.body = R"({"token":"good"})";
    return answer(writer, out);
  };
  assemble(ref("t:1").familiar(), {{"a", "b"}});
  PushOptions push;
  const std::string refused = "unauthorized: authentication required";
  auto denied = run(store->push(ref("t:1"), push));
  EXPECT_EQ(denied.error().code(), Code::kUnauthenticated);
  EXPECT_TRUE(denied.error().message().ends_with(refused)) << denied.error().message();
  push.credentials = {{"me", "secret", "", ""}};
  ASSERT_TRUE(run(store->push(ref("t:1"), push)).ok());
  EXPECT_EQ(scope, "repository:t:pull,push");
  const std::string request = "Get \"http://localhost:" + std::to_string(port) + "/v2/t/manifests/1\": ";
  requests.clear();
  EXPECT_EQ(pull("t:1").error().message(), request + refused);
  PullOptions wrong;
  wrong.credentials = {{"me", "guessed", "", ""}};
  EXPECT_EQ(pull("t:1", wrong).error().message(), request + refused);
  EXPECT_EQ(count("/token"), 3u) << "a refusal is not asked for again";
  // A token server that is not there, and one that gives what the registry does not take.
  auto good = std::exchange(realm, "http://127.0.0.1:1/token");
  auto lost = pull("t:1").error().message();
  EXPECT_TRUE(lost.starts_with(request + "Get \"http://127.0.0.1:1/token?")) << lost;
  EXPECT_TRUE(lost.ends_with("dial tcp 127.0.0.1:1: connect: connection refused")) << lost;
  realm = good;
  auto tokens = std::exchange(faulty, [&](http::Request&, http::ResponseWriter& writer) {
    http::Response out;
    out.body = R"({"token":"worthless"})";
    return answer(writer, out);
  });
  EXPECT_EQ(pull("t:1").error().message(), refused);
  faulty = tokens;
  // The second of two secrets is the right one.
  Keyring keyring;
  ASSERT_TRUE(keyring
                  .addDockerConfig(R"({"auths":{"localhost:)" + std::to_string(port) +
                                   R"(/t":{"username":"me","password":"wrong"}}})")
                  .ok());
  ASSERT_TRUE(keyring
                  .addDockerConfig(R"({"auths":{"http://localhost:)" + std::to_string(port) + R"(/":{"auth":")" +
                                   toBase64("me:secret") + R"("}}})")
                  .ok());
  auto image = run(store->ensure(ref("t:1").familiar(), PullPolicy::kAlways, keyring));
  EXPECT_TRUE(image.ok()) << image.error().message();

  RegistryServer::Options basic;
  basic.authorize = basicAuth("me", "secret");
  serveRegistry(std::move(basic));
  fault = nullptr;
  EXPECT_EQ(pull("t:1").error().message(),
            "Get \"http://localhost:" + std::to_string(port) + "/v2/t/manifests/1\": no basic auth credentials");
  EXPECT_EQ(pull("t:1", wrong).error().message(), refused);
  EXPECT_TRUE(run(store->login("localhost:" + std::to_string(port), {"me", "secret", "", ""})).ok());
  EXPECT_EQ(run(store->login("localhost:" + std::to_string(port), {"me", "wrong", "", ""})).error().code(),
            Code::kUnauthenticated);
}

TEST_F(Registry, ARegistryThatForbidsLooksLikeOneWithoutTheImage) {
  pushed("f:1", {{"a", "b"}});
  http::Response forbidden;
  fault = [](const http::Request& request) { return request.path.starts_with("/v2/f"); };
  faulty = [&](http::Request&, http::ResponseWriter& writer) { return answer(writer, forbidden); };
  const std::string hidden =
      "pull access denied for " + ref("f").familiarName() +
      ", repository does not exist or may require 'docker login': denied: requested access to the "
      "resource is denied";
  forbidden.status = 403;
  EXPECT_EQ(pull("f:1").error().message(), hidden);
  EXPECT_EQ(pull("f:1").error().code(), Code::kNotFound);
  forbidden.status = 401;
  forbidden.body = R"({"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]})";
  EXPECT_EQ(pull("f:1").error().message(), hidden);
}

TEST_F(Registry, UsesMirrorsFirstAndTheRegistryAfterThem) {
  pushed("library/m:1", {{"a", "b"}});
  std::string here = "http://127.0.0.1:" + std::to_string(port);
  auto parsed = parseRegistryHosts("registries:\n  docker.io:\n    mirrors: [\"http://127.0.0.1:1\", \"" + here +
                                       "\"]\n  other.example:\n    endpoint: " + here + "\n    insecure: true\n",
                                   ".");
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_TRUE(parsed->at("other.example").insecure);
  hosts = *parsed;
  reopen();
  auto image = run(store->pull(*Reference::parse("m:1"), {}));
  ASSERT_TRUE(image.ok()) << image.error().message();
  EXPECT_TRUE(run(store->pull(*Reference::parse("other.example/library/m:1"), {})).ok());
  EXPECT_FALSE(parseRegistryHosts("registries: 1", ".").ok());
  EXPECT_FALSE(parseRegistryHosts("registries: {a: {mirror: x}}", ".").ok());
  EXPECT_FALSE(parseRegistryHosts("registries: {a: [", ".").ok());
}

// An authority's certificate holds many escapes: libfyaml's emitter loses memory over them, its reader does not.
TEST(RegistryHosts, TakeCertificatesWithinJson) {
  std::string pem = "-----BEGIN CERTIFICATE-----\n";
  for (int i = 0; i < 20; ++i) pem += std::string(64, 'A') + "\n";
  pem += "-----END CERTIFICATE-----\n";
  const std::string text = boost::json::serialize(
      boost::json::object{{"registries", {{"a.example", {{"ca", pem}, {"password", "p"}, {"username", "u"}}}}}});
  auto hosts = parseRegistryHosts(text, ".");
  ASSERT_TRUE(hosts.ok()) << hosts.error().message();
  EXPECT_EQ(hosts->at("a.example").caPem, pem);
}

TEST_F(Registry, EnsureKeepsToItsPolicy) {
  pushed("e:1", {{"a", "b"}});
  std::string name = ref("e:1").familiar();
  run(server->stop());
  EXPECT_TRUE(run(store->ensure(name, PullPolicy::kIfNotPresent, {})).ok());
  EXPECT_TRUE(run(store->ensure(name, PullPolicy::kNever, {})).ok());
  EXPECT_FALSE(run(store->ensure(name, PullPolicy::kAlways, {})).ok());
  EXPECT_EQ(run(store->ensure("absent:1", PullPolicy::kNever, {})).error().code(), Code::kNotFound);
  EXPECT_EQ(run(store->ensure("BAD", PullPolicy::kIfNotPresent, {})).error().code(), Code::kBadRequest);
  server.reset();
}

TEST_F(Registry, TakesChunksRangesMountsAndListsPages) {
  http::Client client(loop, {});
  std::string at = "http://127.0.0.1:" + std::to_string(port);
  auto send = [&](std::string method, std::string path, std::string body = "",
                  std::map<std::string, std::string> headers = {}) {
    http::Request request;
    request.method = method;
    for (const auto& [name, value] : headers) request.headers.set(name, value);
    if (method != "GET" && method != "HEAD") {
      request.headers.set("Content-Length", std::to_string(body.size()));
      request.body = http::bodyOf(body);
    }
    auto out = run(client.fetch(at + path, std::move(request)));
    EXPECT_TRUE(out.ok()) << (out.ok() ? "" : out.error().message());
    return out.ok() ? *out : http::Response{0, {}, ""};
  };
  auto start = send("POST", "/v2/c/x/blobs/uploads/");
  EXPECT_EQ(start.status, 202);
  std::string place(start.headers.get("Location"));
  EXPECT_EQ(send("PATCH", place, "hello ", {{"Content-Range", "0-5"}}).status, 202);
  EXPECT_EQ(send("PATCH", place, "x", {{"Content-Range", "3-3"}}).status, 416);
  EXPECT_EQ(send("GET", place).headers.get("Range"), "0-5");
  std::string digest = "sha256:" + sha256Hex("hello world");
  EXPECT_EQ(send("PUT", place + "?digest=" + digest, "world").status, 201);
  EXPECT_EQ(send("GET", place).status, 404);
  EXPECT_EQ(send("GET", "/v2/c/x/blobs/" + digest).body, "hello world");
  auto part = send("GET", "/v2/c/x/blobs/" + digest, "", {{"Range", "bytes=6-"}});
  EXPECT_EQ(part.status, 206);
  EXPECT_EQ(part.body, "world");
  EXPECT_EQ(part.headers.get("Content-Range"), "bytes 6-10/11");
  EXPECT_EQ(send("GET", "/v2/c/x/blobs/" + digest, "", {{"Range", "bytes=99-"}}).status, 416);
  EXPECT_EQ(send("HEAD", "/v2/c/x/blobs/" + digest).headers.get("Content-Length"), "11");
  EXPECT_EQ(send("GET", "/v2/c/y/blobs/" + digest).status, 404);
  EXPECT_EQ(send("POST", "/v2/c/y/blobs/uploads/?mount=" + digest + "&from=c/x").status, 201);
  EXPECT_EQ(send("GET", "/v2/c/y/blobs/" + digest).status, 200);
  auto wrong = send("POST", "/v2/c/x/blobs/uploads/?digest=sha256:" + std::string(64, '0'), "abc");
  EXPECT_EQ(wrong.status, 400);
  EXPECT_NE(wrong.body.find("DIGEST_INVALID"), std::string::npos);
  Manifest manifest;
  manifest.mediaType = media::kOciManifest;
  manifest.config = {"application/vnd.example+json", digest, 11, {}, {}, {}};
  for (const char* tag : {"a", "b", "c"})
    EXPECT_EQ(
        send("PUT", std::string("/v2/c/x/manifests/") + tag, toJson(manifest), {{"Content-Type", manifest.mediaType}})
            .status,
        201);
  auto page = send("GET", "/v2/c/x/tags/list?n=2");
  EXPECT_EQ(page.body, R"({"name":"c/x","tags":["a","b"]})");
  EXPECT_EQ(page.headers.get("Link"), "</v2/c/x/tags/list?last=b&n=2>; rel=\"next\"");
  EXPECT_EQ(send("GET", "/v2/c/x/tags/list?n=2&last=b").body, R"({"name":"c/x","tags":["c"]})");
  std::string subject = "sha256:" + sha256Hex(toJson(manifest));
  Manifest signature = manifest;
  signature.subject =
      Descriptor{manifest.mediaType, subject, static_cast<int64_t>(toJson(manifest).size()), {}, {}, {}};
  signature.artifactType = "application/vnd.example.signature";
  auto put = send("PUT", "/v2/c/x/manifests/sha256:" + sha256Hex(toJson(signature)), toJson(signature),
                  {{"Content-Type", manifest.mediaType}});
  EXPECT_EQ(put.headers.get("OCI-Subject"), subject);
  EXPECT_NE(send("GET", "/v2/c/x/referrers/" + subject).body.find("vnd.example.signature"), std::string::npos);
  EXPECT_EQ(send("GET", "/v2/c/x/referrers/" + subject + "?artifactType=none").body.find("vnd.example.signature"),
            std::string::npos);
  manifest.config.digest = "sha256:" + std::string(64, '1');
  EXPECT_NE(send("PUT", "/v2/c/x/manifests/bad", toJson(manifest), {{"Content-Type", manifest.mediaType}})
                .body.find("MANIFEST_BLOB_UNKNOWN"),
            std::string::npos);
  EXPECT_EQ(send("PUT", "/v2/c/x/manifests/bad", "{}", {{"Content-Type", manifest.mediaType}}).status, 400);
  EXPECT_EQ(send("GET", "/v2/_catalog").body, R"({"repositories":["c/x","c/y"]})");
  EXPECT_EQ(send("DELETE", "/v2/c/x/manifests/" + subject).status, 202);
  EXPECT_EQ(send("GET", "/v2/c/x/manifests/a").status, 404);
  EXPECT_EQ(send("DELETE", "/v2/c/x/blobs/" + digest).status, 202);
  EXPECT_EQ(send("GET", "/v2/c/y/blobs/" + digest).status, 200);
  EXPECT_EQ(send("GET", "/v2/../../etc/passwd").status, 404);
  EXPECT_EQ(send("GET", "/v2/c%2f..%2f..%2fx/tags/list").status, 404);
}

}  // namespace
}  // namespace dhow::image
