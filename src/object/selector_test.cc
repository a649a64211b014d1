#include "object/selector.h"

#include <gtest/gtest.h>
#include <boost/json/parse.hpp>

#include "object/views.h"

namespace dhow::object {
namespace {

ObjectPtr parse(std::string_view text) {
  return Object::parse(text).value();
}

ObjectPtr web() {
  return parse(
      R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n","labels":{"app":"web","size":"7"}},
    "spec":{"nodeName":"n1","containers":[{"name":"c","ports":[{"containerPort":80}],"resources":{"requests":{"cpu":"500m"}}}]},
    "status":{"phase":"Running"}})");
}

TEST(LabelSelector, EveryOperator) {
  auto pod = web();
  for (std::string_view text : {"", "app=web", "app==web", "app", "!old", "app in (x, web)", "app notin (x)", "app!=x",
                                "size>3", "size<9", "app=web,size=7"})
    EXPECT_TRUE(LabelSelector::parse(text)->matches(*pod)) << text;
  for (std::string_view text : {"app=x", "!app", "old", "app notin (web)", "size>7", "app=web,old"})
    EXPECT_FALSE(LabelSelector::parse(text)->matches(*pod)) << text;
  EXPECT_EQ(LabelSelector::parse("app in (b,a) , !x,y!=1")->text(), "app in (a,b),!x,y!=1");
}

TEST(LabelSelector, RefusesBadSyntax) {
  for (std::string_view text : {"a b", "=x", "app in web", "app in (a", "a,", "-a=b", "app=b/c", "x>y"})
    EXPECT_EQ(LabelSelector::parse(text).ok(), false) << text;
}

TEST(LabelSelector, Documents) {
  auto pod = web();
  auto of = [](std::string_view text) {
    boost::json::value value = boost::json::parse(text);
    return LabelSelector::fromDocument(&value).value();
  };
  EXPECT_TRUE(of("{}").matches(*pod));
  EXPECT_TRUE(of(R"({"matchLabels":{"app":"web"},"matchExpressions":[{"key":"size","operator":"In","values":["7"]}]})")
                  .matches(*pod));
  EXPECT_FALSE(of(R"({"matchExpressions":[{"key":"app","operator":"DoesNotExist"}]})").matches(*pod));
  EXPECT_FALSE(LabelSelector::fromDocument(nullptr)->matches(*pod));
}

TEST(FieldSelector, KnowsTheFieldsOfTheKind) {
  const KindInfo& pods = *Kinds::builtin().findKind("v1", "Pod");
  auto pod = web();
  EXPECT_TRUE(
      FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed,spec.hostNetwork=false", pods)->matches(*pod));
  EXPECT_TRUE(FieldSelector::parse("spec.host==n1,metadata.namespace=n", pods)->matches(*pod));
  EXPECT_FALSE(FieldSelector::parse("metadata.name=b", pods)->matches(*pod));
  EXPECT_EQ(FieldSelector::parse("spec.nodeName=n1", pods)->exact("spec.nodeName"), "n1");
  auto bad = FieldSelector::parse("spec.foo=1", pods);
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().message(), "field label not supported: spec.foo");
}

TEST(Views, ReadNestedFieldsAndEmptyOnes) {
  auto object = web();
  api::Pod pod(object);
  EXPECT_EQ(pod.metadata().name(), "a");
  EXPECT_EQ(pod.metadata().labels().get("app"), "web");
  for (api::Container container : pod.spec().containers()) {
    EXPECT_EQ(container.name(), "c");
    EXPECT_EQ(container.ports()[0].containerPort(), 80);
    EXPECT_EQ(container.resources().requests().get("cpu").milliValue(), 500);
    EXPECT_FALSE(container.hasLivenessProbe());
    EXPECT_EQ(container.livenessProbe().httpGet().port().number(), 0);
  }
  EXPECT_TRUE(api::Deployment(object).spec().template_().spec().containers().empty());
}

TEST(Quantity, ParsesAndPrintsCanonically) {
  for (auto [in, out] : std::initializer_list<std::pair<std::string_view, std::string_view>>{{"0.5", "500m"},
                                                                                             {"1024Mi", "1Gi"},
                                                                                             {"1000m", "1"},
                                                                                             {"1e3", "1e3"},
                                                                                             {"1.5Gi", "1536Mi"},
                                                                                             {"0", "0"},
                                                                                             {"100k", "100k"},
                                                                                             {"1000", "1k"},
                                                                                             {"-1", "-1"},
                                                                                             {"12e6", "12e6"},
                                                                                             {"0.1n", "1n"},
                                                                                             {"+5", "5"},
                                                                                             {"1Ki", "1Ki"},
                                                                                             {"0.5Mi", "512Ki"}})
    EXPECT_EQ(Quantity::parse(in)->text(), out) << in;
  for (std::string_view bad : {"", "x", "1.2.3", "1Zi", "--1", "1 Mi", "1e", "m"})
    EXPECT_FALSE(Quantity::parse(bad).ok()) << bad;
  EXPECT_EQ(Quantity::parse("100m")->value(), 1);
  EXPECT_LT(*Quantity::parse("100M"), *Quantity::parse("100Mi"));
}

}  // namespace
}  // namespace dhow::object
