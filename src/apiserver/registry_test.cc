#include "apiserver/registry.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "apiserver/local_client.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

using client::text;
namespace resources = object::resources;

json::object parse(std::string_view text) {
  return json::parse(text).as_object();
}

class RegistryTest : public testing::Test {
 protected:
  RegistryTest() {
    for (const auto& kind : kinds_.all()) {
      if (kind.stored && !kind.plural.empty() && kind.storedAsKind.empty()) caches_.add(kind.resource());
    }
    registry_ = std::make_unique<Registry>(loop_, store_, caches_, kinds_, StrategyOptions());
    client_ = std::make_unique<LocalClient>(*registry_, systemCaller("tester"));
    EXPECT_TRUE(runOn(loop_, caches_.start()).ok());
    make(resources::kNamespaces, "", R"({"metadata":{"name":"default"}})");
    make(resources::kServiceAccounts, "default", R"({"metadata":{"name":"default"}})");
  }
  ~RegistryTest() override {
    runOn(loop_, store_.close());
    runOn(loop_, caches_.stop());
  }
  Result<ObjectPtr> tryMake(const Resource& resource, std::string ns, std::string_view body) {
    return runOn(loop_, client_->create(resource, std::move(ns), parse(body), "", ""));
  }
  ObjectPtr make(const Resource& resource, std::string ns, std::string_view body) {
    auto made = tryMake(resource, std::move(ns), body);
    CHECK(made.ok(), "{}", made.error().message());
    return *made;
  }
  Result<ObjectPtr> patch(const Resource& resource, std::string ns, std::string name, std::string_view body,
                          std::string sub = "", PatchType type = PatchType::kMerge) {
    return runOn(loop_,
                 client_->patch(resource, std::move(ns), std::move(name), std::move(sub), type, json::parse(body)));
  }
  Result<ObjectPtr> get(const Resource& resource, std::string ns, std::string name) {
    return runOn(loop_, client_->get(resource, std::move(ns), std::move(name)));
  }
  Result<Outcome> remove(const Resource& resource, std::string ns, std::string name, DeleteQuery query = {}) {
    return runOn(
        loop_, registry_->remove(context(), *kinds_.find(resource), std::move(ns), std::move(name), std::move(query)));
  }
  Context context() {
    Context context;
    context.fieldManager = "tester";
    return context;
  }
  ObjectPtr makePod(std::string name) {
    return make(
        resources::kPods, "default",
        fmt::format(
            R"({{"metadata":{{"name":"{}","labels":{{"app":"web"}}}},"spec":{{"containers":[{{"name":"c","image":"busybox"}}]}}}})",
            name));
  }

  SimLoop loop_;
  store::MemoryStore store_{loop_};
  const object::Kinds& kinds_ = object::Kinds::builtin();
  WatchCache caches_{loop_, store_};
  std::unique_ptr<Registry> registry_;
  std::unique_ptr<LocalClient> client_;
};

TEST_F(RegistryTest, CreateFillsInWhatTheServerGives) {
  auto map = make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"},"data":{"k":"v"}})");
  EXPECT_EQ(map->kind(), "ConfigMap");
  EXPECT_EQ(map->uid().size(), 36u);
  EXPECT_EQ(map->ns(), "default");
  EXPECT_GT(map->resourceVersion(), 0u);
  EXPECT_EQ(text(map->metadata(), "creationTimestamp"), "2026-01-01T00:00:00Z");
  EXPECT_EQ(client::array(map->metadata(), {"managedFields"}).size(), 1u);
  EXPECT_EQ(get(resources::kConfigMaps, "default", "a").value(), map)
      << "the cache holds the very object that was answered";
}

TEST_F(RegistryTest, RefusesATakenNameAMissingNamespaceAndAMissingName) {
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"}})");
  auto taken = tryMake(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"}})");
  EXPECT_EQ(taken.error().code(), Code::kAlreadyExists);
  EXPECT_EQ(taken.error().message(), "configmaps \"a\" already exists");
  auto nowhere = tryMake(resources::kConfigMaps, "nowhere", R"({"metadata":{"name":"a"}})");
  EXPECT_EQ(nowhere.error().code(), Code::kNotFound);
  EXPECT_EQ(nowhere.error().message(), "namespaces \"nowhere\" not found");
  auto nameless = tryMake(resources::kConfigMaps, "default", R"({"metadata":{}})");
  EXPECT_EQ(nameless.error().code(), Code::kInvalid);
  EXPECT_EQ(get(resources::kConfigMaps, "default", "b").error().message(), "configmaps \"b\" not found");
}

TEST_F(RegistryTest, GenerateNameGivesDifferentNames) {
  auto a = make(resources::kConfigMaps, "default", R"({"metadata":{"generateName":"x-"}})");
  auto b = make(resources::kConfigMaps, "default", R"({"metadata":{"generateName":"x-"}})");
  EXPECT_TRUE(a->name().starts_with("x-"));
  EXPECT_EQ(a->name().size(), 7u);
  EXPECT_NE(a->name(), b->name());
}

TEST_F(RegistryTest, UpdateWithAnOldVersionIsAConflictInKubernetesWords) {
  auto map = make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"},"data":{"k":"v"}})");
  json::object body = map->root();
  body["data"].get_object()["k"] = "w";
  auto updated = runOn(loop_, client_->update(resources::kConfigMaps, "default", "a", "", body));
  ASSERT_TRUE(updated.ok()) << updated.error().message();
  auto late = runOn(loop_, client_->update(resources::kConfigMaps, "default", "a", "", body));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code(), Code::kConflict);
  EXPECT_EQ(late.error().message(),
            "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your "
            "changes to the latest version and try again");
}

TEST_F(RegistryTest, AnUpdateThatChangesNothingIsNotWritten) {
  auto map = make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"},"data":{"k":"v"}})");
  auto revision = store_.revision();
  auto again = patch(resources::kConfigMaps, "default", "a", R"({"data":{"k":"v"}})");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(store_.revision(), revision);
  EXPECT_EQ(*again, map);
}

TEST_F(RegistryTest, GenerationFollowsTheSpecOnly) {
  std::string_view body = R"({"metadata":{"name":"web"},"spec":{"replicas":1,"selector":{"matchLabels":{"app":"web"}},
    "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"nginx"}]}}}})";
  auto deployment = make(resources::kDeployments, "default", body);
  EXPECT_EQ(client::number(deployment->metadata(), {"generation"}), 1);
  auto labelled = patch(resources::kDeployments, "default", "web", R"({"metadata":{"labels":{"a":"b"}}})");
  EXPECT_EQ(client::number((*labelled)->metadata(), {"generation"}), 1);
  auto status =
      patch(resources::kDeployments, "default", "web", R"({"status":{"replicas":1},"spec":{"replicas":9}})", "status");
  ASSERT_TRUE(status.ok()) << status.error().message();
  EXPECT_EQ(client::number((*status)->root(), {"spec", "replicas"}), 1);
  EXPECT_EQ(client::number((*status)->root(), {"status", "replicas"}), 1);
  auto ignored = patch(resources::kDeployments, "default", "web", R"({"status":{"replicas":7}})");
  EXPECT_EQ(client::number((*ignored)->root(), {"status", "replicas"}), 1);
  auto scaled = patch(resources::kDeployments, "default", "web", R"({"spec":{"replicas":3}})", "scale");
  ASSERT_TRUE(scaled.ok()) << scaled.error().message();
  EXPECT_EQ((*scaled)->kind(), "Scale");
  EXPECT_EQ(client::number((*scaled)->root(), {"spec", "replicas"}), 3);
  EXPECT_EQ(text((*scaled)->root(), {"status", "selector"}), "app=web");
  auto after = get(resources::kDeployments, "default", "web");
  EXPECT_EQ(client::number((*after)->metadata(), {"generation"}), 2);
}

TEST_F(RegistryTest, PodsAreBornPendingWithAccountTokenAndTolerations) {
  auto pod = makePod("web");
  EXPECT_EQ(text(pod->root(), {"status", "phase"}), "Pending");
  EXPECT_EQ(text(pod->root(), {"status", "qosClass"}), "BestEffort");
  EXPECT_EQ(text(pod->root(), {"spec", "serviceAccountName"}), "default");
  EXPECT_EQ(client::array(pod->root(), {"spec", "tolerations"}).size(), 2u);
  const auto& volumes = client::array(pod->root(), {"spec", "volumes"});
  ASSERT_EQ(volumes.size(), 1u);
  EXPECT_TRUE(text(volumes[0].as_object(), "name").starts_with("kube-api-access-"));
}

TEST_F(RegistryTest, BindingSetsTheNodeOnce) {
  makePod("web");
  auto bind = [&](std::string node) {
    json::object binding{{"target", json::object{{"kind", "Node"}, {"name", node}}}};
    return runOn(loop_, client_->create(resources::kPods, "default", binding, "web", "binding"));
  };
  EXPECT_TRUE(bind("n1").ok());
  auto pod = get(resources::kPods, "default", "web").value();
  EXPECT_EQ(text(pod->root(), {"spec", "nodeName"}), "n1");
  EXPECT_TRUE(client::conditionTrue(pod->root(), "PodScheduled"));
  auto again = bind("n2");
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().message(),
            "Operation cannot be fulfilled on pods/binding \"web\": pod web is already assigned to node \"n1\"");
}

TEST_F(RegistryTest, BindingGivesThePodItsNodesTopology) {
  json::object node{
      {"apiVersion", "v1"},
      {"kind", "Node"},
      {"metadata",
       json::object{{"name", "n1"}, {"labels", json::object{{"topology.kubernetes.io/zone", "z1"}, {"disk", "ssd"}}}}}};
  ASSERT_TRUE(runOn(loop_, client_->create(resources::kNodes, "", node, "", "")).ok());
  makePod("web");
  json::object binding{{"target", json::object{{"name", "n1"}}}};
  ASSERT_TRUE(runOn(loop_, client_->create(resources::kPods, "default", binding, "web", "binding")).ok());
  auto pod = get(resources::kPods, "default", "web").value();
  EXPECT_EQ(pod->label("topology.kubernetes.io/zone"), "z1");
  EXPECT_EQ(pod->label("disk"), "");
}

TEST_F(RegistryTest, AScheduledPodGoesAfterItsGraceAnUnscheduledOneAtOnce) {
  makePod("free");
  EXPECT_TRUE(remove(resources::kPods, "default", "free").value().gone);
  EXPECT_EQ(get(resources::kPods, "default", "free").error().code(), Code::kNotFound);
  makePod("bound");
  json::object binding{{"target", json::object{{"name", "n1"}}}};
  ASSERT_TRUE(runOn(loop_, client_->create(resources::kPods, "default", binding, "bound", "binding")).ok());
  auto outcome = remove(resources::kPods, "default", "bound").value();
  EXPECT_FALSE(outcome.gone);
  EXPECT_EQ(text(outcome.object->metadata(), "deletionTimestamp"), "2026-01-01T00:00:30Z");
  EXPECT_EQ(client::number(outcome.object->metadata(), {"deletionGracePeriodSeconds"}), 30);
  DeleteQuery now;
  now.gracePeriodSeconds = 5;
  outcome = remove(resources::kPods, "default", "bound", now).value();
  EXPECT_EQ(text(outcome.object->metadata(), "deletionTimestamp"), "2026-01-01T00:00:05Z");
  now.gracePeriodSeconds = 0;
  EXPECT_TRUE(remove(resources::kPods, "default", "bound", now).value().gone);
}

TEST_F(RegistryTest, ThePlaceAndTheContainersOfAPodDoNotChangeInPlace) {
  makePod("web");
  auto moved = patch(resources::kPods, "default", "web", R"({"spec":{"nodeName":"n1"}})");
  EXPECT_EQ(moved.error().code(), Code::kInvalid);
  EXPECT_TRUE(moved.error().message().starts_with(
      "Pod \"web\" is invalid: spec: Forbidden: pod updates may not change fields other than"))
      << moved.error().message();
  EXPECT_TRUE(patch(resources::kPods, "default", "web", R"({"spec":{"containers":[{"name":"c","image":"busybox:2"}]}})",
                    "", PatchType::kStrategicMerge)
                  .ok());
  auto debug = patch(resources::kPods, "default", "web",
                     R"({"spec":{"ephemeralContainers":[{"name":"d","image":"i"}]}})", "", PatchType::kStrategicMerge);
  EXPECT_EQ(debug.error().code(), Code::kInvalid);
  auto resized = patch(resources::kPods, "default", "web",
                       R"({"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}]}})", "resize",
                       PatchType::kStrategicMerge);
  ASSERT_TRUE(resized.ok()) << resized.error().message();
  const auto& container = client::array((*resized)->root(), {"spec", "containers"})[0].as_object();
  EXPECT_EQ(text(container, {"resources", "limits", "cpu"}), "1");
  EXPECT_EQ(text(container, {"image"}), "busybox:2");
}

TEST_F(RegistryTest, FinalizersHoldADeletedObjectUntilTheyAreGone) {
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a","finalizers":["example.com/hold"]}})");
  EXPECT_FALSE(remove(resources::kConfigMaps, "default", "a").value().gone);
  EXPECT_TRUE(get(resources::kConfigMaps, "default", "a").value()->deleting());
  auto added = patch(resources::kConfigMaps, "default", "a",
                     R"({"metadata":{"finalizers":["example.com/hold","example.com/more"]}})");
  EXPECT_EQ(added.error().code(), Code::kInvalid);
  EXPECT_TRUE(patch(resources::kConfigMaps, "default", "a", R"({"metadata":{"finalizers":null}})").ok());
  EXPECT_EQ(get(resources::kConfigMaps, "default", "a").error().code(), Code::kNotFound);
}

TEST_F(RegistryTest, PreconditionsGuardADelete) {
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"}})");
  DeleteQuery query;
  query.uid = "other";
  EXPECT_EQ(remove(resources::kConfigMaps, "default", "a", query).error().code(), Code::kConflict);
  EXPECT_TRUE(get(resources::kConfigMaps, "default", "a").ok());
}

TEST_F(RegistryTest, ANamespaceIsTerminatingUntilItIsFinalized) {
  make(resources::kNamespaces, "", R"({"metadata":{"name":"team"}})");
  EXPECT_FALSE(remove(resources::kNamespaces, "", "team").value().gone);
  auto ns = get(resources::kNamespaces, "", "team").value();
  EXPECT_EQ(text(ns->root(), {"status", "phase"}), "Terminating");
  EXPECT_EQ(ns->label("kubernetes.io/metadata.name"), "team");
  auto refused = tryMake(resources::kConfigMaps, "team", R"({"metadata":{"name":"a"}})");
  EXPECT_EQ(refused.error().code(), Code::kPermissionDenied);
  EXPECT_EQ(
      refused.error().message(),
      "configmaps \"a\" is forbidden: unable to create new content in namespace team because it is being terminated");
  json::object body = ns->root();
  body["spec"].get_object()["finalizers"] = json::array();
  ASSERT_TRUE(runOn(loop_, client_->update(resources::kNamespaces, "", "team", "finalize", body)).ok());
  EXPECT_EQ(get(resources::kNamespaces, "", "team").error().code(), Code::kNotFound);
  EXPECT_EQ(remove(resources::kNamespaces, "", "default").error().code(), Code::kPermissionDenied);
}

TEST_F(RegistryTest, ServicesGetAddressesAndNodePortsOnce) {
  auto a = make(resources::kServices, "default",
                R"({"metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"port":80}]}})");
  auto ip = std::string(text(a->root(), {"spec", "clusterIP"}));
  EXPECT_TRUE(ip.starts_with("10.96.")) << ip;
  auto port = client::number(client::array(a->root(), {"spec", "ports"})[0].as_object(), {"nodePort"}, 0);
  EXPECT_GE(port, 30000);
  EXPECT_LE(port, 32767);
  auto clash =
      tryMake(resources::kServices, "default",
              fmt::format(R"({{"metadata":{{"name":"b"}},"spec":{{"clusterIP":"{}","ports":[{{"port":80}}]}}}})", ip));
  ASSERT_FALSE(clash.ok());
  EXPECT_EQ(clash.error().message(), fmt::format("Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"{0}\"]: "
                                                 "failed to allocate IP {0}: provided IP is already allocated",
                                                 ip));
  EXPECT_TRUE(remove(resources::kServices, "default", "a").ok());
  EXPECT_TRUE(
      tryMake(resources::kServices, "default",
              fmt::format(R"({{"metadata":{{"name":"b"}},"spec":{{"clusterIP":"{}","ports":[{{"port":80}}]}}}})", ip))
          .ok());
}

Task<> makeInto(LocalClient* client, std::string body, Result<ObjectPtr>* into) {
  *into = co_await client->create(resources::kServices, "default", parse(body), "", "");
}

TEST_F(RegistryTest, ARefusedServiceLeavesAloneWhatAnotherWriteHasReserved) {
  StrategyOptions options;
  options.serviceRanges = {"10.96.0.0/30"};  // of two addresses
  int writes = 0;
  auto count = [&](const store::Txn&) {
    ++writes;
    return store::MemoryStore::Fault::kNone;
  };
  store::MemoryStore slow(loop_, {.commitDelay = std::chrono::milliseconds(10), .fault = count});
  WatchCache caches(loop_, slow);
  for (const auto& kind : kinds_.all()) {
    if (kind.stored && !kind.plural.empty() && kind.storedAsKind.empty()) caches.add(kind.resource());
  }
  Registry small(loop_, slow, caches, kinds_, options);
  LocalClient client(small, systemCaller("tester"));
  EXPECT_TRUE(runOn(loop_, caches.start()).ok());
  EXPECT_TRUE(
      runOn(loop_, client.create(resources::kNamespaces, "", parse(R"({"metadata":{"name":"default"}})"), "", ""))
          .ok());
  auto body = [](const char* name, const char* address) {
    return fmt::format(R"({{"metadata":{{"name":"{}"}},"spec":{{"ports":[{{"port":80}}]{}}}}})", name, address);
  };
  writes = 0;
  std::vector<Result<ObjectPtr>> made(4, Error(Code::kInternal, "still on its way"));
  spawn(loop_, makeInto(&client, body("a", R"(,"clusterIP":"10.96.0.1")"), &made[0]));
  spawn(loop_, makeInto(&client, body("b", R"(,"clusterIP":"10.96.0.1")"), &made[1]));
  spawn(loop_, makeInto(&client, body("c", ""), &made[2]));
  spawn(loop_, makeInto(&client, body("d", ""), &made[3]));
  loop_.advance(std::chrono::seconds(1));
  runOn(loop_, slow.close());
  runOn(loop_, caches.stop());
  ASSERT_TRUE(made[0].ok() && made[2].ok());
  EXPECT_EQ(text((*made[2])->root(), {"spec", "clusterIP"}), "10.96.0.2");
  ASSERT_FALSE(made[1].ok() || made[3].ok());
  EXPECT_NE(made[1].error().message().find("provided IP is already allocated"), std::string::npos);
  EXPECT_EQ(made[3].error().message(), "failed to allocate a serviceIP: range is full");
  EXPECT_EQ(writes, 2) << "nobody tried what the store would have refused";
}

TEST_F(RegistryTest, HealthCheckPortComesAndGoesWithThePolicy) {
  auto made = make(
      resources::kServices, "default",
      R"({"metadata":{"name":"a"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","ports":[{"port":80}]}})");
  auto portOf = [](const ObjectPtr& service) {
    return client::number(service->root(), {"spec", "healthCheckNodePort"}, 0);
  };
  const int64_t port = portOf(made);
  EXPECT_GE(port, 30000);
  EXPECT_LE(port, 32767);
  EXPECT_NE(port, client::number(client::array(made->root(), {"spec", "ports"})[0].as_object(), {"nodePort"}, 0));
  json::object same = made->root();
  same["spec"].as_object().erase("healthCheckNodePort");
  EXPECT_EQ(portOf(runOn(loop_, client_->update(resources::kServices, "default", "a", "", same)).value()), port);
  auto moved = patch(resources::kServices, "default", "a", R"({"spec":{"healthCheckNodePort":31999}})");
  ASSERT_FALSE(moved.ok());
  EXPECT_NE(moved.error().message().find("spec.healthCheckNodePort: Invalid value: 31999: field is immutable"),
            std::string::npos)
      << moved.error().message();
  const std::string wanting = fmt::format(
      R"({{"metadata":{{"name":"b"}},"spec":{{"type":"NodePort","ports":[{{"port":80,"nodePort":{}}}]}}}})", port);
  EXPECT_FALSE(tryMake(resources::kServices, "default", wanting).ok());
  auto open = patch(resources::kServices, "default", "a", R"({"spec":{"externalTrafficPolicy":"Cluster"}})");
  ASSERT_TRUE(open.ok()) << open.error().message();
  EXPECT_EQ(portOf(*open), 0);
  EXPECT_TRUE(tryMake(resources::kServices, "default", wanting).ok());
}

TEST_F(RegistryTest, ChangesOfTypeGiveBackWhatTheTypeHad) {
  auto made = make(
      resources::kServices, "default",
      R"({"metadata":{"name":"a"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","loadBalancerClass":"example.com/x","ports":[{"port":80}]}})");
  const std::string ip(text(made->root(), {"spec", "clusterIP"}));
  auto plain = patch(resources::kServices, "default", "a", R"({"spec":{"type":"ClusterIP"}})");
  ASSERT_TRUE(plain.ok()) << plain.error().message();
  EXPECT_EQ(text((*plain)->root(), {"spec", "clusterIP"}), ip);
  for (auto field :
       {"healthCheckNodePort", "externalTrafficPolicy", "loadBalancerClass", "allocateLoadBalancerNodePorts"})
    EXPECT_FALSE(client::has((*plain)->root(), {"spec", field})) << field;
  EXPECT_FALSE(client::array((*plain)->root(), {"spec", "ports"})[0].as_object().contains("nodePort"));
  auto alias =
      patch(resources::kServices, "default", "a", R"({"spec":{"type":"ExternalName","externalName":"example.com"}})");
  ASSERT_TRUE(alias.ok()) << alias.error().message();
  EXPECT_FALSE(client::has((*alias)->root(), {"spec", "clusterIP"}));
  EXPECT_FALSE(client::has((*alias)->root(), {"spec", "ipFamilies"}));
  EXPECT_TRUE(
      tryMake(resources::kServices, "default",
              fmt::format(R"({{"metadata":{{"name":"b"}},"spec":{{"clusterIP":"{}","ports":[{{"port":80}}]}}}})", ip))
          .ok());
  auto back = patch(resources::kServices, "default", "a", R"({"spec":{"type":"ClusterIP","externalName":null}})");
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_NE(text((*back)->root(), {"spec", "clusterIP"}), ip);
}

TEST_F(RegistryTest, NodePortsAreSharedByProtocolsAndLeftOutWhenUnwanted) {
  auto both =
      make(resources::kServices, "default",
           R"({"metadata":{"name":"dns"},"spec":{"type":"NodePort","ports":[{"name":"u","port":53,"protocol":"UDP"},
    {"name":"t","port":53,"protocol":"TCP"}]}})");
  auto portOf = [](const ObjectPtr& service, size_t i) {
    return client::number(client::array(service->root(), {"spec", "ports"})[i].as_object(), {"nodePort"}, 0);
  };
  EXPECT_EQ(portOf(both, 0), portOf(both, 1));
  auto twice =
      tryMake(resources::kServices, "default",
              R"({"metadata":{"name":"x"},"spec":{"type":"NodePort","ports":[{"name":"a","port":1,"nodePort":30100},
    {"name":"b","port":2,"nodePort":30100}]}})");
  ASSERT_FALSE(twice.ok());
  EXPECT_NE(twice.error().message().find("spec.ports[1].nodePort: Duplicate value: 30100"), std::string::npos)
      << twice.error().message();
  auto none = make(resources::kServices, "default",
                   R"({"metadata":{"name":"lb"},"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,
    "ports":[{"name":"a","port":80},{"name":"b","port":81,"nodePort":30100}]}})");
  EXPECT_EQ(portOf(none, 0), 0);
  EXPECT_EQ(portOf(none, 1), 30100) << "asked for";
}

TEST_F(RegistryTest, SecretsTakePlainStrings) {
  auto secret = make(resources::kSecrets, "default", R"({"metadata":{"name":"s"},"stringData":{"k":"v"}})");
  EXPECT_EQ(text(secret->root(), {"data", "k"}), "dg==");
  EXPECT_FALSE(secret->root().contains("stringData"));
  EXPECT_EQ(text(secret->root(), {"type"}), "Opaque");
}

TEST_F(RegistryTest, PodLabelsOfANamespaceMayBeImmutable) {
  patch(resources::kNamespaces, "", "default", R"({"metadata":{"labels":{"dhow.io/pod-labels":"immutable"}}})").value();
  makePod("web");
  auto refused = patch(resources::kPods, "default", "web", R"({"metadata":{"labels":{"app":"other"}}})");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kPermissionDenied);
  EXPECT_NE(refused.error().message().find("delete the pod and create it"), std::string::npos);
}

TEST_F(RegistryTest, ListsPageByPageWithSelectors) {
  for (int i = 0; i < 5; ++i)
    make(resources::kConfigMaps, "default",
         fmt::format(R"({{"metadata":{{"name":"m{}","labels":{{"odd":"{}"}}}}}})", i, i % 2));
  ListQuery query;
  query.ns = "default";
  query.limit = 2;
  const auto& kind = *kinds_.find(resources::kConfigMaps);
  auto page = runOn(loop_, registry_->list(kind, query)).value();
  ASSERT_EQ(page.items.size(), 2u);
  EXPECT_EQ(page.remaining, 3);
  query.continueToken = page.continueToken;
  query.limit = 0;
  page = runOn(loop_, registry_->list(kind, query)).value();
  ASSERT_EQ(page.items.size(), 3u);
  EXPECT_EQ(page.items[0]->name(), "m2");
  query = {};
  query.labelSelector = "odd=1";
  EXPECT_EQ(runOn(loop_, registry_->list(kind, query)).value().items.size(), 2u);
  query.labelSelector = "";
  query.fieldSelector = "metadata.name=m3";
  EXPECT_EQ(runOn(loop_, registry_->list(kind, query)).value().items.size(), 1u);
  query.fieldSelector = "spec.color=red";
  EXPECT_EQ(runOn(loop_, registry_->list(kind, query)).error().code(), Code::kBadRequest);
}

TEST_F(RegistryTest, AWatchSeesObjectsEnterAndLeaveItsSelector) {
  using Type = client::WatchEvent::Type;
  client::ListOptions options{"default", "app=web", ""};
  auto before = std::to_string(store_.revision());
  auto watcher = runOn(loop_, client_->watch(resources::kConfigMaps, options, before)).value();
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a","labels":{"app":"web"}}})");
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"other"}})");
  patch(resources::kConfigMaps, "default", "a", R"({"data":{"k":"v"}})").value();
  auto left = patch(resources::kConfigMaps, "default", "a", R"({"metadata":{"labels":{"app":"db"}}})").value();
  auto next = [&] { return runOn(loop_, watcher->next()).value(); };
  EXPECT_EQ(next().type, Type::kAdded);
  EXPECT_EQ(next().type, Type::kModified);
  auto gone = next();
  EXPECT_EQ(gone.type, Type::kDeleted);
  EXPECT_EQ(gone.object->label("app"), "web") << "what the watcher last saw";
  EXPECT_EQ(gone.object->resourceVersion(), left->resourceVersion());
}

TEST_F(RegistryTest, WhatTheWindowHasLostAWatchReadsFromTheStore) {
  using Type = client::WatchEvent::Type;
  auto first = std::to_string(store_.revision());
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a","labels":{"app":"web"}}})");
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"other"}})");
  for (int i = 0; i < 600; ++i)
    patch(resources::kConfigMaps, "default", "a", fmt::format(R"({{"data":{{"k":"{}"}}}})", i)).value();
  patch(resources::kConfigMaps, "default", "a", R"({"metadata":{"labels":{"app":"db"}}})").value();
  patch(resources::kConfigMaps, "default", "a", R"({"metadata":{"labels":{"app":"web"}}})").value();
  auto removed = remove(resources::kConfigMaps, "default", "a").value().object;
  loop_.advance(std::chrono::seconds(11));
  // What is older than that leaves the window with the next change, of whichever kind.
  make(resources::kNamespaces, "", R"({"metadata":{"name":"another"}})");
  client::ListOptions options{"default", "app=web", ""};
  auto watcher = runOn(loop_, client_->watch(resources::kConfigMaps, options, first)).value();
  auto next = [&] { return runOn(loop_, watcher->next()).value(); };
  EXPECT_EQ(next().type, Type::kAdded);
  for (int i = 0; i < 600; ++i) {
    auto event = next();
    ASSERT_EQ(event.type, Type::kModified);
    ASSERT_EQ(text(event.object->root(), {"data", "k"}), std::to_string(i));
  }
  auto left = next();
  EXPECT_EQ(left.type, Type::kDeleted);
  EXPECT_EQ(left.object->label("app"), "web");
  auto back = next();
  EXPECT_EQ(back.type, Type::kAdded);
  EXPECT_GT(back.object->resourceVersion(), left.object->resourceVersion());
  auto gone = next();
  EXPECT_EQ(gone.type, Type::kDeleted);
  EXPECT_EQ(gone.object->resourceVersion(), removed->resourceVersion());
  // It goes on with what happens now.
  auto made = make(resources::kConfigMaps, "default", R"({"metadata":{"name":"b","labels":{"app":"web"}}})");
  EXPECT_EQ(next().object->resourceVersion(), made->resourceVersion());
  // Until it has been compacted.
  ASSERT_TRUE(runOn(loop_, store_.compact(store_.revision() - 10)).ok());
  EXPECT_EQ(runOn(loop_, client_->watch(resources::kConfigMaps, {}, first)).error().code(), Code::kExpired);
}

TEST_F(RegistryTest, AWatchThatFallsBehindTheWindowMissesNothing) {
  auto watcher = runOn(loop_, client_->watch(resources::kConfigMaps, {}, std::to_string(store_.revision()))).value();
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"}})");
  for (int i = 0; i < 1100; ++i)
    patch(resources::kConfigMaps, "default", "a", fmt::format(R"({{"data":{{"k":"{}"}}}})", i)).value();
  auto next = [&] { return runOn(loop_, watcher->next()).value(); };
  EXPECT_EQ(next().type, client::WatchEvent::Type::kAdded);
  for (int i = 0; i < 1100; ++i) ASSERT_EQ(text(next().object->root(), {"data", "k"}), std::to_string(i));
  watcher->close();
  EXPECT_EQ(runOn(loop_, watcher->next()).error().code(), Code::kCancelled);
}

TEST_F(RegistryTest, EventsAreKeptEncodedAndLookAsTheyWereWritten) {
  auto watcher = runOn(loop_, client_->watch(resources::kEvents, {}, std::to_string(store_.revision()))).value();
  auto made =
      make(resources::kEvents, "default",
           R"({"metadata":{"name":"e"},"involvedObject":{"kind":"Pod","name":"p"},"reason":"Pulled","count":1})");
  EXPECT_EQ(get(resources::kEvents, "default", "e").value()->bytes(), made->bytes());
  EXPECT_EQ(runOn(loop_, watcher->next()).value().object->bytes(), made->bytes());
  auto again = patch(resources::kEvents, "default", "e", R"({"count":2})").value();
  EXPECT_EQ(runOn(loop_, watcher->next()).value().type, client::WatchEvent::Type::kModified);
  ListQuery query;
  query.ns = "default";
  query.fieldSelector = "involvedObject.name=p";
  auto listed = runOn(loop_, registry_->list(*kinds_.find(resources::kEvents), query)).value();
  ASSERT_EQ(listed.items.size(), 1u);
  EXPECT_EQ(listed.items[0]->bytes(), again->bytes());
  const Resource other{"events.k8s.io", "v1", "events"};
  auto initial = runOn(loop_, client_->watch(other, {}, "0")).value();
  auto first = runOn(loop_, initial->next()).value().object;
  EXPECT_EQ(first->apiVersion(), "events.k8s.io/v1");
  EXPECT_EQ(text(first->root(), {"regarding", "name"}), "p");
  std::vector<std::string> seen;
  auto subscription = caches_.of(resources::kEvents).subscribe([&](const ObjectPtr&, const ObjectPtr& after) {
    seen.push_back(after ? std::string(text(after->root(), "reason")) : "gone");
  });
  remove(resources::kEvents, "default", "e").value();
  EXPECT_EQ(seen, (std::vector<std::string>{"Pulled", "gone"}));
  EXPECT_EQ(runOn(loop_, watcher->next()).value().type, client::WatchEvent::Type::kDeleted);
  EXPECT_EQ(get(resources::kEvents, "default", "e").error().code(), Code::kNotFound);
}

Task<> countUp(LocalClient* client, std::string key) {
  for (int i = 0; i < 10; ++i) {
    json::object change{{"data", json::object{{key, std::to_string(i)}}}};
    auto done = co_await client->patch(resources::kConfigMaps, "default", "a", "", PatchType::kMerge, change);
    CHECK(done.ok(), "{}", done.error().message());
  }
}
Task<> countAll(Loop& loop, LocalClient* client) {
  Gate gate(loop);
  for (auto key : {"a", "b", "c", "d"}) gate.spawn(countUp(client, key));
  co_await gate.close();
}

TEST_F(RegistryTest, PatchesOfManyWritersAreAllKept) {
  make(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"}})");
  runOn(loop_, countAll(loop_, client_.get()));
  auto map = get(resources::kConfigMaps, "default", "a").value();
  for (auto key : {"a", "b", "c", "d"}) EXPECT_EQ(text(map->root(), {"data", key}), "9");
}

TEST_F(RegistryTest, DryRunChangesNothing) {
  auto dry = context();
  dry.dryRun = true;
  const auto& kind = *kinds_.find(resources::kConfigMaps);
  auto revision = store_.revision();
  EXPECT_TRUE(runOn(loop_, registry_->create(dry, kind, "default", parse(R"({"metadata":{"name":"a"}})"))).ok());
  EXPECT_EQ(store_.revision(), revision);
}

TEST_F(RegistryTest, ApplyCreatesThenOwnsItsFields) {
  auto applied = patch(resources::kConfigMaps, "default", "a",
                       R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v","l":"w"}})", "",
                       PatchType::kApply);
  ASSERT_TRUE(applied.ok()) << applied.error().message();
  auto revision = store_.revision();
  patch(resources::kConfigMaps, "default", "a",
        R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v","l":"w"}})", "",
        PatchType::kApply)
      .value();
  EXPECT_EQ(store_.revision(), revision) << "applying what already holds changes nothing";
  auto less = patch(resources::kConfigMaps, "default", "a",
                    R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"v"}})", "",
                    PatchType::kApply);
  ASSERT_TRUE(less.ok());
  EXPECT_EQ(text((*less)->root(), {"data", "l"}), "");
}

TEST_F(RegistryTest, AFailedStoreGivesUnavailableAndKeepsServingReads) {
  makePod("web");
  store_.breakDown();
  EXPECT_EQ(tryMake(resources::kConfigMaps, "default", R"({"metadata":{"name":"a"}})").error().code(),
            Code::kUnavailable);
  EXPECT_TRUE(get(resources::kPods, "default", "web").ok());
}

}  // namespace
}  // namespace dhow::apiserver
