// A pod with the real runtime and image store. On the host's network, so that no link of the machine is touched.
#include <gtest/gtest.h>

#include <unistd.h>

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "client/fake_client.h"
#include "fakes.h"
#include "pod_manager.h"
#include "real_floors.h"
#include "runtime/log_reader.h"

namespace dhow::node {
namespace {

using namespace std::chrono_literals;
using dhow::object::resources::kPods;

Task<bool> eventually(Loop* loop, std::function<bool()> holds) {
  const TimePoint deadline = loop->now() + 20s;
  while (!holds()) {
    if (loop->now() > deadline) co_return false;
    co_await loop->sleep(2ms);
  }
  co_return true;
}

class RealPodTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    if (!pathExists("/bin/busybox")) GTEST_SKIP() << "needs busybox-static";
    dir_ = *makeTempDir("/tmp", "dhow-node-");
    image::ImageStore::Options store;
    store.root = dir_ + "/images";
    auto opened = image::ImageStore::open(loop_, pool_, std::move(store));
    ASSERT_TRUE(opened.ok()) << opened.error().message();
    store_ = std::move(*opened);
    image::AssembleOptions image;
    image.additions = {{"/bin/busybox", "/bin/sh"}};
    image.config.cmd = {"/bin/sh"};
    image.tags = {"box:1"};
    auto made = runOn(loop_, store_->assemble(std::move(image)));
    ASSERT_TRUE(made.ok()) << made.error().message();
    images_ = std::make_unique<StoreImages>(*store_);
    open();
  }
  void TearDown() override {
    if (!store_) return;
    close();
    auto runtime = runtime::Runtime::create(loop_, pool_, runtimeOptions());
    if (runtime.ok()) {
      auto found = runOn(loop_, (*runtime)->findSandboxes());
      if (found.ok()) {
        for (auto& sandbox : found->sandboxes) EXPECT_TRUE(runOn(loop_, sandbox->remove()).ok());
      }
      EXPECT_TRUE((*runtime)->removeCgroupParent().ok());
      runOn(loop_, (*runtime)->stop());
    }
    runOn(loop_, store_->stop());
    store_.reset();
    EXPECT_TRUE(removeTree(dir_).ok());
  }

  runtime::Options runtimeOptions() { return {dir_ + "/run", std::string(DHOW_BINARY_DIR) + "/dhow-shim", cgroup_}; }
  void open() {
    auto runtime = runtime::Runtime::create(loop_, pool_, runtimeOptions());
    ASSERT_TRUE(runtime.ok()) << runtime.error().message();
    runtime_ = std::move(*runtime);
    events_ = std::make_unique<client::EventRecorder>(
        loop_, client_, client::EventRecorder::Options{.component = "kubelet", .host = "n1"});
    connector_ = std::make_unique<NetConnector>(loop_);
    context_ = std::make_unique<WorkerContext>(WorkerContext{loop_,
                                                             *runtime_,
                                                             *images_,
                                                             network_,
                                                             tokens_,
                                                             objects_,
                                                             services_,
                                                             *connector_,
                                                             offload_,
                                                             client_,
                                                             *events_,
                                                             {},
                                                             {}});
    context_->node.addresses = {"127.0.0.1"};
    context_->node.cgroupParent = cgroup_;
    context_->paths = {dir_ + "/data", dir_ + "/run"};
    pods_ = std::make_unique<PodManager>(*context_, client_.of(kPods), 10);
    auto recovered = runOn(loop_, pods_->recover());
    ASSERT_TRUE(recovered.ok()) << recovered.error().message();
    pods_->start();
  }
  void close() {
    if (!pods_) return;
    runOn(loop_, pods_->stop());
    pods_.reset();
    runOn(loop_, connector_->stop());
    runOn(loop_, events_->stop());
    runOn(loop_, runtime_->stop());
    context_.reset();
    runtime_.reset();
  }

  void create(std::string_view container) {
    json::object pod =
        json::parse(R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default","uid":"u1"},
        "spec":{"nodeName":"n1","hostNetwork":true,"terminationGracePeriodSeconds":1}})")
            .get_object();
    pod["spec"].get_object()["containers"] = json::array{json::parse(container)};
    client_.seed(kPods, std::move(pod));
  }
  bool until(std::function<bool()> holds) { return runOn(loop_, eventually(&loop_, std::move(holds))); }
  json::object container() {
    ObjectPtr pod = client_.find(kPods, "default", "web");
    if (!pod) return {};
    const json::array& all = array(pod->root(), {"status", "containerStatuses"});
    return all.empty() ? json::object() : all[0].get_object();
  }
  bool ready() {
    ObjectPtr pod = client_.find(kPods, "default", "web");
    return pod && client::conditionTrue(pod->root(), "Ready");
  }
  std::string logText(int64_t attempt) {
    auto reader = runtime::LogReader::open(
        loop_, {dir_ + "/data/pods/default_web_u1/web/" + std::to_string(attempt) + ".log", false, {}, {}, {}});
    std::string out;
    while (reader.ok()) {
      auto entry = (*reader)->tryNext();
      if (!entry.ok() || !*entry) break;
      out += (*entry)->text + "\n";
    }
    return out;
  }

  RealLoop loop_;
  BlockingPool pool_{2};
  std::string dir_, cgroup_ = "/dhow-test-node-" + std::to_string(::getpid());
  client::FakeClient client_{loop_};
  FakeNetwork network_;
  FakeTokens tokens_{loop_};
  FakeObjects objects_;
  FakeServices services_;
  PoolOffload offload_{loop_, pool_};
  std::unique_ptr<image::ImageStore> store_;
  std::unique_ptr<StoreImages> images_;
  std::unique_ptr<runtime::Runtime> runtime_;
  std::unique_ptr<client::EventRecorder> events_;
  std::unique_ptr<NetConnector> connector_;
  std::unique_ptr<WorkerContext> context_;
  std::unique_ptr<PodManager> pods_;
};

TEST_F(RealPodTest, RunsRestartsAndEndsAPod) {
  const TimePoint began = loop_.now();
  create(R"({"name":"web","image":"box:1","env":[{"name":"WHO","value":"world"}],
             "command":["/bin/sh","-c","echo hello $WHO; trap 'exit 0' TERM; while read line < /dev/null; do :; done; sleep 1000 & wait"],
             "readinessProbe":{"exec":{"command":["/bin/sh","-c","exit 0"]}}})");
  ASSERT_TRUE(until([&] { return ready(); })) << json::serialize(container());
  RecordProperty("ready_us",
                 static_cast<int>(std::chrono::duration_cast<std::chrono::microseconds>(loop_.now() - began).count()));
  std::printf("bound to Ready: %.1f ms\n", std::chrono::duration<double, std::milli>(loop_.now() - began).count());
  ASSERT_TRUE(until([&] { return logText(0) == "hello world\n"; }));
  PodWorker* worker = pods_->find("default", "web");
  ASSERT_NE(worker, nullptr);
  // A killed container comes back.
  ASSERT_TRUE(runOn(loop_, worker->sandbox()->signal(worker->containers()[0].id, 9)).ok());
  ASSERT_TRUE(until([&] { return ready() && number(container(), {"restartCount"}) == 1; }))
      << json::serialize(container());
  EXPECT_EQ(number(container(), {"lastState", "terminated", "exitCode"}), 137);
  client::DeleteOptions options;
  options.gracePeriodSeconds = 5;
  ASSERT_TRUE(runOn(loop_, client_.remove(kPods, "default", "web", options)).ok());
  ASSERT_TRUE(until([&] { return client_.find(kPods, "default", "web") == nullptr && pods_->size() == 0; }));
  EXPECT_TRUE(runtime_->sandboxes().empty());
  EXPECT_TRUE(store_->snapshots().empty());
  EXPECT_FALSE(pathExists(dir_ + "/data/pods/default_web_u1/volumes"));
  EXPECT_EQ(logText(0), "hello world\n") << "logs outlive their pod";
}

TEST_F(RealPodTest, KeepsContainersAndLogsThroughARestartOfTheAgent) {
  create(
      R"({"name":"web","image":"box:1","command":["/bin/sh","-c","i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000"]})");
  ASSERT_TRUE(until([&] { return ready(); })) << json::serialize(container());
  const std::string id(text(container(), "containerID"));
  close();
  open();
  ASSERT_TRUE(until([&] { return ready() && pods_->find("default", "web") != nullptr; }));
  EXPECT_EQ(text(container(), "containerID"), id);
  EXPECT_EQ(number(container(), {"restartCount"}), 0);
  // Every line is in the file, once and in order; the form of a line is the runtime's to test.
  const std::string file = dir_ + "/data/pods/default_web_u1/web/0.log";
  ASSERT_TRUE(until([&] { return readFile(file).valueOr("").find("stdout F line 199\n") != std::string::npos; }));
  const std::string log = readFile(file).valueOr("");
  size_t at = 0;
  for (int i = 0; i < 200; ++i) {
    const size_t found = log.find("stdout F line " + std::to_string(i) + "\n", at);
    ASSERT_NE(found, std::string::npos) << "line " << i;
    at = found + 1;
  }
  auto process = runOn(loop_, pods_->find("default", "web")->processFor("web", {"/bin/sh", "-c", "exit 3"}));
  ASSERT_TRUE(process.ok()) << process.error().message();
  client_.drop(kPods, "default", "web");
  ASSERT_TRUE(until([&] { return pods_->size() == 0; }));
}

}  // namespace
}  // namespace dhow::node
