// One pod's worker over the floors in memory, in virtual time.
#pragma once

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "client/fake_client.h"
#include "fakes.h"
#include "pod_worker.h"

namespace dhow::node {

using dhow::object::resources::kPods;

class PodWorkerTest : public ::testing::Test {
 protected:
  PodWorkerTest()
      : dir_(*makeTempDir(::testing::TempDir(), "node")),
        client_(loop_),
        events_(loop_, client_, {.component = "kubelet", .host = "n1"}),
        runtime_(loop_),
        tokens_(loop_),
        context_{loop_,      runtime_, images_, network_, tokens_, objects_, services_,
                 connector_, offload_, client_, events_,  {},      {},       {}} {
    context_.node.name = "n1";
    context_.node.addresses = {"10.0.0.5"};
    context_.node.cgroupParent = "/pods";
    context_.node.dnsAddress = "10.96.0.10";
    context_.node.domain = "cluster.local";
    context_.paths.data = dir_;
    context_.paths.run = dir_ + "/run";
    runtime_.onEvent([this](const runtime::Event& event) {
      if (!worker_ || worker_->sandboxId() != event.sandboxId) return;
      if (event.kind == runtime::Event::Kind::kExited) worker_->onExit(event.containerId, event.exit);
      if (event.kind == runtime::Event::Kind::kShimGone) worker_->onSandboxGone();
    });
  }
  ~PodWorkerTest() override {
    stopWorker();
    runOn(loop_, events_.stop());
    (void)removeTree(dir_);
  }

  void stopWorker() {
    if (!worker_) return;
    subscription_.reset();
    runOn(loop_, worker_->stop());
    worker_.reset();
  }

  ObjectPtr seed(std::string_view spec) {
    json::object pod =
        json::parse(R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","namespace":"default","uid":"u1"}})")
            .get_object();
    pod["spec"] = json::parse(spec);
    pod["spec"].get_object()["nodeName"] = "n1";
    return client_.seed(kPods, std::move(pod));
  }

  void run(ObjectPtr pod, bool restored = false) {
    over_ = false;
    worker_ = std::make_unique<PodWorker>(context_, pod, [this] { over_ = true; });
    if (restored) {
      worker_->restoreFromDisk();
      if (!runtime_.sandboxes_.empty()) worker_->adopt(runtime_.sandboxes_.begin()->second);
    }
    worker_->start();
    subscription_ = client_.of(kPods).subscribe([this](const ObjectPtr&, const ObjectPtr& after) {
      if (after) {
        worker_->update(after);
      } else {
        worker_->removed();
      }
    });
    loop_.runReady();
  }
  void start(std::string_view spec) { run(seed(spec)); }

  json::object status() {
    ObjectPtr pod = client_.find(kPods, "default", "web");
    return pod ? object(pod->root(), {"status"}) : json::object();
  }
  std::string phase() { return std::string(text(status(), "phase")); }
  std::string condition(std::string_view type) {
    ObjectPtr pod = client_.find(kPods, "default", "web");
    const json::object* found = pod ? client::condition(pod->root(), type) : nullptr;
    return found ? std::string(text(*found, "status")) : "";
  }
  json::object container(std::string_view name) {
    json::object all = status();
    for (std::string_view list : {"containerStatuses", "initContainerStatuses"}) {
      const json::object* found = named(array(all, {list}), name);
      if (found) return *found;
    }
    return {};
  }
  std::string waiting(std::string_view name) {
    return std::string(text(container(name), {"state", "waiting", "reason"}));
  }
  bool happened(std::string_view reason, std::string_view message = {}) {
    for (const ObjectPtr& event : client_.all(dhow::object::resources::kEvents)) {
      if (text(event->root(), "reason") == reason &&
          text(event->root(), "message").find(message) != std::string_view::npos)
        return true;
    }
    return false;
  }
  void remove(int64_t grace) {
    client::DeleteOptions options;
    options.gracePeriodSeconds = grace;
    auto removed = runOn(loop_, client_.remove(kPods, "default", "web", options));
    EXPECT_TRUE(removed.ok());
    loop_.runReady();
  }

  SimLoop loop_;
  std::string dir_;
  client::FakeClient client_;
  client::EventRecorder events_;
  FakeRuntime runtime_;
  FakeImages images_;
  FakeNetwork network_;
  FakeTokens tokens_;
  FakeObjects objects_;
  FakeServices services_;
  FakeConnector connector_;
  FakeBarrier barrier_{loop_};
  InlineOffload offload_;
  WorkerContext context_;
  std::unique_ptr<PodWorker> worker_;
  std::unique_ptr<client::Cache::Subscription> subscription_;
  bool over_ = false;
};

inline constexpr const char* kWeb = R"({"nodeName":"n1","containers":[{"name":"web","image":"web:1"}]})";

}  // namespace dhow::node
