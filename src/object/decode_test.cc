#include "object/decode.h"

#include <gtest/gtest.h>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "base/check.h"
#include "object/defaults.h"
#include "object/object.h"
#include "object/validate.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

const Kinds& kinds() {
  return Kinds::builtin();
}

Result<Decoded> decode(std::string_view body, FieldValidation validation = FieldValidation::kStrict,
                       std::string_view type = "application/json") {
  return decodeBody(kinds(), body, type, {.validation = validation});
}

TEST(Decode, StrictNamesUnknownAndRepeatedFields) {
  auto bad = decode(
      R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"foo":1,"containers":[{"name":"c","bar":2}],"nodeName":"a","nodeName":"b"}})");
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code(), Code::kBadRequest);
  EXPECT_EQ(
      bad.error().message(),
      "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: duplicate field \"spec.nodeName\", "
      "unknown field \"spec.foo\", unknown field \"spec.containers[0].bar\"");
}

TEST(Decode, WarnReportsAndIgnoreDrops) {
  constexpr std::string_view kBody = R"({"apiVersion":"v1","kind":"Pod","spec":{"foo":1,"hostname":null}})";
  auto warned = decode(kBody, FieldValidation::kWarn);
  EXPECT_EQ(warned->warnings, std::vector<std::string>{"unknown field \"spec.foo\""});
  EXPECT_EQ(json::serialize(warned->document), R"({"apiVersion":"v1","kind":"Pod","spec":{}})");
  EXPECT_TRUE(decode(kBody, FieldValidation::kIgnore)->warnings.empty());
}

TEST(Decode, TypeErrorsInGoWords) {
  auto bad = decode(R"({"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":"3"}})");
  EXPECT_EQ(bad.error().message(),
            "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go "
            "struct field "
            "DeploymentSpec.spec.replicas of type int32");
  bad = decode(R"({"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"env":[{"name":"A","value":1}]}]}})");
  EXPECT_EQ(bad.error().message(),
            "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field "
            "EnvVar.spec.containers.env.value of type string");
  EXPECT_FALSE(decode(R"({"apiVersion":"v1","kind":"Pod","spec":{"containers":{}}})").ok());
  EXPECT_FALSE(decode(R"({"apiVersion":"v1","kind":"Secret","data":{"a":"%%"}})").ok());
  EXPECT_FALSE(decode(R"({"apiVersion":"v1","kind":"Nope"})").ok());
  EXPECT_FALSE(decode(R"([])").ok());
  EXPECT_FALSE(decode(R"({)").ok());
  EXPECT_EQ(decode("x", FieldValidation::kWarn, "text/plain").error().code(), Code::kUnsupportedMediaType);
}

TEST(Decode, WritesQuantitiesAndTimesCanonically) {
  auto pod = decode(R"({"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"2026-01-01T01:00:00+01:00"},
    "spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":0.5,"memory":"1024Mi"}}}]}})");
  EXPECT_EQ(json::serialize(pod->document),
            R"({"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z"},)"
            R"("spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":"500m","memory":"1Gi"}}}]}})");
}

TEST(Decode, LeavesTimesAloneThatItCannotComputeWith) {
  for (const char* time : {"0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"}) {
    auto pod = decode(
        fmt::format(R"({{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a","creationTimestamp":"{}"}}}})", time));
    EXPECT_EQ(pod->document["metadata"].get_object()["creationTimestamp"], json::value(time));
  }
}

TEST(Decode, Yaml) {
  auto pod = decode("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: \"1\"\n  b: |\n    x\n",
                    FieldValidation::kStrict, "application/yaml");
  EXPECT_EQ(json::serialize(pod->document),
            R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":"1","b":"x\n"}})");
  EXPECT_FALSE(decode("a: [", FieldValidation::kStrict, "application/yaml").ok());
  EXPECT_FALSE(
      decode("apiVersion: v1\nkind: ConfigMap\nkind: Secret\n", FieldValidation::kStrict, "application/yaml").ok());
  std::string bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n";
  for (char c = 'b'; c < 'j'; ++c)
    bomb += fmt::format("{0}: &{0} [*{1},*{1},*{1},*{1},*{1},*{1},*{1},*{1},*{1}]\n", c, static_cast<char>(c - 1));
  EXPECT_FALSE(decode(bomb, FieldValidation::kStrict, "application/yaml").ok());
}

TEST(Decode, RefusesAnotherKindThanTheUrlNames) {
  const KindInfo* pods = kinds().findKind("v1", "Pod");
  auto bad = decodeBody(kinds(), R"({"apiVersion":"apps/v1","kind":"Deployment"})", "", {.expected = pods});
  EXPECT_EQ(bad.error().message(),
            "the API version in the data (apps/v1) does not match the expected API version (v1)");
  EXPECT_EQ(decodeBody(kinds(), "{}", "", {.expected = pods})->document.at("kind"), "Pod");
}

// A small writer of the wire format, to make bodies as kubectl sends them.
std::string field(int number, std::string_view bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  CHECK(bytes.size() < 128 && number < 16);
  out.push_back(static_cast<char>(bytes.size()));
  return out.append(bytes);
}
std::string number(int id, int value) {
  return {static_cast<char>(id << 3), static_cast<char>(value)};
}

TEST(Protobuf, ConfigMapAsKubectlSendsIt) {
  std::string meta =
      field(1, "cm") + field(2, "") + field(3, "default") + field(8, "") + field(11, field(1, "k") + field(2, "v"));
  std::string body = field(1, meta) + field(2, field(1, "a") + field(2, "b"));
  std::string message = std::string("k8s\0", 4) + field(1, field(1, "v1") + field(2, "ConfigMap")) + field(2, body) +
                        field(3, "") + field(4, "");
  auto out = decode(message, FieldValidation::kStrict, "application/vnd.kubernetes.protobuf");
  ASSERT_TRUE(out.ok()) << out.error().message();
  EXPECT_EQ(
      json::serialize(out->document),
      R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm","namespace":"default","labels":{"k":"v"}},"data":{"a":"b"}})");
  for (size_t cut = 0; cut < message.size(); ++cut)
    (void)decode(message.substr(0, cut), FieldValidation::kStrict, "application/vnd.kubernetes.protobuf");
}

TEST(Protobuf, CertificateSigningRequest) {
  // Extra values are messages of their own; a time is one of seconds.
  std::string spec = field(1, "abc") + field(2, "jane") + field(4, "people") + field(5, "client auth") +
                     field(6, field(1, "key") + field(2, field(1, "a") + field(1, "b"))) + field(7, "a.b/c") +
                     number(8, 100);
  std::string condition =
      field(1, "Approved") + field(2, "R") + field(3, "M") + field(4, number(1, 60)) + field(6, "True");
  std::string body = field(1, field(1, "r")) + field(2, spec) + field(3, field(1, condition) + field(2, "xyz"));
  std::string message =
      std::string("k8s\0", 4) + field(1, field(1, "certificates.k8s.io/v1") + field(2, "CertificateSigningRequest")) +
      "\x12" + std::string({static_cast<char>(body.size() | 0x80), static_cast<char>(body.size() >> 7)}) + body;
  auto out = decode(message, FieldValidation::kStrict, "application/vnd.kubernetes.protobuf");
  ASSERT_TRUE(out.ok()) << out.error().message();
  EXPECT_EQ(
      json::serialize(out->document),
      R"({"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"r"},"spec":{"request":"YWJj","username":"jane","groups":["people"],"usages":["client auth"],"extra":{"key":["a","b"]},"signerName":"a.b/c","expirationSeconds":100},"status":{"conditions":[{"type":"Approved","reason":"R","message":"M","lastUpdateTime":"1970-01-01T00:01:00Z","status":"True"}],"certificate":"eHl6"}})");
}

TEST(Protobuf, InlineMessagesAndNumbers) {
  // Pod with a container (name 1, livenessProbe 10 {handler 1 {tcpSocket 3 {port 1}}, periodSeconds 4}).
  std::string probe = field(1, field(3, field(1, number(1, 0) + number(2, 80) + field(3, "")))) + number(4, 5);
  std::string pod = field(2, field(2, field(1, "c") + field(10, probe)));
  std::string message = std::string("k8s\0", 4) + field(1, field(1, "v1") + field(2, "Pod")) + field(2, pod);
  auto out = decodeProtobuf(kinds(), message);
  ASSERT_TRUE(out.ok()) << out.error().message();
  EXPECT_EQ(
      json::serialize(*out),
      R"({"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"c","livenessProbe":{"tcpSocket":{"port":80},"periodSeconds":5}}]}})");
}

json::object defaulted(std::string_view text) {
  auto out = decode(text);
  EXPECT_TRUE(out.ok()) << (out.ok() ? "" : out.error().message());
  applyDefaults(*out->kind, out->document);
  json::object again = out->document;
  applyDefaults(*out->kind, again);
  EXPECT_EQ(again, out->document) << "defaults are not idempotent";
  return out->document;
}

TEST(Defaults, Pod) {
  json::object pod = defaulted(
      R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"volumes":[{"name":"v"},{"name":"s","secret":{}}],
    "containers":[{"name":"c","image":"nginx","ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"port":80},"timeoutSeconds":0},
    "resources":{"limits":{"cpu":"1"}}},{"name":"d","image":"r/x@sha256:1"}]}})");
  EXPECT_EQ(
      json::serialize(pod.at("spec")),
      R"({"volumes":[{"name":"v","emptyDir":{}},{"name":"s","secret":{"defaultMode":420}}],"containers":[{"name":"c","image":"nginx",)"
      R"("ports":[{"containerPort":80,"protocol":"TCP"}],"livenessProbe":{"httpGet":{"port":80,"path":"/","scheme":"HTTP"},"timeoutSeconds":1,)"
      R"("periodSeconds":10,"successThreshold":1,"failureThreshold":3},"resources":{"limits":{"cpu":"1"},"requests":{"cpu":"1"}},)"
      R"("terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"Always"},)"
      R"({"name":"d","image":"r/x@sha256:1","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],)"
      R"("restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","securityContext":{},"schedulerName":"default-scheduler","enableServiceLinks":true})");
}

TEST(Defaults, DeploymentServiceSecretNamespace) {
  json::object d = defaulted(
      R"({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{}}})");
  EXPECT_EQ(json::serialize(d.at("spec").at("strategy")),
            R"({"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}})");
  EXPECT_EQ(d.at("spec").at("replicas"), 1);
  // A zero that was asked for stays.
  json::object zero = defaulted(
      R"({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"selector":{"matchLabels":{"a":"b"}},"strategy":{"rollingUpdate":{"maxUnavailable":0}},"template":{}}})");
  EXPECT_EQ(json::serialize(zero.at("spec").at("strategy")),
            R"({"rollingUpdate":{"maxUnavailable":0,"maxSurge":"25%"},"type":"RollingUpdate"})");
  json::object s = defaulted(
      R"({"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"type":"NodePort","ports":[{"port":80}]}})");
  EXPECT_EQ(
      json::serialize(s.at("spec")),
      R"({"type":"NodePort","ports":[{"port":80,"protocol":"TCP","targetPort":80}],"sessionAffinity":"None","externalTrafficPolicy":"Cluster","internalTrafficPolicy":"Cluster"})");
  json::object secret =
      defaulted(R"({"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"stringData":{"k":"v"}})");
  EXPECT_EQ(json::serialize(secret),
            R"({"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"type":"Opaque","data":{"k":"dg=="}})");
  EXPECT_EQ(defaulted(R"({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}})")
                .at("metadata")
                .at("labels")
                .at("kubernetes.io/metadata.name"),
            "n");
}

std::string problemsOf(std::string_view text, const json::object* before = nullptr) {
  auto out = decode(text);
  if (!out.ok()) return out.error().message();
  applyDefaults(*out->kind, out->document);
  auto result = validate(*out->kind, out->document, {.before = before});
  return result.ok() ? "" : result.error().message();
}

TEST(Validate, PodTexts) {
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c"}]}})"),
      "Pod \"x\" is invalid: spec.containers[0].image: Required value");
  EXPECT_EQ(problemsOf(R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{}})"),
            "Pod \"x\" is invalid: spec.containers: Required value");
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i","imagePullPolicy":"Now"},{"name":"c","image":"i"}]}})"),
      "Pod \"x\" is invalid: [spec.containers[1].name: Duplicate value: \"c\", spec.containers[0].imagePullPolicy: "
      "Unsupported value: \"Now\": "
      "supported values: \"Always\", \"IfNotPresent\", \"Never\"]");
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i","volumeMounts":[{"name":"v","mountPath":"/a"}]}]}})"),
      "Pod \"x\" is invalid: spec.containers[0].volumeMounts[0].name: Not found: \"v\"");
  EXPECT_NE(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"X_","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i"}]}})")
          .find("metadata.name: Invalid value: \"X_\": a lowercase RFC 1123 subdomain"),
      std::string::npos);
  EXPECT_NE(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1"},"requests":{"cpu":"2"}}}]}})")
          .find("spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu "
                "limit of 1"),
      std::string::npos);
}

TEST(Validate, PodUpdatesChangeOnlyWhatTheyMay) {
  json::object before = defaulted(
      R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i:1"}]}})");
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i:2"}]}})",
          &before),
      "");
  std::string text = problemsOf(
      R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","namespace":"d"},"spec":{"containers":[{"name":"c","image":"i:1","args":["x"]}]}})",
      &before);
  EXPECT_TRUE(text.starts_with(
      "Pod \"x\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"))
      << text;
}

TEST(Validate, WorkloadTexts) {
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"w","namespace":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}})"),
      "Deployment.apps \"w\" is invalid: spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does "
      "not match template `labels`");
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"v1","kind":"Service","metadata":{"name":"s","namespace":"d"},"spec":{"ports":[{"port":0}]}})"),
      "Service \"s\" is invalid: [spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive, "
      "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive]");
  EXPECT_EQ(
      problemsOf(R"({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"s","namespace":"d"},"data":{"a b":"x"}})")
          .substr(0, 77),
      "ConfigMap \"s\" is invalid: data[a b]: Invalid value: \"a b\": a valid config key");
  EXPECT_EQ(
      problemsOf(
          R"({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"a:b","namespace":"d"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]})"),
      "");
}

std::filesystem::path facts() {
  std::filesystem::path folder = DHOW_SOURCE_DIR;
  for (int up = 0; up < 3; ++up) {
    folder = folder.parent_path();
    if (std::filesystem::exists(folder / "shared" / "kubernetes-1.35")) break;
  }
  return folder / "shared" / "kubernetes-1.35";
}

json::value readJson(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  json::parse_options options;
  options.max_depth = 200;
  return json::parse(text.str(), {}, options);
}

TEST(Samples, EverySampleOfOurKindsSurvives) {
  if (!std::filesystem::exists(facts() / "samples")) GTEST_SKIP() << "the samples are not beside the checkout";
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(facts() / "samples")) {
    json::value sample = readJson(entry.path());
    if (!sample.as_object().contains("apiVersion") || !sample.as_object().contains("kind")) continue;
    const KindInfo* kind =
        kinds().findKind(std::string(sample.at("apiVersion").as_string()), std::string(sample.at("kind").as_string()));
    if (!kind) continue;
    ++seen;
    auto out = decode(json::serialize(sample));
    ASSERT_TRUE(out.ok()) << entry.path().filename() << ": " << out.error().message();
    EXPECT_EQ(json::value(out->document), sample) << entry.path().filename();
    json::object once = out->document;
    applyDefaults(*kind, once);
    json::object twice = once;
    applyDefaults(*kind, twice);
    EXPECT_EQ(once, twice) << entry.path().filename();
    (void)validate(*kind, once);
  }
  EXPECT_GT(seen, 25);
}

TEST(Samples, OurFieldsAreThePublishedOnes) {
  if (!std::filesystem::exists(facts() / "schemas.json"))
    GTEST_SKIP() << "the published schemas are not beside the checkout";
  json::value published = readJson(facts() / "schemas.json");
  for (const auto& [name, type] : kinds().types()) {
    // Kinds of our own, and those that are custom resources elsewhere.
    if (type.openApiName.starts_with("io.k8s.api.dhow.") || type.openApiName.starts_with("io.k8s.api.gateway."))
      continue;
    const json::value* schema = published.as_object().if_contains(type.openApiName);
    ASSERT_TRUE(schema) << type.openApiName;
    const json::value* properties = schema->as_object().if_contains("properties");
    if (!properties) continue;
    for (const auto& member : properties->as_object()) {
      if (type.isKind && (member.key() == "apiVersion" || member.key() == "kind")) continue;
      EXPECT_TRUE(type.field(member.key())) << name << "." << std::string_view(member.key());
    }
    for (const Field& f : type.fields) EXPECT_TRUE(properties->as_object().contains(f.name)) << name << "." << f.name;
  }
}

}  // namespace
}  // namespace dhow::object
