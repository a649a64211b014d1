#include "image/reference.h"

#include <gtest/gtest.h>

#include "image/spec.h"

namespace dhow::image {
namespace {

const std::string kHex(64, 'a');

TEST(Reference, NormalizesFamiliarNames) {
  struct Case {
    std::string text, str, familiar;
  };
  for (const auto& c : std::vector<Case>{
           {"nginx", "docker.io/library/nginx", "nginx"},
           {"nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"},
           {"library/nginx", "docker.io/library/nginx", "nginx"},
           {"index.docker.io/nginx", "docker.io/library/nginx", "nginx"},
           {"bitnami/redis", "docker.io/bitnami/redis", "bitnami/redis"},
           {"localhost/a", "localhost/a", "localhost/a"},
           {"localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b"},
           {"registry.example/a/b-c/d__e", "registry.example/a/b-c/d__e", "registry.example/a/b-c/d__e"},
           {"[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"},
           {"a@sha256:" + kHex, "docker.io/library/a@sha256:" + kHex, "a@sha256:" + kHex},
           {"a:t@sha256:" + kHex, "docker.io/library/a:t@sha256:" + kHex, "a:t@sha256:" + kHex},
           {"foo.com:8080", "docker.io/library/foo.com:8080", "foo.com:8080"},
           {"Upper.example/a", "Upper.example/a", "Upper.example/a"},
       }) {
    auto parsed = Reference::parse(c.text);
    ASSERT_TRUE(parsed.ok()) << c.text << ": " << parsed.error().message();
    EXPECT_EQ(parsed->str(), c.str);
    EXPECT_EQ(parsed->familiar(), c.familiar);
  }
}

TEST(Reference, RefusesBadOnesInDockersWords) {
  for (const char* text : {"", " ", "a b", ":tag", "a:", "a:.x", "-a", "a-", "a..b", "a___b", "a/", "/a", "a//b",
                           "a@sha256:abc", "a@", "http://x", "x.io:999999/a", "a:t:u", "[::1/a"}) {
    auto parsed = Reference::parse(text);
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().message(), "invalid reference format") << text;
    EXPECT_EQ(parsed.error().code(), Code::kBadRequest);
  }
  EXPECT_EQ(Reference::parse("Nginx").error().message(),
            "invalid reference format: repository name (library/Nginx) must be lowercase");
  EXPECT_EQ(Reference::parse(kHex).error().message(),
            "invalid repository name (" + kHex + "), cannot specify 64-byte hexadecimal strings");
  EXPECT_EQ(Reference::parse(std::string(256, 'a')).error().message(),
            "repository name must not be more than 255 characters");
}

TEST(Reference, DefaultTagOnlyWithoutDigest) {
  EXPECT_EQ(Reference::parse("a")->withDefaultTag().familiar(), "a:latest");
  EXPECT_EQ(Reference::parse("a@sha256:" + kHex)->withDefaultTag().familiar(), "a@sha256:" + kHex);
}

TEST(Platform, ParsesWhatPeopleWrite) {
  EXPECT_EQ(Platform::parse("linux/arm/v7")->str(), "linux/arm/v7");
  EXPECT_EQ(Platform::parse("arm64")->str(), "linux/arm64");
  EXPECT_EQ(Platform::parse("linux/x86_64")->str(), "linux/amd64");
  EXPECT_EQ(Platform::parse("windows")->os, "windows");
  EXPECT_FALSE(Platform::parse("bogus").ok());
  EXPECT_FALSE(Platform::parse("a/b/c/d").ok());
  EXPECT_FALSE(Platform::parse("linux//v7").ok());
}

TEST(Platform, PrefersExactThenLowerVariants) {
  Platform v7{"linux", "arm", "v7", ""}, v6{"linux", "arm", "v6", ""}, v8{"linux", "arm", "v8", ""},
      amd{"linux", "amd64", "", ""};
  EXPECT_EQ(platformDistance(v7, v7), 0);
  EXPECT_EQ(platformDistance(v7, v6), 1);
  EXPECT_EQ(platformDistance(v6, v7), std::nullopt);
  EXPECT_EQ(platformDistance(v7, v8), std::nullopt);
  EXPECT_EQ(platformDistance(amd, Platform{"windows", "amd64", "", "10.0"}), std::nullopt);
  EXPECT_EQ(platformDistance(Platform{"linux", "arm64", "", ""}, Platform{"linux", "arm64", "v8", ""}), 0);
  EXPECT_LT(*platformDistance(Platform{"linux", "arm64", "", ""}, v7), 200);
}

TEST(Spec, RefusesDamagedDocuments) {
  EXPECT_FALSE(parseManifest("").ok());
  EXPECT_FALSE(parseManifest("[]").ok());
  EXPECT_FALSE(parseManifest("{}").ok());
  EXPECT_FALSE(parseManifest(R"({"schemaVersion":1,"fsLayers":[]})").ok());
  EXPECT_FALSE(parseManifest(R"({"config":{"digest":"sha256:zz","size":1},"layers":[]})").ok());
  EXPECT_FALSE(parseManifest(R"({"config":{"digest":"sha256:)" + kHex + R"(","size":-1},"layers":[]})").ok());
  EXPECT_FALSE(parseManifest(R"({"config":{"digest":"sha256:)" + kHex + R"(","size":1},"layers":[1]})").ok());
  EXPECT_FALSE(parseIndex("{}").ok());
  EXPECT_FALSE(parseImageConfig(R"({"rootfs":{"diff_ids":["../../etc"]}})").ok());
}

TEST(Spec, ConfigSurvivesARoundTrip) {
  ImageConfig config;
  config.platform = {"linux", "amd64", "", ""};
  config.created = "2026-01-02T03:04:05Z";
  config.run.entrypoint = {"/bin/hello"};
  config.run.env = {"A=b"};
  config.run.exposedPorts = {"80/tcp"};
  config.run.labels = {{"x", "y"}};
  config.run.healthcheck = HealthCheck{{"CMD", "true"}, std::chrono::seconds(3), {}, {}, {}, 2};
  config.diffIds = {"sha256:" + kHex};
  config.history = {{"2026-01-02T03:04:05Z", "COPY", "", "", false}};
  auto back = parseImageConfig(toJson(config));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(toJson(*back), toJson(config));
  EXPECT_EQ(back->run.healthcheck->interval, std::chrono::seconds(3));
}

}  // namespace
}  // namespace dhow::image
