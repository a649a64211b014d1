#include "worker_fixture.h"

namespace dhow::node {
namespace {

using namespace std::chrono_literals;

TEST_F(PodWorkerTest, BecomesReadyWithoutAnyTimePassing) {
  const auto before = loop_.now();
  start(kWeb);
  EXPECT_EQ(loop_.now(), before);
  EXPECT_EQ(phase(), "Running");
  for (const char* type : {"PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"})
    EXPECT_EQ(condition(type), "True") << type;
  EXPECT_EQ(text(status(), "podIP"), "10.244.1.2");
  EXPECT_EQ(text(status(), "hostIP"), "10.0.0.5");
  EXPECT_EQ(text(status(), "qosClass"), "BestEffort");
  EXPECT_EQ(text(container("web"), "imageID"), "web:1@sha256:1");
  EXPECT_TRUE(text(container("web"), "containerID").starts_with("dhow://"));
  EXPECT_TRUE(happened("Pulled", "Container image \"web:1\" already present on machine"));
  EXPECT_TRUE(happened("Created", "Created container: web"));
  EXPECT_TRUE(happened("Started", "Started container web"));
  auto spec = runtime_.running("web")->spec;
  EXPECT_EQ(spec.process.args, std::vector<std::string>{"/app"});
  EXPECT_TRUE(spec.log.path.ends_with("/pods/default_web_u1/web/0.log"));
}

TEST_F(PodWorkerTest, TellsItsStateAgainToAStoreThatWasBroughtBack) {
  start(kWeb);
  client_.clearActions();
  client_.change(kPods, "default", "web", [](json::object& pod) {
    pod["status"].get_object()["podIP"] = "10.244.1.99";
    pod["status"].get_object()["containerStatuses"].get_array()[0].get_object()["containerID"] = "dhow://old";
  });
  loop_.runReady();
  EXPECT_EQ(text(status(), "podIP"), "10.244.1.2");
  EXPECT_NE(text(container("web"), "containerID"), "dhow://old");
  EXPECT_EQ(client_.actions().size(), 1u) << "and once is enough";
  EXPECT_EQ(container("web").at("restartCount"), 0);
}

TEST_F(PodWorkerTest, RestartsAtOnceThenBacksOff) {
  start(kWeb);
  runtime_.exit("web", 1);
  loop_.runReady();
  EXPECT_EQ(number(container("web"), {"restartCount"}), 1);
  EXPECT_EQ(number(container("web"), {"lastState", "terminated", "exitCode"}), 1);
  EXPECT_EQ(phase(), "Running");
  runtime_.exit("web", 1);
  loop_.runReady();
  EXPECT_EQ(waiting("web"), "CrashLoopBackOff");
  EXPECT_EQ(text(container("web"), {"state", "waiting", "message"}),
            "back-off 10s restarting failed container=web pod=web_default(u1)");
  EXPECT_EQ(text(container("web"), {"lastState", "terminated", "reason"}), "Error");
  EXPECT_TRUE(happened("BackOff", "Back-off restarting failed container web in pod web_default(u1)"));
  EXPECT_EQ(condition("Ready"), "False");
  loop_.advance(9s);
  EXPECT_EQ(runtime_.running("web"), nullptr);
  loop_.advance(2s);
  EXPECT_NE(runtime_.running("web"), nullptr);
  EXPECT_EQ(number(container("web"), {"restartCount"}), 2);
  runtime_.exit("web", 1);
  loop_.advance(19s);
  EXPECT_EQ(runtime_.running("web"), nullptr);
  loop_.advance(2s);
  EXPECT_NE(runtime_.running("web"), nullptr);
  // Ten quiet minutes, and it starts anew.
  loop_.advance(11min);
  runtime_.exit("web", 1);
  loop_.runReady();
  EXPECT_NE(runtime_.running("web"), nullptr);
}

TEST_F(PodWorkerTest, EndsWithItsContainersWhenTheyAreNotRestarted) {
  start(R"({"restartPolicy":"Never","containers":[{"name":"a","image":"web:1"},{"name":"b","image":"web:1"}]})");
  runtime_.exit("a", 0);
  loop_.runReady();
  EXPECT_EQ(phase(), "Running");
  runtime_.exit("b", 3);
  loop_.runReady();
  EXPECT_EQ(phase(), "Failed");
  EXPECT_EQ(number(container("b"), {"state", "terminated", "exitCode"}), 3);
  EXPECT_TRUE(runtime_.sandboxes_.empty());
  EXPECT_TRUE(network_.held.empty());
  EXPECT_TRUE(images_.prepared.empty());
  EXPECT_FALSE(over_) << "it stays until the API forgets it";
  remove(30);
  EXPECT_EQ(client_.find(kPods, "default", "web"), nullptr);
  EXPECT_TRUE(over_);
}

TEST_F(PodWorkerTest, SucceedsAndTellsWhy) {
  start(R"({"restartPolicy":"OnFailure","containers":[{"name":"a","image":"web:1"}]})");
  runtime_.exit("a", 1);
  loop_.runReady();
  EXPECT_EQ(phase(), "Running");
  runtime_.exit("a", 0);
  loop_.runReady();
  EXPECT_EQ(phase(), "Succeeded");
  EXPECT_EQ(condition("Initialized"), "True");
  EXPECT_EQ(condition("Ready"), "False");
}

TEST_F(PodWorkerTest, RunsInitContainersInOrderAndSidecarsBeside) {
  start(R"({"initContainers":[{"name":"one","image":"web:1"},
      {"name":"side","image":"web:1","restartPolicy":"Always","startupProbe":{"tcpSocket":{"port":80}}},
      {"name":"two","image":"web:1"}],"containers":[{"name":"web","image":"web:1"}]})");
  EXPECT_EQ(runtime_.starts, std::vector<std::string>{"one"});
  loop_.advance(100ms);
  EXPECT_EQ(phase(), "Pending");
  EXPECT_EQ(waiting("web"), "PodInitializing");
  connector_.status = 0;
  runtime_.exit("one", 0);
  loop_.runReady();
  EXPECT_EQ(runtime_.starts, (std::vector<std::string>{"one", "side"}));
  connector_.status = 200;
  loop_.advance(100ms);
  EXPECT_EQ(runtime_.starts, (std::vector<std::string>{"one", "side", "two"}));
  runtime_.exit("two", 0);
  loop_.runReady();
  EXPECT_EQ(phase(), "Running");
  EXPECT_EQ(condition("Initialized"), "True");
  EXPECT_EQ(condition("Ready"), "True");
  runtime_.exit("side", 1);
  loop_.runReady();
  EXPECT_NE(runtime_.running("side"), nullptr) << "a sidecar is restarted";
  remove(30);
  EXPECT_TRUE(over_);
}

TEST_F(PodWorkerTest, FailsWhenAnInitContainerMayNotBeRepeated) {
  start(
      R"({"restartPolicy":"Never","initContainers":[{"name":"one","image":"web:1"}],"containers":[{"name":"web","image":"web:1"}]})");
  runtime_.exit("one", 2);
  loop_.runReady();
  EXPECT_EQ(phase(), "Failed");
  EXPECT_EQ(condition("Initialized"), "False");
}

TEST_F(PodWorkerTest, PostStartHookHoldsReadinessBack) {
  start(R"({"containers":[{"name":"web","image":"web:1","lifecycle":{"postStart":{"sleep":{"seconds":4}}}}]})");
  loop_.advance(100ms);
  EXPECT_EQ(condition("Ready"), "False");
  loop_.advance(5s);
  EXPECT_EQ(condition("Ready"), "True");
}

TEST_F(PodWorkerTest, ReadinessFollowsItsProbe) {
  connector_.status = 0;
  start(R"({"containers":[{"name":"web","image":"web:1","ports":[{"name":"http","containerPort":8080}],
      "readinessProbe":{"httpGet":{"path":"/ok","port":"http"},"periodSeconds":10,"failureThreshold":2}}]})");
  EXPECT_EQ(condition("Ready"), "") << "a pod may become ready before anything is told";
  ASSERT_FALSE(connector_.gets.empty());
  EXPECT_EQ(connector_.gets[0], "http://10.244.1.2:8080/ok");
  connector_.status = 200;
  loop_.advance(20ms);
  EXPECT_EQ(condition("Ready"), "True") << "a program that needs a moment is not kept waiting";
  connector_.status = 500;
  loop_.advance(10s);
  EXPECT_EQ(condition("Ready"), "True");
  loop_.advance(10s);
  EXPECT_EQ(condition("Ready"), "False");
  EXPECT_TRUE(happened("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 500"));
  connector_.status = 200;
  loop_.advance(10s);
  EXPECT_EQ(condition("Ready"), "True");
}

TEST_F(PodWorkerTest, LivenessRestartsTheContainer) {
  start(
      R"({"containers":[{"name":"web","image":"web:1","livenessProbe":{"exec":{"command":["check"]},"periodSeconds":5,"failureThreshold":2}}]})");
  runtime_.execCode = 1;
  loop_.advance(11s);
  EXPECT_TRUE(happened("Killing", "Container web failed liveness probe, will be restarted"));
  EXPECT_EQ(number(container("web"), {"restartCount"}), 1);
  EXPECT_NE(runtime_.running("web"), nullptr);
}

TEST_F(PodWorkerTest, BacksOffFromAnImageThatCannotBePulled) {
  start(R"({"containers":[{"name":"web","image":"gone:1"}]})");
  EXPECT_EQ(phase(), "Pending");
  EXPECT_EQ(waiting("web"), "ErrImagePull");
  EXPECT_TRUE(happened("Failed", "Failed to pull image \"gone:1\": manifest unknown"));
  loop_.advance(2s);
  EXPECT_EQ(waiting("web"), "ImagePullBackOff");
  images_.registry.insert("gone:1");
  loop_.advance(9s);
  EXPECT_EQ(phase(), "Running");
  EXPECT_TRUE(happened("Pulled", "Successfully pulled image \"gone:1\" in "));
}

TEST_F(PodWorkerTest, RemovesAPodThatNeverCouldStart) {
  start(R"({"containers":[{"name":"web","image":"gone:1"}]})");
  remove(30);
  EXPECT_TRUE(over_);
  EXPECT_EQ(client_.find(kPods, "default", "web"), nullptr);
  EXPECT_TRUE(network_.held.empty());
}

TEST_F(PodWorkerTest, TellsWhenAProgramCannotBeRun) {
  runtime_.startErrors["web"] = "exec \"/app\": no such file or directory";
  start(kWeb);
  EXPECT_EQ(text(container("web"), {"lastState", "terminated", "reason"}), "StartError");
  EXPECT_EQ(number(container("web"), {"lastState", "terminated", "exitCode"}), 128);
  EXPECT_TRUE(happened("Failed", "Error: exec \"/app\": no such file or directory"));
  EXPECT_TRUE(images_.prepared.empty());
}

TEST_F(PodWorkerTest, WaitsForAConfigMapThatItsEnvironmentNeeds) {
  start(
      R"({"containers":[{"name":"web","image":"web:1","env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"cm","key":"a"}}}]}]})");
  EXPECT_EQ(waiting("web"), "CreateContainerConfigError");
  EXPECT_EQ(text(container("web"), {"state", "waiting", "message"}), "configmap \"cm\" not found");
  objects_.put({"configmaps", "default", "cm"},
               *Object::parse(R"({"kind":"ConfigMap","metadata":{"name":"cm"},"data":{"a":"x"}})"));
  loop_.runReady();
  EXPECT_EQ(phase(), "Running");
  const auto& env = runtime_.running("web")->spec.process.env;
  EXPECT_NE(std::find(env.begin(), env.end(), "A=x"), env.end());
}

TEST_F(PodWorkerTest, MakesVolumesAndFollowsTheirSources) {
  start(R"({"volumes":[{"name":"cfg","configMap":{"name":"cm"}},{"name":"tmp","emptyDir":{}}],
            "containers":[{"name":"web","image":"web:1","volumeMounts":[{"name":"cfg","mountPath":"/etc/cfg"},{"name":"tmp","mountPath":"/tmp/x"}]}]})");
  EXPECT_TRUE(happened("FailedMount", "MountVolume.SetUp failed for volume \"cfg\" : configmap \"cm\" not found"));
  EXPECT_EQ(waiting("web"), "ContainerCreating");
  objects_.put({"configmaps", "default", "cm"},
               *Object::parse(R"({"kind":"ConfigMap","metadata":{"name":"cm"},"data":{"a":"1"}})"));
  loop_.runReady();
  EXPECT_EQ(phase(), "Running");
  const std::string file = worker_->paths().volume("configMap", "cfg") + "/a";
  EXPECT_EQ(*readFile(file), "1");
  objects_.put({"configmaps", "default", "cm"},
               *Object::parse(R"({"kind":"ConfigMap","metadata":{"name":"cm"},"data":{"a":"2","b":"3"}})"));
  loop_.runReady();
  EXPECT_EQ(*readFile(file), "2");
  const std::string folder = worker_->paths().volume("configMap", "cfg");
  EXPECT_EQ(*readFile(folder + "/b"), "3");
  remove(1);
  EXPECT_TRUE(over_);
  EXPECT_FALSE(pathExists(folder));
}

TEST_F(PodWorkerTest, RefreshesServiceAccountTokens) {
  start(
      R"({"serviceAccountName":"sa","volumes":[{"name":"t","projected":{"sources":[{"serviceAccountToken":{"path":"token","expirationSeconds":600}}]}}],
            "containers":[{"name":"web","image":"web:1"}]})");
  const std::string file = worker_->paths().volume("projected", "t") + "/token";
  EXPECT_EQ(*readFile(file), "default/sa/1");
  loop_.advance(481s);
  EXPECT_EQ(*readFile(file), "default/sa/2");
}

TEST_F(PodWorkerTest, AdoptsRunningContainersAfterARestartOfTheAgent) {
  start(kWeb);
  const std::string id(text(container("web"), "containerID"));
  stopWorker();
  client_.clearActions();
  run(client_.find(kPods, "default", "web"), true);
  EXPECT_EQ(runtime_.starts.size(), 1u);
  EXPECT_EQ(text(container("web"), "containerID"), id);
  EXPECT_EQ(condition("Ready"), "True");
  for (const auto& action : client_.actions()) EXPECT_NE(action.verb, "patch") << action.str();
  EXPECT_EQ(network_.held["u1"], "10.244.1.2");
}

TEST_F(PodWorkerTest, TakesExitsThatHappenedWhileTheAgentWasAway) {
  start(kWeb);
  stopWorker();
  runtime_.exit("web", 7, true);
  run(client_.find(kPods, "default", "web"), true);
  EXPECT_EQ(number(container("web"), {"restartCount"}), 1);
  EXPECT_EQ(number(container("web"), {"lastState", "terminated", "exitCode"}), 7);
  EXPECT_NE(runtime_.running("web"), nullptr);
}

TEST_F(PodWorkerTest, RemakesAPodWhoseSandboxDied) {
  start(kWeb);
  const std::string address(text(status(), "podIP"));
  runtime_.loseSandbox(worker_->sandboxId());
  loop_.runReady();
  EXPECT_TRUE(happened("SandboxChanged"));
  EXPECT_EQ(runtime_.sandboxes_.size(), 1u);
  EXPECT_NE(runtime_.running("web"), nullptr);
  EXPECT_EQ(number(container("web"), {"restartCount"}), 1);
  EXPECT_NE(text(status(), "podIP"), address);
  const json::array addresses = array(status(), {"podIPs"});
  ASSERT_EQ(addresses.size(), 1u) << "the old one is gone";
  EXPECT_EQ(text(addresses[0].as_object(), "ip"), text(status(), "podIP"));
}

TEST_F(PodWorkerTest, ComesBackFromDiskAfterAReboot) {
  start(kWeb);
  stopWorker();
  runtime_.sandboxes_.clear();
  client_.inject = [](const auto&) { return std::optional<Error>(Error(Code::kUnavailable, "no master")); };
  auto bytes = readFile(dir_ + "/pods/default_web_u1/pod.json");
  ASSERT_TRUE(bytes.ok());
  run(*Object::parse(*bytes), true);
  EXPECT_NE(runtime_.running("web"), nullptr);
  EXPECT_EQ(runtime_.starts.size(), 2u);
  client_.inject = nullptr;
  loop_.advance(15s);
  EXPECT_EQ(number(container("web"), {"restartCount"}), 1);
  EXPECT_EQ(condition("Ready"), "True");
}

TEST_F(PodWorkerTest, DeletesWhenTheMasterComesBack) {
  start(kWeb);
  client_.inject = [](const auto& action) {
    return (action.verb == "delete" && !action.options.uid.empty()) || action.verb == "patch"
               ? std::optional<Error>(Error(Code::kUnavailable, "no master"))
               : std::nullopt;
  };
  remove(1);
  loop_.advance(30s);
  EXPECT_FALSE(over_);
  EXPECT_EQ(runtime_.running("web"), nullptr);
  client_.inject = nullptr;
  loop_.advance(11s);
  EXPECT_TRUE(over_);
}

TEST_F(PodWorkerTest, APodWhosePoliciesAreNotInForceDoesNotStart) {
  FakePolicies policies;
  context_.policies = &policies;
  policies.error = "install network policies: no memory";
  start(R"({"containers":[{"name":"app","image":"web:1"}]})");
  loop_.advance(5s);
  EXPECT_TRUE(runtime_.starts.empty());
  EXPECT_TRUE(happened("FailedCreatePodSandBox",
                       "failed to put the pod's network policies into force: install network policies: no memory"));
  EXPECT_TRUE(network_.held.empty());
  policies.error.clear();
  loop_.advance(10s);
  EXPECT_EQ(runtime_.starts.size(), 1U);
  EXPECT_EQ(policies.addresses["u1"], network_.held["u1"]);
  remove(1);
  loop_.advance(5s);
  EXPECT_TRUE(policies.addresses.empty());
  stopWorker();
}

TEST_F(PodWorkerTest, TriesTheSandboxAgain) {
  runtime_.sandboxError = "no memory";
  start(kWeb);
  EXPECT_TRUE(happened("FailedCreatePodSandBox", "no memory"));
  EXPECT_TRUE(network_.held.empty());
  runtime_.sandboxError.clear();
  loop_.advance(1s);
  EXPECT_EQ(phase(), "Running");
}

TEST_F(PodWorkerTest, UsersOfItsOwnAreTheSandboxsOrRefused) {
  constexpr std::string_view kOwn = R"({"hostUsers":false,"containers":[{"name":"web","image":"web:1"}]})";
  context_.userNamespaces = Error(Code::kUnimplemented, "Linux 5.10 has no overlays of idmapped layers");
  start(kOwn);
  EXPECT_TRUE(happened("FailedCreatePodSandBox",
                       "Failed to create pod sandbox: can't set `spec.hostUsers: false`, runtime does not support user "
                       "namespaces: Linux 5.10 has no overlays of idmapped layers"));
  EXPECT_TRUE(network_.held.empty());
  EXPECT_EQ(runtime_.created, 0);
  context_.userNamespaces = {};
  loop_.advance(1s);
  EXPECT_EQ(phase(), "Running");
  EXPECT_TRUE(runtime_.sandboxes_.begin()->second->spec_.ownUsers);
}

TEST_F(PodWorkerTest, EndsAtItsDeadline) {
  start(R"({"activeDeadlineSeconds":60,"containers":[{"name":"web","image":"web:1"}]})");
  loop_.advance(61s);
  EXPECT_EQ(phase(), "Failed");
  EXPECT_EQ(text(status(), "reason"), "DeadlineExceeded");
  EXPECT_TRUE(runtime_.sandboxes_.empty());
}

TEST_F(PodWorkerTest, ReplacesAContainerWhoseImageChanged) {
  images_.here.insert("web:2");
  start(kWeb);
  client_.change(kPods, "default", "web", [](json::object& pod) {
    pod["spec"].as_object()["containers"].as_array()[0].as_object()["image"] = "web:2";
  });
  loop_.runReady();
  EXPECT_TRUE(happened("Killing", "definition changed"));
  EXPECT_EQ(text(container("web"), "imageID"), "web:2@sha256:1");
}

}  // namespace
}  // namespace dhow::node
