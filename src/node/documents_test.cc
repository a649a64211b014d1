// What the agent makes of documents: environment, volumes, files, specifications, services.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "base/files.h"
#include "dns_config.h"
#include "handler.h"
#include "pod_status.h"
#include "run_spec.h"
#include "services.h"
#include "stream_session.h"
#include "volume_files.h"

namespace dhow::node {
namespace {

json::object parse(std::string_view text) {
  return json::parse(text).get_object();
}
ObjectPtr make(std::string_view text) {
  return *Object::parse(text);
}

FieldContext contextOf(const json::object& pod) {
  FieldContext context;
  context.pod = &pod;
  context.podIps = {"10.244.1.7"};
  context.hostIps = {"10.0.0.5"};
  context.allocatable = {{"cpu", "4"}, {"memory", "8Gi"}};
  context.find = [](std::string_view kind, std::string_view name) -> ObjectPtr {
    if (name != "here") return nullptr;
    if (kind == "secrets") return make(R"({"kind":"Secret","metadata":{"name":"here"},"data":{"pw":"c2VjcmV0"}})");
    return make(
        R"({"kind":"ConfigMap","metadata":{"name":"here"},"data":{"a":"1","b":"2"},"binaryData":{"c":"AAE="}})");
  };
  return context;
}

std::string valueOf(const EnvList& list, std::string_view name) {
  for (const auto& [known, value] : list) {
    if (known == name) return value;
  }
  return "<none>";
}

const json::object kPod = parse(
    R"({"metadata":{"name":"web-0","namespace":"shop","uid":"u","labels":{"app":"web"},"annotations":{"k":"a \"b\""}},
  "spec":{"nodeName":"n1","serviceAccountName":"sa","subdomain":"web","hostAliases":[{"ip":"1.2.3.4","hostnames":["a","b"]}]}})");

TEST(Environment, ReadsReferencesAndExpands) {
  FieldContext context = contextOf(kPod);
  context.services = {{"DB_SERVICE_HOST", "10.96.0.9"}};
  auto env = containerEnv(context, parse(R"json({"resources":{"limits":{"cpu":"1500m","memory":"64Mi"}},
    "envFrom":[{"prefix":"P_","configMapRef":{"name":"here"}},{"secretRef":{"name":"gone","optional":true}}],
    "env":[{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
           {"name":"APP","valueFrom":{"fieldRef":{"fieldPath":"metadata.labels['app']"}}},
           {"name":"CPU","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}},
           {"name":"MEM","valueFrom":{"resourceFieldRef":{"resource":"limits.memory","divisor":"1Mi"}}},
           {"name":"PW","valueFrom":{"secretKeyRef":{"name":"here","key":"pw"}}},
           {"name":"URL","value":"http://$(DB_SERVICE_HOST):$(P_a)/$(NONE)/$$(IP)"}]})json"));
  ASSERT_TRUE(env.ok()) << env.error().message();
  EXPECT_EQ(valueOf(*env, "P_b"), "2");
  EXPECT_EQ(valueOf(*env, "IP"), "10.244.1.7");
  EXPECT_EQ(valueOf(*env, "APP"), "web");
  EXPECT_EQ(valueOf(*env, "CPU"), "2");
  EXPECT_EQ(valueOf(*env, "MEM"), "64");
  EXPECT_EQ(valueOf(*env, "PW"), "secret");
  EXPECT_EQ(valueOf(*env, "URL"), "http://10.96.0.9:1/$(NONE)/$(IP)");
}

TEST(Environment, SaysWhatIsMissing) {
  FieldContext context = contextOf(kPod);
  auto absent =
      containerEnv(context, parse(R"({"env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"gone","key":"k"}}}]})"));
  EXPECT_EQ(absent.error().message(), "secret \"gone\" not found");
  auto key = containerEnv(context,
                          parse(R"({"env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"here","key":"k"}}}]})"));
  EXPECT_EQ(key.error().message(), "couldn't find key k in ConfigMap shop/here");
}

TEST(Environment, TellsOfServices) {
  std::vector<ObjectPtr> services = {
      make(
          R"({"kind":"Service","metadata":{"name":"my-db","namespace":"shop"},"spec":{"clusterIP":"10.96.0.9","ports":[{"name":"sql","port":5432,"protocol":"TCP"}]}})"),
      make(
          R"({"kind":"Service","metadata":{"name":"headless","namespace":"shop"},"spec":{"clusterIP":"None","ports":[{"port":1}]}})"),
      make(
          R"({"kind":"Service","metadata":{"name":"kubernetes","namespace":"default"},"spec":{"clusterIP":"10.96.0.1","ports":[{"name":"https","port":443}]}})")};
  EnvList env = serviceEnv(services, "shop", true);
  EXPECT_EQ(valueOf(env, "MY_DB_SERVICE_HOST"), "10.96.0.9");
  EXPECT_EQ(valueOf(env, "MY_DB_SERVICE_PORT_SQL"), "5432");
  EXPECT_EQ(valueOf(env, "MY_DB_PORT_5432_TCP"), "tcp://10.96.0.9:5432");
  EXPECT_EQ(valueOf(env, "HEADLESS_SERVICE_HOST"), "<none>");
  EnvList few = serviceEnv(services, "shop", false);
  EXPECT_EQ(valueOf(few, "MY_DB_SERVICE_HOST"), "<none>");
  EXPECT_EQ(valueOf(few, "KUBERNETES_SERVICE_PORT_HTTPS"), "443");
}

TEST(Volumes, ProjectSourcesAndRefusePathsThatLeadOutside) {
  FieldContext context = contextOf(kPod);
  auto files = volumeContent(context, parse(R"({"name":"v","projected":{"defaultMode":256,"sources":[
      {"configMap":{"name":"here","items":[{"key":"a","path":"cfg/a"}]}},{"secret":{"name":"here"}},
      {"downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}},
      {"serviceAccountToken":{"path":"token","expirationSeconds":3607}}]}})"),
                             {{{"", 3607}, "jwt"}});
  ASSERT_TRUE(files.ok()) << files.error().message();
  EXPECT_EQ((*files)["cfg/a"], (VolumeFile{"1", 0400}));
  EXPECT_EQ((*files)["pw"].content, "secret");
  EXPECT_EQ((*files)["labels"].content, "app=\"web\"");
  EXPECT_EQ((*files)["token"].content, "jwt");
  auto bad =
      volumeContent(context, parse(R"({"configMap":{"name":"here","items":[{"key":"a","path":"x/../../y"}]}})"), {});
  EXPECT_EQ(bad.error().code(), Code::kInvalid);
  auto missing = volumeContent(context, parse(R"({"configMap":{"name":"here","items":[{"key":"z","path":"z"}]}})"), {});
  EXPECT_EQ(missing.error().message(), "references non-existent configmap key: z");
}

TEST(Volumes, ChangeAllAtOnce) {
  const std::string dir = *makeTempDir(::testing::TempDir(), "volume");
  bool changed = false;
  ASSERT_TRUE(writeVolume(dir, {{"a", {"1", 0644}}, {"sub/b", {"2", 0600}}}, {}, &changed).ok());
  EXPECT_TRUE(changed);
  EXPECT_EQ(*readFile(dir + "/sub/b"), "2");
  ASSERT_TRUE(writeVolume(dir, {{"a", {"1", 0644}}, {"sub/b", {"2", 0600}}}, {}, &changed).ok());
  EXPECT_FALSE(changed);
  ASSERT_TRUE(writeVolume(dir, {{"c", {"3", 0644}}}, {}, &changed).ok());
  EXPECT_TRUE(changed);
  EXPECT_EQ(*listDir(dir)->rbegin(), "c");
  EXPECT_FALSE(pathExists(dir + "/a"));
  EXPECT_EQ(listDir(dir)->size(), 3u) << "the data folder, its link and one name";
  ASSERT_TRUE(removeTree(dir).ok());
}

TEST(Volumes, SubPathsStayInside) {
  const std::string dir = *makeTempDir(::testing::TempDir(), "subpath");
  ASSERT_TRUE(makeDirs(dir + "/volume").ok());
  ASSERT_TRUE(writeFile(dir + "/secret", "x").ok());
  ASSERT_EQ(::symlink("../secret", (dir + "/volume/link").c_str()), 0);
  EXPECT_FALSE(openSubPath(dir + "/volume", "link/../../secret").ok());
  EXPECT_TRUE(openSubPath(dir + "/volume", "new/folder").ok());
  EXPECT_TRUE(pathExists(dir + "/volume/new/folder"));
  auto followed = openSubPath(dir + "/volume", "link");
  // Resolved within the volume, "../secret" is a new folder there, never the file outside.
  if (followed.ok()) EXPECT_FALSE(pathExists(dir + "/secret/x"));
  EXPECT_EQ(*readFile(dir + "/secret"), "x");
  ASSERT_TRUE(removeTree(dir).ok());
}

TEST(PodFiles, HostsAndResolver) {
  NodeFacts node;
  node.dnsAddress = "10.96.0.10";
  node.domain = "cluster.local";
  node.resolvConf = "nameserver 192.0.2.1\nsearch example.org\noptions timeout:1\n";
  const std::string hosts = hostsFile(kPod, node, {"10.244.1.7", "fd00:10:244:1::7"});
  EXPECT_NE(hosts.find("10.244.1.7\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), std::string::npos);
  EXPECT_NE(hosts.find("1.2.3.4\ta\tb\n"), std::string::npos);
  EXPECT_EQ(resolvFile(kPod, node),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions "
            "ndots:5\n");
  json::object own = kPod;
  own["spec"].get_object()["dnsPolicy"] = "Default";
  EXPECT_EQ(resolvFile(own, node), "search example.org\nnameserver 192.0.2.1\noptions timeout:1\n");
  own["spec"].get_object()["dnsPolicy"] = "None";
  own["spec"].get_object()["dnsConfig"] =
      parse(R"({"nameservers":["9.9.9.9"],"options":[{"name":"ndots","value":"2"}]})");
  EXPECT_EQ(resolvFile(own, node), "nameserver 9.9.9.9\noptions ndots:2\n");
  // What dnsConfig says is added to what the policy gives; options replace those of their name.
  own["spec"].get_object()["dnsPolicy"] = "ClusterFirst";
  own["spec"].get_object()["dnsConfig"] = parse(
      R"({"nameservers":["9.9.9.9","10.96.0.10","8.8.8.8","8.8.4.4"],"searches":["svc.cluster.local","a.example"],
          "options":[{"name":"ndots","value":"2"},{"name":"edns0"}]})");
  EXPECT_EQ(resolvFile(own, node),
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org a.example\n"
            "nameserver 10.96.0.10\nnameserver 9.9.9.9\nnameserver 8.8.8.8\noptions ndots:2 edns0\n");
  own["spec"].get_object()["hostNetwork"] = true;
  own["spec"].get_object().erase("dnsConfig");
  EXPECT_EQ(resolvFile(own, node), "search example.org\nnameserver 192.0.2.1\noptions timeout:1\n");
  own["spec"].get_object()["dnsPolicy"] = "ClusterFirstWithHostNet";
  EXPECT_NE(resolvFile(own, node).find("nameserver 10.96.0.10\n"), std::string::npos);
  json::array searches;
  for (int i = 0; i < 40; ++i) searches.push_back(json::string(fmt::format("{}.{}.example", std::string(60, 'a'), i)));
  own["spec"].get_object()["dnsConfig"] = json::object{{"searches", std::move(searches)}};
  const std::string longest = resolvFile(own, node);
  EXPECT_LE(longest.find('\n'), std::string("search ").size() + 2048);
  EXPECT_NE(longest.find(" " + std::string(60, 'a') + ".20.example"), std::string::npos);
}

TEST(DnsConfig, TakesStubDomainsAndUpstreamsInKubeDnsForm) {
  const std::vector<DnsUpstream> own{*DnsUpstream::parse("192.0.2.1")};
  EXPECT_EQ(readDnsConfig({}, own)->upstreams, own);
  auto read = readDnsConfig(parse(R"({"stubDomains":"{\"Corp.Example.\":[\"10.0.0.53\",\"[fd00::1]:5353\"]}",
                                      "upstreamNameservers":"[\"8.8.8.8\"]","else":"x"})"),
                            own);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->upstreams.at(0).str(), "8.8.8.8:53");
  EXPECT_EQ(read->stubDomains.at("corp.example").at(1).str(), "[fd00::1]:5353");
  auto problem = [&](const char* data) { return readDnsConfig(parse(data), own).error().message(); };
  EXPECT_EQ(problem(R"({"upstreamNameservers":"[\"dns.example\"]"})"),
            "upstreamNameservers: \"dns.example\" must be an IP address, with a port or without");
  EXPECT_THAT(problem(R"({"upstreamNameservers":"8.8.8.8"})"), testing::HasSubstr("upstreamNameservers is not JSON"));
  EXPECT_EQ(problem(R"({"stubDomains":"[]"})"), "stubDomains must be an object of at most 256 domains");
  EXPECT_EQ(problem(R"({"stubDomains":"{\"a.example\":[]}"})"),
            "stubDomains of a.example must be a list of 1 to 8 nameservers");
  EXPECT_THAT(problem(R"({"stubDomains":"{\"a b\":[\"1.1.1.1\"]}"})"), testing::HasSubstr("stubDomains: \"a b\""));
}

TEST(Resources, BecomeSharesQuotasAndClasses) {
  auto container =
      parse(R"({"resources":{"requests":{"cpu":"250m","memory":"32Mi"},"limits":{"cpu":"500m","memory":"64Mi"}}})");
  runtime::Resources resources = containerResources(container);
  EXPECT_EQ(resources.cpuShares, 256u);
  EXPECT_EQ(resources.cpuQuota, 50000);
  EXPECT_EQ(resources.memory, 64 << 20);
  EXPECT_EQ(qosClass(parse(R"({"containers":[{"name":"a"}]})")), "BestEffort");
  EXPECT_EQ(qosClass(parse(R"({"containers":[{"resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]})")), "Guaranteed");
  EXPECT_EQ(qosClass(parse(R"({"containers":[{"resources":{"requests":{"cpu":"1"}}}]})")), "Burstable");
  EXPECT_EQ(signalNumber("SIGUSR1"), 10);
  EXPECT_EQ(signalNumber("RTMIN+3"), signalNumber("SIGRTMIN+3"));
}

TEST(Resources, BeyondAnyMachineDoNotWrapAround) {
  const char* huge =
      R"({"containers":[{"name":"a","resources":{"limits":{"cpu":"9E","memory":"7E"}}},{"name":"b","resources":{"limits":{"cpu":"9E","memory":"7E"}}}]})";
  runtime::Resources pod = podResources(parse(huge));
  EXPECT_EQ(pod.memory, INT64_MAX);
  EXPECT_GT(pod.cpuQuota, 0);
  EXPECT_GT(pod.cpuShares, 1024u);
  auto container = parse(R"({"resources":{"requests":{"memory":"7E"},"limits":{"cpu":"9E"}}})");
  EXPECT_EQ(containerResources(container).cpuQuota, pod.cpuQuota);
  auto burstable = parse(R"({"containers":[{"name":"a","resources":{"requests":{"memory":"7E"}}}]})");
  EXPECT_EQ(oomScoreAdj(burstable, container, 1 << 20), 3);
}

const ServiceView kView{"n1", "z1", {*IpAddress::parse("10.96.0.10"), *IpAddress::parse("fd00:10:96::a")}};
const char* kService =
    R"({"kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"clusterIP":"10.96.0.9","clusterIPs":["10.96.0.9"],
  "sessionAffinity":"ClientIP","ports":[{"name":"http","port":80,"targetPort":8080,"nodePort":30080}]},"status":{"loadBalancer":{"ingress":[{"ip":"10.89.7.1"}]}}})";

TEST(Services, TakeReadyEndpointsOrThoseThatStillServe) {
  auto slice = [](std::string_view one, std::string_view two) {
    return make(fmt::format(
        R"({{"kind":"EndpointSlice","metadata":{{"name":"web-1","namespace":"shop"}},"ports":[{{"name":"http","port":8080,"protocol":"TCP"}}],
      "endpoints":[{{"addresses":["10.244.1.2"],"nodeName":"n1","conditions":{}}},{{"addresses":["10.244.2.2"],"nodeName":"n2","conditions":{}}}]}})",
        one, two));
  };
  ObjectPtr service = make(kService);
  auto ports = servicePorts(
      *service, {slice(R"({"ready":true})", R"({"ready":false,"serving":true,"terminating":true})")}, kView);
  ASSERT_EQ(ports.size(), 1u);
  EXPECT_EQ(ports[0].key, "shop/web:80/tcp");
  EXPECT_EQ(ports[0].nodePort, 30080);
  EXPECT_EQ(ports[0].affinitySeconds, 10800);
  ASSERT_EQ(ports[0].loadBalancerIps.size(), 1u);
  ASSERT_EQ(ports[0].endpoints.size(), 1u);
  EXPECT_TRUE(ports[0].endpoints[0].local);
  EXPECT_EQ(ports[0].endpoints[0].port, 8080);
  ports = servicePorts(*service, {slice(R"({"ready":false})", R"({"ready":false,"serving":true,"terminating":true})")},
                       kView);
  ASSERT_EQ(ports[0].endpoints.size(), 1u);
  EXPECT_EQ(ports[0].endpoints[0].address.str(), "10.244.2.2");
}

TEST(Services, PreferTheirZone) {
  ObjectPtr slice = make(
      R"({"kind":"EndpointSlice","metadata":{"name":"web-1","namespace":"shop"},"ports":[{"name":"http","port":8080}],
    "endpoints":[{"addresses":["10.244.1.2"],"hints":{"forZones":[{"name":"z1"}]}},{"addresses":["10.244.2.2"],"hints":{"forZones":[{"name":"z2"}]}}]})");
  auto ports = servicePorts(*make(kService), {slice}, kView);
  ASSERT_EQ(ports[0].endpoints.size(), 1u);
  EXPECT_EQ(ports[0].endpoints[0].address.str(), "10.244.1.2");
  EXPECT_EQ(servicePorts(*make(kService), {slice}, {"n9", "z9", {}})[0].endpoints.size(), 2u);
}

TEST(Services, WhatTheNodeAnswersItselfIsNotForwarded) {
  for (std::string_view address : {"10.96.0.10", "fd00:10:96::a", "fd00:10:96::b"}) {
    ObjectPtr dns = make(fmt::format(
        R"({{"kind":"Service","metadata":{{"name":"dns","namespace":"kube-system"}},"spec":{{"clusterIP":"{}","ports":[{{"port":53,"protocol":"UDP"}}]}}}})",
        address));
    EXPECT_EQ(servicePorts(*dns, {}, kView).size(), address.ends_with("b") ? 1u : 0u) << address;
  }
}

TEST(Services, LocalPolicyKnowsNoHintsAndServesTheLastThatEndsHere) {
  auto slice = [](std::string_view here) {
    return make(fmt::format(
        R"({{"kind":"EndpointSlice","metadata":{{"name":"web-1","namespace":"shop"}},"ports":[{{"name":"http","port":8080}}],
      "endpoints":[{{"addresses":["10.244.1.2"],"nodeName":"n1","conditions":{},"hints":{{"forZones":[{{"name":"z2"}}]}}}},
                   {{"addresses":["10.244.1.3"],"nodeName":"n1","conditions":{{"ready":false,"serving":true,"terminating":true}}}},
                   {{"addresses":["10.244.2.2"],"nodeName":"n2","hints":{{"forZones":[{{"name":"z1"}}]}}}}]}})",
        here));
  };
  ObjectPtr service = make(
      R"({"kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"clusterIP":"10.96.0.9",
    "externalTrafficPolicy":"Local","ports":[{"name":"http","port":80}]}})");
  auto port = servicePorts(*service, {slice(R"({"ready":true})")}, kView).at(0);
  ASSERT_EQ(port.localEndpoints.size(), 1u);
  EXPECT_EQ(port.localEndpoints[0].address.str(), "10.244.1.2");
  ASSERT_EQ(port.endpoints.size(), 1u);
  EXPECT_EQ(port.endpoints[0].address.str(), "10.244.2.2") << "for all others the hints count";
  port = servicePorts(*service, {slice(R"({"ready":false})")}, kView).at(0);
  ASSERT_EQ(port.localEndpoints.size(), 1u);
  EXPECT_EQ(port.localEndpoints[0].address.str(), "10.244.1.3") << "ends, but is the last one here";
  ASSERT_EQ(port.endpoints.size(), 1u);
  EXPECT_EQ(port.endpoints[0].address.str(), "10.244.2.2");
  EXPECT_TRUE(servicePorts(*make(kService), {slice(R"({"ready":true})")}, kView).at(0).localEndpoints.empty());
}

TEST(ExitStatus, IsWhatKubectlReads) {
  runtime::ExitInfo exit;
  EXPECT_EQ(exitStatus(exit), R"({"metadata":{},"status":"Success"})");
  exit.code = 3;
  EXPECT_EQ(
      exitStatus(exit),
      R"({"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}})");
}

TEST(Ports, AreNumbersOrNames) {
  auto container = parse(R"({"ports":[{"name":"http","containerPort":8080}]})");
  json::value name = "http", number = 81, bad = "https";
  EXPECT_EQ(*portOf(container, &name), 8080);
  EXPECT_EQ(*portOf(container, &number), 81);
  EXPECT_EQ(portOf(container, &bad).error().message(), "couldn't find port: \"https\"");
}

}  // namespace
}  // namespace dhow::node
