#include "apiserver/pod_security.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

namespace dhow::apiserver {
namespace {

namespace json = boost::json;

json::object parse(std::string_view text) {
  return json::parse(text).get_object();
}

std::string violations(std::string_view spec, PodLevel level, int minor = PodPolicy::kLatest) {
  return podViolations(json::object{{"metadata", json::object()}, {"spec", json::parse(spec)}}, {level, minor});
}

constexpr std::string_view kGood =
    R"({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]})";

TEST(PodSecurity, PlainPodsViolateRestrictedInKubernetesWords) {
  EXPECT_EQ(violations(R"({"containers": [{"name": "c"}]})", PodLevel::kRestricted),
            "allowPrivilegeEscalation != false (container \"c\" must set "
            "securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set "
            "securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set "
            "securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set "
            "securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")");
  EXPECT_EQ(violations(R"({"containers": [{"name": "c"}]})", PodLevel::kBaseline), "");
  EXPECT_EQ(violations(kGood, PodLevel::kRestricted), "");
}

TEST(PodSecurity, PrivilegedLevelForbidsNothing) {
  EXPECT_EQ(
      violations(R"({"hostNetwork": true, "containers": [{"name": "c", "securityContext": {"privileged": true}}]})",
                 PodLevel::kPrivileged),
      "");
}

TEST(PodSecurity, BaselineForbidsWhatReachesTheHost) {
  EXPECT_EQ(violations(R"({"hostNetwork": true, "hostPID": true, "volumes": [{"name": "v", "hostPath": {"path": "/"}}],
      "initContainers": [{"name": "a", "securityContext": {"privileged": true}}],
      "containers": [{"name": "b", "ports": [{"containerPort": 1, "hostPort": 80}],
        "livenessProbe": {"httpGet": {"host": "other", "port": 1}},
        "securityContext": {"privileged": true, "procMount": "Unmasked", "capabilities": {"add": ["NET_ADMIN"]}}}]})",
                       PodLevel::kBaseline),
            "host namespaces (hostNetwork=true, hostPID=true), hostPort (container \"b\" uses hostPort 80), probe or "
            "lifecycle host (container \"b\" uses probe or lifecycle host \"other\"), privileged (containers \"a\", "
            "\"b\" must not set securityContext.privileged=true), procMount (container \"b\" must not set "
            "securityContext.procMount to \"Unmasked\"), non-default capabilities (container \"b\" must not include "
            "\"NET_ADMIN\" in securityContext.capabilities.add), hostPath volumes (volume \"v\")");
  EXPECT_EQ(violations(R"({"securityContext": {"seccompProfile": {"type": "Unconfined"}, "seLinuxOptions": {"type": "x",
      "user": "u"}, "sysctls": [{"name": "kernel.msgmax", "value": "1"}], "appArmorProfile": {"type": "Unconfined"}},
      "containers": [{"name": "c"}]})",
                       PodLevel::kBaseline),
            "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\"), seLinuxOptions "
            "(pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set), forbidden sysctls "
            "(kernel.msgmax), seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")");
}

TEST(PodSecurity, RestrictedJudgesVolumesUsersAndCapabilities) {
  EXPECT_EQ(violations(R"({"securityContext": {"runAsUser": 0, "runAsNonRoot": false,
      "seccompProfile": {"type": "RuntimeDefault"}}, "volumes": [{"name": "v", "hostPath": {"path": "/"}},
      {"name": "w", "nfs": {}}], "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false,
      "runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}]})",
                       PodLevel::kRestricted),
            "unrestricted capabilities (container \"c\" must not include \"SYS_ADMIN\" in "
            "securityContext.capabilities.add), restricted volume types (volumes \"v\", \"w\" use restricted volume "
            "types \"hostPath\", \"nfs\"), runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), "
            "runAsUser=0 (pod and container \"c\" must not set runAsUser=0)");
}

TEST(PodSecurity, VersionsChooseTheRulesOfTheirTime) {
  constexpr std::string_view root = R"({"securityContext": {"runAsNonRoot": true, "runAsUser": 0},
      "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false}}]})";
  EXPECT_EQ(violations(root, PodLevel::kRestricted, 18), "");
  EXPECT_NE(violations(root, PodLevel::kRestricted, 23), "");
}

TEST(PodSecurity, DocumentsOfWrongTypesDoNoHarm) {
  for (std::string_view spec : {R"("x")", R"({"containers": {}})", R"({"containers": [1, {"name": 2,
      "securityContext": []}], "volumes": [null, {"name": 1}]})"}) {
    (void)violations(spec, PodLevel::kBaseline);
    (void)violations(spec, PodLevel::kRestricted);
  }
}

object::ObjectPtr space(std::string_view name, std::string_view labels) {
  return object::Object::make(
      json::object{{"metadata", json::object{{"name", name}, {"labels", json::parse(labels)}}}});
}

TEST(PodSecurity, NamespacesChooseByLabels) {
  PodSecurity open({});
  EXPECT_TRUE(open.policiesOf(*space("a", "{}")).privileged());
  auto policies = open.policiesOf(*space("a", R"({"pod-security.kubernetes.io/enforce": "baseline",
      "pod-security.kubernetes.io/enforce-version": "v1.30"})"));
  EXPECT_EQ(policies.enforce.text(), "baseline:v1.30");
  EXPECT_EQ(policies.warn.text(), "baseline:v1.30");
  policies = open.policiesOf(*space("a", R"({"pod-security.kubernetes.io/warn": "restricted"})"));
  EXPECT_EQ(policies.enforce.text(), "privileged:latest");
  EXPECT_EQ(policies.warn.text(), "restricted:latest");
  EXPECT_EQ(open.policiesOf(*space("a", R"({"pod-security.kubernetes.io/enforce": "x"})")).enforce.level,
            PodLevel::kRestricted);
}

TEST(PodSecurity, RestrictedClustersAreRestrictedWithoutLabelsAndGoDownToBaseline) {
  PodSecurity security(PodSecurityOptions::restricted());
  EXPECT_EQ(security.policiesOf(*space("a", "{}")).enforce.text(), "restricted:latest");
  EXPECT_TRUE(security.policiesOf(*space("kube-system", "{}")).privileged());
  EXPECT_EQ(security.policiesOf(*space("a", R"({"pod-security.kubernetes.io/enforce": "baseline"})")).enforce.level,
            PodLevel::kBaseline);
  auto wanted = space("a", R"({"pod-security.kubernetes.io/enforce": "privileged"})");
  EXPECT_EQ(security.policiesOf(*wanted).enforce.level, PodLevel::kBaseline);
  std::vector<ErrorCause> causes;
  security.checkLabels(wanted->root(), causes);
  ASSERT_EQ(causes.size(), 1u);
  EXPECT_NE(causes[0].message.find("down to baseline"), std::string::npos);
}

TEST(PodSecurity, LabelsThatMeanNothingAreNamed) {
  PodSecurity security({});
  std::vector<ErrorCause> causes;
  security.checkLabels(parse(R"({"metadata": {"name": "a", "labels": {"pod-security.kubernetes.io/enforce": "high",
      "pod-security.kubernetes.io/warn-version": "1.30", "pod-security.kubernetes.io/audit": "baseline"}}})"),
                       causes);
  ASSERT_EQ(causes.size(), 2u);
  EXPECT_EQ(causes[0].field, "metadata.labels[pod-security.kubernetes.io/enforce]");
  EXPECT_EQ(causes[0].message, "Invalid value: \"high\": must be one of privileged, baseline, restricted");
  EXPECT_EQ(causes[1].message, "Invalid value: \"1.30\": must be \"latest\" or \"v1.x\"");
}

TEST(PodSecurity, PodsOfRestrictedClustersHaveUsersOfTheirOwn) {
  PodSecurity open({}), closed(PodSecurityOptions::restricted());
  auto given = [](const PodSecurity& security, std::string_view ns, std::string_view spec) {
    json::object pod = parse(spec);
    security.giveOwnUsers(ns, pod);
    return json::serialize(pod);
  };
  EXPECT_EQ(given(open, "default", "{}"), "{}");
  EXPECT_EQ(given(closed, "default", "{}"), R"({"hostUsers":false})");
  EXPECT_EQ(given(closed, "default", R"({"hostUsers":null})"), R"({"hostUsers":false})");
  EXPECT_EQ(given(closed, "default", R"({"hostUsers":true})"), R"({"hostUsers":true})");
  EXPECT_EQ(given(closed, "default", R"({"hostIPC":true})"), R"({"hostIPC":true})");
  EXPECT_EQ(given(closed, "kube-system", "{}"), "{}");
  json::object pod{{"metadata", json::object()}, {"spec", parse(kGood)}};
  EXPECT_EQ(closed.violations(pod, {PodLevel::kRestricted}), "");
  pod["spec"].get_object()["hostUsers"] = true;
  EXPECT_EQ(open.violations(pod, {PodLevel::kRestricted}), "");
  EXPECT_EQ(closed.violations(pod, {PodLevel::kRestricted}), "host users (pod must not set hostUsers=true)");
  EXPECT_EQ(closed.violations(pod, {PodLevel::kPrivileged}), "");
  pod["spec"].get_object()["hostPID"] = true;
  EXPECT_EQ(closed.violations(pod, {PodLevel::kBaseline}),
            "host users (pod must not set hostUsers=true), host namespaces (hostPID=true)");
}

TEST(PodSecurity, PodsThatAreThereAreCountedByWhatTheyViolate) {
  std::vector<object::ObjectPtr> pods;
  for (std::string name : {"c", "a", "b"})
    pods.push_back(object::Object::make(parse(R"({"metadata": {"name": ")" + name +
                                              R"("}, "spec": {"hostPID": true, "containers": [{"name": "x"}]}})")));
  auto warnings = PodSecurity::violationsIn("ns", pods, {PodLevel::kBaseline});
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_EQ(warnings[0],
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"");
  EXPECT_EQ(warnings[1], "a (and 2 other pods): host namespaces");
}

}  // namespace
}  // namespace dhow::apiserver
