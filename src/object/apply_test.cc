#include "object/apply.h"

#include <gtest/gtest.h>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "object/decode.h"
#include "object/defaults.h"
#include "object/patch.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

const KindInfo& deployments() {
  return *Kinds::builtin().findKind("apps/v1", "Deployment");
}
const KindInfo& configMaps() {
  return *Kinds::builtin().findKind("v1", "ConfigMap");
}

json::object parse(std::string_view text) {
  return json::parse(text).as_object();
}
WallTime at(int second) {
  return *parseTime(fmt::format("2026-01-01T00:00:{:02}Z", second));
}

json::object map(std::string_view data) {
  return parse(fmt::format(
      R"({{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"c","namespace":"d"}},"data":{}}})", data));
}

Result<json::object> apply(const KindInfo& kind, const json::object* live, json::object config, std::string manager,
                           bool force = false, int second = 0) {
  return applyConfig(kind, live, std::move(config),
                     {.manager = {std::move(manager), ""}, .force = force, .now = at(second)});
}

std::string managers(const json::object& object) {
  std::string out;
  const json::value* fields = object.at("metadata").as_object().if_contains("managedFields");
  if (!fields) return out;
  for (const json::value& entry : fields->as_array()) {
    out += std::string(entry.at("manager").as_string()) + "/" + std::string(entry.at("operation").as_string()) + ":" +
           json::serialize(entry.at("fieldsV1")) + "\n";
  }
  return out;
}

TEST(Apply, CreateOwnsWhatItSets) {
  auto object = apply(configMaps(), nullptr, map(R"({"a":"1","b":"2"})"), "me");
  EXPECT_EQ(managers(*object), "me/Apply:{\"f:data\":{\"f:a\":{},\"f:b\":{}}}\n");
}

TEST(Apply, RemovesWhatIsNoLongerListedAndKeepsTheOthers) {
  auto first = apply(configMaps(), nullptr, map(R"({"a":"1","b":"2"})"), "me");
  const json::object& live = *first;
  json::object edited = live;
  edited["data"].as_object()["c"] = "3";
  trackUpdate(configMaps(), &live, edited, {"other", ""}, at(1));
  auto second = apply(configMaps(), &edited, map(R"({"a":"1"})"), "me", false, 2);
  EXPECT_EQ(json::serialize(second->at("data")), R"({"a":"1","c":"3"})");
  EXPECT_EQ(managers(*second), "me/Apply:{\"f:data\":{\"f:a\":{}}}\nother/Update:{\"f:data\":{\"f:c\":{}}}\n");
}

TEST(Apply, ConflictsInKubernetesWords) {
  auto live = apply(configMaps(), nullptr, map(R"({"a":"1","b":"2"})"), "bob");
  auto bad = apply(configMaps(), &*live, map(R"({"a":"x"})"), "me");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code(), Code::kConflict);
  EXPECT_EQ(bad.error().message(), "Apply failed with 1 conflict: conflict with \"bob\": .data.a");
  ASSERT_EQ(bad.error().causes().size(), 1u);
  EXPECT_EQ(bad.error().causes()[0].reason, "FieldManagerConflict");
  EXPECT_EQ(bad.error().causes()[0].field, ".data.a");
  bad = apply(configMaps(), &*live, map(R"({"a":"x","b":"y"})"), "me");
  EXPECT_EQ(bad.error().message(), "Apply failed with 2 conflicts: conflicts with \"bob\":\n- .data.a\n- .data.b");
  auto forced = apply(configMaps(), &*live, map(R"({"a":"x"})"), "me", true);
  EXPECT_EQ(json::serialize(forced->at("data")), R"({"a":"x","b":"2"})");
  EXPECT_EQ(managers(*forced), "bob/Apply:{\"f:data\":{\"f:b\":{}}}\nme/Apply:{\"f:data\":{\"f:a\":{}}}\n");
  // The same value is no conflict: both own it.
  auto shared = apply(configMaps(), &*live, map(R"({"a":"1"})"), "me");
  EXPECT_EQ(managers(*shared), "bob/Apply:{\"f:data\":{\"f:a\":{},\"f:b\":{}}}\nme/Apply:{\"f:data\":{\"f:a\":{}}}\n");
}

constexpr std::string_view kDeployment =
    R"({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"w","namespace":"d","labels":{"a":"b"}},
  "spec":{"replicas":2,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},
  "spec":{"containers":[{"name":"c","image":"i:1","ports":[{"containerPort":80}],"livenessProbe":{"tcpSocket":{"port":80}}}]}}}})";

TEST(Apply, ListMapsAtomicsAndDefaults) {
  auto live = apply(deployments(), nullptr, parse(kDeployment), "me");
  ASSERT_TRUE(live.ok());
  applyDefaults(deployments(), *live);
  EXPECT_EQ(managers(*live),
            "me/"
            "Apply:{\"f:metadata\":{\"f:labels\":{\"f:a\":{}}},\"f:spec\":{\"f:replicas\":{},\"f:selector\":{},\"f:"
            "template\":{\"f:metadata\":{\"f:labels\":{\"f:a\":{}}},"
            "\"f:spec\":{\"f:containers\":{\"k:{\\\"name\\\":\\\"c\\\"}\":{\".\":{},\"f:image\":{},\"f:livenessProbe\":"
            "{\"f:tcpSocket\":{\"f:port\":{}}},\"f:name\":{},"
            "\"f:ports\":{\"k:{\\\"containerPort\\\":80,\\\"protocol\\\":\\\"TCP\\\"}\":{\".\":{},\"f:containerPort\":{"
            "}}}}}}}}}\n");
  // Applied again, nothing changes: not the object, not the owners, not their times.
  auto again = apply(deployments(), &*live, parse(kDeployment), "me", false, 30);
  ASSERT_TRUE(again.ok()) << again.error().message();
  applyDefaults(deployments(), *again);
  EXPECT_EQ(*again, *live);
  EXPECT_TRUE(sameContent(*live, *again));
  // A probe that is taken out goes with its defaults; a second container of someone else stays.
  json::object edited = *live;
  json::array& containers =
      edited["spec"].as_object()["template"].as_object()["spec"].as_object()["containers"].as_array();
  containers.push_back(parse(R"({"name":"side","image":"s"})"));
  trackUpdate(deployments(), &*live, edited, {"injector", ""}, at(5));
  json::object config = parse(kDeployment);
  json::object& container =
      config["spec"].as_object()["template"].as_object()["spec"].as_object()["containers"].as_array()[0].as_object();
  container.erase("livenessProbe");
  auto out = apply(deployments(), &edited, config, "me");
  ASSERT_TRUE(out.ok()) << out.error().message();
  const json::array& result = out->at("spec").at("template").at("spec").at("containers").as_array();
  ASSERT_EQ(result.size(), 2u);
  EXPECT_FALSE(result[0].as_object().contains("livenessProbe"));
  EXPECT_EQ(result[1].at("name"), "side");
}

TEST(Apply, RefusesManagedFieldsInTheConfig) {
  json::object config = map("{}");
  config["metadata"].as_object()["managedFields"] = json::array{json::object{{"manager", "x"}}};
  EXPECT_EQ(apply(configMaps(), nullptr, config, "me").error().message(), "metadata.managedFields must be nil");
}

TEST(TrackUpdate, MovesOwnershipAndLeavesNoTraceOfNothing) {
  json::object live = map(R"({"a":"1"})");
  trackUpdate(configMaps(), nullptr, live, {"one", ""}, at(1));
  EXPECT_EQ(managers(live), "one/Update:{\"f:data\":{\".\":{},\"f:a\":{}}}\n");
  json::object same = live;
  trackUpdate(configMaps(), &live, same, {"two", ""}, at(2));
  EXPECT_EQ(same, live);
  json::object changed = live;
  changed["data"].as_object()["a"] = "2";
  trackUpdate(configMaps(), &live, changed, {"two", ""}, at(2));
  EXPECT_EQ(managers(changed), "one/Update:{\"f:data\":{}}\ntwo/Update:{\"f:data\":{\"f:a\":{}}}\n");
  EXPECT_FALSE(sameContent(live, changed));
}

TEST(TrackUpdate, StatusIsOwnedThroughItsSubresource) {
  json::object live = parse(kDeployment);
  trackUpdate(deployments(), nullptr, live, {"kubectl-create", ""}, at(1));
  json::object after = live;
  after["status"] = json::object{{"replicas", 2}};
  trackUpdate(deployments(), &live, after, {"controller", "status"}, at(2));
  const json::array& fields = after.at("metadata").at("managedFields").as_array();
  ASSERT_EQ(fields.size(), 2u);
  EXPECT_EQ(fields[1].at("subresource"), "status");
  EXPECT_EQ(json::serialize(fields[1].at("fieldsV1")), R"({"f:status":{"f:replicas":{}}})");
}

TEST(TrackUpdate, ManyUpdatersBecomeAncientChanges) {
  json::object live = map("{}");
  for (int i = 0; i < 15; ++i) {
    json::object after = live;
    after["data"].as_object()[fmt::format("k{}", i)] = "v";
    trackUpdate(configMaps(), i ? &live : nullptr, after, {fmt::format("m{}", i), ""}, at(i));
    live = after;
  }
  EXPECT_EQ(live.at("metadata").at("managedFields").as_array().size(), 10u);
  EXPECT_NE(managers(live).find("ancient-changes"), std::string::npos);
}

TEST(JsonPatch, EveryOperation) {
  json::value doc = json::parse(R"({"a":{"b":[1,2]},"x/y":1})");
  auto out = applyJsonPatch(
      doc,
      json::parse(
          R"([{"op":"test","path":"/a/b/0","value":1},{"op":"add","path":"/a/b/-","value":3},{"op":"add","path":"/a/b/0","value":0},
    {"op":"remove","path":"/a/b/1"},{"op":"replace","path":"/x~1y","value":2},{"op":"copy","from":"/a/b","path":"/c"},{"op":"move","from":"/x~1y","path":"/d"}])"));
  ASSERT_TRUE(out.ok()) << out.error().message();
  EXPECT_EQ(json::serialize(*out), R"({"a":{"b":[0,2,3]},"c":[0,2,3],"d":2})");
  for (std::string_view bad :
       {R"([{"op":"test","path":"/a","value":1}])", R"([{"op":"remove","path":"/z"}])",
        R"([{"op":"replace","path":"/z","value":1}])", R"([{"op":"add","path":"/a/b/9","value":1}])",
        R"([{"op":"nope","path":"/a"}])", R"({})", R"([{"op":"add","path":"a","value":1}])"})
    EXPECT_FALSE(applyJsonPatch(doc, json::parse(bad)).ok()) << bad;
}

TEST(JsonPatch, CopiesAreBounded) {
  json::array operations;
  for (int i = 0; i < 60; ++i)
    operations.push_back(json::object{{"op", "copy"}, {"from", ""}, {"path", fmt::format("/k{}", i)}});
  EXPECT_EQ(applyJsonPatch(json::parse(R"({"a":1})"), operations).error().code(), Code::kTooLarge);
}

TEST(MergePatch, Rfc7386) {
  json::value out = applyMergePatch(json::parse(R"({"a":"b","c":{"d":1,"e":2}})"),
                                    json::parse(R"({"a":null,"c":{"d":null,"f":{"g":null,"h":1}},"l":[null]})"));
  EXPECT_EQ(json::serialize(out), R"({"c":{"e":2,"f":{"h":1}},"l":[null]})");
}

std::string strategic(std::string_view document, std::string_view patch) {
  auto out = applyStrategicPatch(*Kinds::builtin().type("core.v1.PodSpec"), parse(document), parse(patch));
  return out.ok() ? json::serialize(*out) : out.error().message();
}

TEST(StrategicPatch, MergesListsByKey) {
  EXPECT_EQ(
      strategic(R"({"containers":[{"name":"a","image":"1","args":["x"]},{"name":"b","image":"1"}]})",
                R"({"containers":[{"name":"b","image":"2"},{"name":"c","image":"3"}]})"),
      R"({"containers":[{"name":"a","image":"1","args":["x"]},{"name":"b","image":"2"},{"name":"c","image":"3"}]})");
  EXPECT_EQ(strategic(R"({"containers":[{"name":"a"}]})", R"({"containers":[{"image":"2"}]})"),
            R"(invalid strategic merge patch: map: {"image":"2"} does not contain declared merge key: name)");
}

TEST(StrategicPatch, Directives) {
  EXPECT_EQ(
      strategic(R"({"containers":[{"name":"a"},{"name":"b"}]})", R"({"containers":[{"$patch":"delete","name":"a"}]})"),
      R"({"containers":[{"name":"b"}]})");
  EXPECT_EQ(strategic(R"({"containers":[{"name":"a"},{"name":"b"}]})",
                      R"({"containers":[{"$patch":"replace"},{"name":"c"}]})"),
            R"({"containers":[{"name":"c"}]})");
  EXPECT_EQ(strategic(R"({"volumes":[{"name":"v","emptyDir":{}}]})",
                      R"({"volumes":[{"$retainKeys":["name","hostPath"],"name":"v","hostPath":{"path":"/"}}]})"),
            R"({"volumes":[{"name":"v","hostPath":{"path":"/"}}]})");
  EXPECT_EQ(
      strategic(
          R"({"containers":[{"name":"a"},{"name":"x"},{"name":"b"}]})",
          R"({"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","image":"i"}]})"),
      R"({"containers":[{"name":"x"},{"name":"b","image":"i"},{"name":"a"}]})");
  EXPECT_EQ(strategic(R"({"securityContext":{"runAsUser":1,"runAsGroup":2}})",
                      R"({"securityContext":{"$patch":"replace","runAsUser":3}})"),
            R"({"securityContext":{"runAsUser":3}})");
  EXPECT_EQ(strategic(R"({"nodeSelector":{"a":"b"},"hostname":"h"})", R"({"nodeSelector":null,"hostname":null})"),
            "{}");
  auto meta = applyStrategicPatch(*Kinds::builtin().type("meta.v1.ObjectMeta"), parse(R"({"finalizers":["a","b"]})"),
                                  parse(R"({"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["c","b"]})"));
  EXPECT_EQ(json::serialize(*meta), R"({"finalizers":["b","c"]})");
}

}  // namespace
}  // namespace dhow::object
