#include <gtest/gtest.h>

#include <random>

#include "fuzz_body.h"

namespace dhow::object {
namespace {

constexpr std::string_view kSeeds[] = {
    R"({"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"d","labels":{"a":"b"},"managedFields":[{"manager":"m","operation":"Update","apiVersion":"v1","fieldsV1":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{}}}}}}]},"spec":{"volumes":[{"name":"v","configMap":{"items":[{"key":"k","path":"p","mode":420}]}}],"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"1","memory":"1Gi"}},"livenessProbe":{"httpGet":{"port":"http"}},"env":[{"name":"A","valueFrom":{"fieldRef":{"fieldPath":"x"}}}]}],"tolerations":[{"operator":"Exists"}]},"status":{"conditions":[{"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}],"containerStatuses":[{"name":"c","restartCount":1,"state":{"waiting":{"reason":"x"}}}]}})",
    R"({"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1,"selector":{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]},"strategy":{"rollingUpdate":{"maxSurge":"25%"}},"template":{"metadata":{"labels":{"a":"b"}}}}})",
    R"({"apiVersion":"v1","kind":"Service","spec":{"type":"NodePort","ports":[{"port":80,"targetPort":"x","nodePort":30000}]}})",
    R"([{"op":"add","path":"/a/0","value":{"op":1}},{"op":"copy","from":"/0","path":"/-"},{"op":"move","from":"/1","path":"/0"}])",
    R"({"spec":{"containers":[{"name":"a","$patch":"delete"}],"$setElementOrder/containers":[{"name":"a"}],"$retainKeys":["a"]},"$deleteFromPrimitiveList/x":[1]})",
    "apiVersion: v1\nkind: ConfigMap\nmetadata: &a {name: x}\ndata:\n  k: |\n    text\n  <<: *a\n",
    "app in (a,b),!c,d!=e,f>3"};

TEST(Fuzz, MutatedInputsNeverCrash) {
  std::mt19937 random(1);
  auto pick = [&](size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(random); };
  constexpr std::string_view kTokens[] = {"null",        "{}",         "[]", "\"\"", "-1",     "1e99",
                                          "true",        "\"$patch\"", ":",  ",",    "\"a\":", "99999999999999999999",
                                          "\"\\u0000\"", "*a",         "&a "};
  for (int round = 0; round < 4000; ++round) {
    std::string input(kSeeds[pick(std::size(kSeeds))]);
    for (size_t change = pick(4); change-- > 0;) {
      size_t at = pick(input.size());
      switch (pick(4)) {
        case 0: input[at] = static_cast<char>(pick(256)); break;
        case 1: input.erase(at, pick(8)); break;
        case 2: input.insert(at, kTokens[pick(std::size(kTokens))]); break;
        default: input.insert(at, input.substr(pick(input.size()), pick(40)));
      }
      if (input.empty()) input = "x";
    }
    fuzzOne(static_cast<char>(pick(7)) + input);
  }
}

TEST(Fuzz, RandomProtobufNeverCrashes) {
  std::mt19937 random(2);
  auto byte = [&] { return static_cast<char>(std::uniform_int_distribution<int>(0, 60)(random)); };
  for (int round = 0; round < 4000; ++round) {
    std::string input = std::string("\x02k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12", 17);
    std::string body;
    for (int i = 0; i < 100; ++i) body.push_back(byte());
    input.push_back(static_cast<char>(body.size()));
    fuzzOne(input + body);
  }
}

TEST(Fuzz, DeepNestingIsRefused) {
  for (std::string_view open : {"[", "{\"a\":"}) {
    std::string deep;
    for (int i = 0; i < 100'000; ++i) deep += open;
    EXPECT_FALSE(parseJson(deep).ok());
    EXPECT_FALSE(Object::parse(deep).ok());
    for (char choice = 0; choice < 7; ++choice) fuzzOne(choice + deep.substr(0, 200'000));
  }
}

}  // namespace
}  // namespace dhow::object
