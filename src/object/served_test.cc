// What the server tells about its kinds: tables, discovery, OpenAPI.
#include <gtest/gtest.h>
#include <boost/json/parse.hpp>

#include "object/discovery.h"
#include "object/openapi.h"
#include "object/table.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

const Kinds& kinds() {
  return Kinds::builtin();
}

json::array cells(std::string_view apiVersion, std::string_view kind, std::string_view text) {
  ObjectPtr object = Object::parse(text).value();
  TableOptions options{.now = *parseTime("2026-01-01T00:05:00Z")};
  json::value table = json::parse(renderTable(*kinds().findKind(apiVersion, kind), std::span(&object, 1), options));
  EXPECT_EQ(table.at("columnDefinitions").as_array().size(), table.at("rows").at(0).at("cells").as_array().size());
  EXPECT_EQ(table.at("rows").at(0).at("object").at("kind"), "PartialObjectMetadata");
  return table.at("rows").at(0).at("cells").as_array();
}

TEST(Table, Pods) {
  EXPECT_EQ(
      cells(
          "v1", "Pod",
          R"({"metadata":{"name":"p","creationTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[{"name":"a"},{"name":"b"}]},
    "status":{"phase":"Running","podIP":"10.0.0.1","containerStatuses":[{"name":"a","ready":true,"restartCount":0,"state":{"running":{}}},
    {"name":"b","ready":false,"restartCount":3,"state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":1,"finishedAt":"2026-01-01T00:04:30Z"}}}]}})"),
      (json::array{"p", "1/2", "CrashLoopBackOff", "3 (30s ago)", "5m", "10.0.0.1", "<none>", "<none>", "<none>",
                   "<none>"}));
  EXPECT_EQ(
      cells(
          "v1", "Pod",
          R"({"metadata":{"name":"p","deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[{"name":"a"}]},"status":{"phase":"Running"}})")
          [2],
      "Terminating");
  EXPECT_EQ(
      cells(
          "v1", "Pod",
          R"({"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"}],"initContainers":[{"name":"i"}]},"status":{"phase":"Pending",
    "initContainerStatuses":[{"name":"i","state":{"running":{}}}]}})")[2],
      "Init:0/1");
}

TEST(Table, NetworkPolicies) {
  EXPECT_EQ(
      cells(
          "networking.k8s.io/v1", "NetworkPolicy",
          R"({"metadata":{"name":"n"},"spec":{"podSelector":{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"t","operator":"In","values":["a","b"]}]}}})"),
      (json::array{"n", "app=web,t in (a,b)", "<unknown>"}));
  EXPECT_EQ(cells("networking.k8s.io/v1", "NetworkPolicy", R"({"metadata":{"name":"n"},"spec":{"podSelector":{}}})")[1],
            "<none>");
}

TEST(Table, IngressesAndGateways) {
  EXPECT_EQ(
      cells(
          "networking.k8s.io/v1", "Ingress",
          R"({"metadata":{"name":"i"},"spec":{"ingressClassName":"dhow","tls":[{}],"rules":[{"host":"a"},{"host":"b"},{},{"host":"c"},{"host":"d"}]},
    "status":{"loadBalancer":{"ingress":[{"ip":"10.0.0.9"}]}}})"),
      (json::array{"i", "dhow", "a,b,c + 2 more...", "10.0.0.9", "80, 443", "<unknown>"}));
  EXPECT_EQ(cells("networking.k8s.io/v1", "Ingress", R"({"metadata":{"name":"i"},"spec":{"rules":[{}]}})"),
            (json::array{"i", "<none>", "*", "", "80", "<unknown>"}));
  EXPECT_EQ(
      cells(
          "networking.k8s.io/v1", "IngressClass",
          R"({"metadata":{"name":"c"},"spec":{"controller":"a.b/c","parameters":{"apiGroup":"x.y","kind":"K","name":"n"}}})"),
      (json::array{"c", "a.b/c", "K.x.y/n", "<unknown>"}));
  EXPECT_EQ(
      cells(
          "gateway.networking.k8s.io/v1", "Gateway",
          R"({"metadata":{"name":"g"},"spec":{"gatewayClassName":"dhow"},"status":{"addresses":[{"value":"10.0.0.9"}],"conditions":[{"type":"Programmed","status":"True"}]}})"),
      (json::array{"g", "dhow", "10.0.0.9", "True", "<unknown>"}));
  EXPECT_EQ(
      cells("gateway.networking.k8s.io/v1", "HTTPRoute", R"({"metadata":{"name":"r"},"spec":{"hostnames":["a.b"]}})"),
      (json::array{"r", R"(["a.b"])", "<unknown>"}));
}

TEST(Table, OtherKinds) {
  EXPECT_EQ(
      cells(
          "apps/v1", "Deployment",
          R"({"metadata":{"name":"d"},"spec":{"replicas":3,"selector":{"matchLabels":{"a":"b"}},"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}},"status":{"readyReplicas":1}})"),
      (json::array{"d", "1/3", 0, 0, "<unknown>", "c", "i", "a=b"}));
  EXPECT_EQ(
      cells(
          "v1", "Service",
          R"({"metadata":{"name":"s"},"spec":{"type":"LoadBalancer","clusterIP":"10.96.0.1","ports":[{"port":80,"nodePort":30080,"protocol":"TCP"}]}})"),
      (json::array{"s", "LoadBalancer", "10.96.0.1", "<pending>", "80:30080/TCP", "<unknown>", "<none>"}));
  EXPECT_EQ(
      cells(
          "v1", "Node",
          R"({"metadata":{"name":"n","labels":{"node-role.kubernetes.io/control-plane":""}},"spec":{"unschedulable":true},"status":{"conditions":[{"type":"Ready","status":"True"}]}})")
          [1],
      "Ready,SchedulingDisabled");
}

TEST(Table, CertificateSigningRequests) {
  auto shown = [](std::string_view spec, std::string_view status) {
    return cells("certificates.k8s.io/v1", "CertificateSigningRequest",
                 fmt::format(R"({{"metadata":{{"name":"r","creationTimestamp":"2026-01-01T00:00:00Z"}},
                   "spec":{{"signerName":"a.b/c","username":"jane"{}}},"status":{}}})",
                             spec, status));
  };
  EXPECT_EQ(shown("", "{}"), (json::array{"r", "5m", "a.b/c", "jane", "<none>", "Pending"}));
  EXPECT_EQ(shown(R"(,"expirationSeconds":3600)", R"({"conditions":[{"type":"Approved"}],"certificate":"eA=="})"),
            (json::array{"r", "5m", "a.b/c", "jane", "60m", "Approved,Issued"}));
  EXPECT_EQ(shown("", R"({"conditions":[{"type":"Approved"},{"type":"Failed"}]})")[5], "Approved,Failed");
  EXPECT_EQ(shown("", R"({"conditions":[{"type":"Denied"}]})")[5], "Denied");
}

TEST(Table, EveryKindRendersAnEmptyObject) {
  for (const KindInfo& kind : kinds().all()) {
    ObjectPtr object = Object::parse("{}").value();
    json::value table = json::parse(renderTable(kind, std::span(&object, 1), {}));
    EXPECT_EQ(table.at("columnDefinitions").as_array().size(), table.at("rows").at(0).at("cells").as_array().size())
        << kind.kind;
  }
}

TEST(Table, DurationsAsKubectlPrintsThem) {
  using namespace std::chrono_literals;
  EXPECT_EQ(humanDuration(90s), "90s");
  EXPECT_EQ(humanDuration(125s), "2m5s");
  EXPECT_EQ(humanDuration(11min), "11m");
  EXPECT_EQ(humanDuration(200min), "3h20m");
  EXPECT_EQ(humanDuration(30h), "30h");
  EXPECT_EQ(humanDuration(75h), "3d3h");
  EXPECT_EQ(humanDuration(24h * 800), "2y70d");
}

TEST(Discovery, BothForms) {
  json::value core = json::parse(*apiResourceListDocument(kinds(), "", "v1"));
  std::string names;
  for (const json::value& resource : core.at("resources").as_array())
    names += std::string(resource.at("name").as_string()) + " ";
  for (std::string_view name :
       {"pods ", "pods/eviction ", "pods/log ", "namespaces ", "serviceaccounts/token ", "bindings "})
    EXPECT_NE(names.find(name), std::string::npos) << name;
  EXPECT_FALSE(apiResourceListDocument(kinds(), "nope", "v1"));
  json::value groups = json::parse(apiGroupListDocument(kinds()));
  EXPECT_GE(groups.at("groups").as_array().size(), 7u);
  EXPECT_TRUE(apiGroupDocument(kinds(), "policy"));
  // Only the body of a subresource, which is no resource.
  EXPECT_FALSE(apiGroupDocument(kinds(), "autoscaling"));
  json::value aggregated = json::parse(aggregatedDiscoveryDocument(kinds(), false));
  EXPECT_EQ(aggregated.at("kind"), "APIGroupDiscoveryList");
  EXPECT_EQ(json::parse(aggregatedDiscoveryDocument(kinds(), true)).at("items").as_array().size(), 1u);
}

void checkRefs(const json::value& value, const json::object& schemas, std::string_view prefix) {
  if (value.is_array()) {
    for (const json::value& item : value.get_array()) checkRefs(item, schemas, prefix);
  } else if (value.is_object()) {
    for (const auto& member : value.get_object()) {
      if (member.key() == "$ref")
        EXPECT_TRUE(schemas.contains(std::string_view(member.value().as_string()).substr(prefix.size())))
            << member.value();
      checkRefs(member.value(), schemas, prefix);
    }
  }
}

TEST(OpenApi, EveryReferenceResolves) {
  json::value index = json::parse(openApiV3Index(kinds()));
  EXPECT_TRUE(index.at("paths").as_object().contains("apis/apps/v1"));
  for (auto [group, version] : {std::pair{"", "v1"}, {"apps", "v1"}, {"policy", "v1"}}) {
    json::value document = json::parse(*openApiV3Document(kinds(), group, version));
    checkRefs(document, document.at("components").at("schemas").as_object(), "#/components/schemas/");
  }
  json::value v2 = json::parse(openApiV2Document(kinds()));
  checkRefs(v2, v2.at("definitions").as_object(), "#/definitions/");
}

// The value of the first length-delimited field `number` of a message, as far as it has no fixed-size ones.
std::string_view field(std::string_view message, uint32_t number) {
  size_t at = 0;
  auto varint = [&] {
    uint64_t out = 0;
    for (int shift = 0; at < message.size(); shift += 7) {
      auto byte = static_cast<unsigned char>(message[at++]);
      out |= uint64_t(byte & 0x7f) << shift;
      if (!(byte & 0x80)) break;
    }
    return out;
  };
  while (at < message.size()) {
    uint64_t tag = varint();
    uint64_t value = varint();
    if ((tag & 7) != 2) continue;
    if (tag >> 3 == number) return message.substr(at, value);
    at += value;
  }
  return {};
}

TEST(OpenApi, VersionTwoHasAProtobufForm) {
  std::string document = openApiV2ProtobufDocument(kinds());
  EXPECT_EQ(field(document, 1), "2.0");
  EXPECT_EQ(field(field(document, 2), 1), "Kubernetes");
  json::value same = json::parse(openApiV2Document(kinds()));
  auto path = field(field(field(document, 8), 2), 1);
  EXPECT_EQ(path, same.at("paths").as_object().begin()->key());
  auto definition = field(field(document, 9), 1);
  const auto& first = *same.at("definitions").as_object().begin();
  EXPECT_EQ(field(definition, 1), first.key());
  EXPECT_EQ(field(field(field(definition, 2), 22), 1), first.value().at("type").as_string());
  EXPECT_NE(document.find("x-kubernetes-group-version-kind"), std::string::npos);
}

TEST(OpenApi, PatchListsFieldValidationForItsKind) {
  json::value document = json::parse(*openApiV3Document(kinds(), "apps", "v1"));
  const json::value& patch =
      document.at("paths").at("/apis/apps/v1/namespaces/{namespace}/deployments/{name}").at("patch");
  EXPECT_EQ(patch.at("x-kubernetes-group-version-kind").at("kind"), "Deployment");
  bool found = false;
  for (const json::value& parameter : patch.at("parameters").as_array())
    found |= parameter.at("name") == "fieldValidation";
  EXPECT_TRUE(found);
}

}  // namespace
}  // namespace dhow::object
