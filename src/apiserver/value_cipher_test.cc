#include "apiserver/value_cipher.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>

#include "apiserver/registry.h"
#include "base/strings.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

namespace resources = object::resources;

std::string configOf(const std::vector<std::string>& names) {
  std::string keys;
  for (const auto& name : names)
    keys += fmt::format("      - {{name: {}, secret: {}}}\n", name, toBase64(std::string(32, name.front())));
  return "kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - aesgcm:\n      keys:\n" +
         keys + "  - identity: {}\n";
}

ValueCipher cipherOf(const std::vector<std::string>& names) {
  return ValueCipher::parse(configOf(names)).value();
}

TEST(ValueCipher, ValuesOpenInTheirPlaceAlone) {
  auto cipher = cipherOf({"a"});
  EXPECT_TRUE(cipher.covers("/registry/secrets/default/x"));
  EXPECT_FALSE(cipher.covers("/registry/configmaps/default/x"));
  auto sealed = cipher.seal("/registry/secrets/default/x", "value");
  EXPECT_TRUE(sealed.starts_with("k8s:enc:aesgcm:v1:a:"));
  EXPECT_EQ(cipher.open("/registry/secrets/default/x", sealed).value(), "value");
  EXPECT_FALSE(cipher.open("/registry/secrets/default/y", sealed).ok());
  EXPECT_EQ(cipher.open("/registry/secrets/default/x", "{}").value(), "{}");
  EXPECT_TRUE(cipher.stale("/registry/secrets/default/x", "{}"));
  EXPECT_FALSE(cipher.stale("/registry/secrets/default/x", sealed));
  auto next = cipherOf({"b", "a"});
  EXPECT_EQ(next.open("/registry/secrets/default/x", sealed).value(), "value");
  EXPECT_TRUE(next.stale("/registry/secrets/default/x", sealed));
  EXPECT_NE(cipherOf({"b"}).open("/registry/secrets/default/x", sealed).error().message().find("\"a\""),
            std::string::npos);
  for (size_t i = 0; i < sealed.size(); ++i)
    EXPECT_FALSE(i >= 8 && cipher.open("/registry/secrets/default/x", sealed.substr(0, i)).ok()) << i;
}

TEST(ValueCipher, WhatIsWrongInAConfigurationIsNamed) {
  auto refusal = [](std::string text) {
    auto parsed = ValueCipher::parse(text);
    return parsed.ok() ? std::string() : parsed.error().message();
  };
  EXPECT_EQ(refusal(configOf({"a", "b"})), "");
  EXPECT_NE(refusal(configOf({"a", "a"})).find("two keys"), std::string::npos);
  EXPECT_NE(refusal(configOf({})).find("key"), std::string::npos);
  EXPECT_NE(refusal("kind: X").find("kind"), std::string::npos);
  EXPECT_NE(refusal("[").find("encryption configuration"), std::string::npos);
  EXPECT_NE(refusal("kind: EncryptionConfiguration\nresources:\n- resources: [pods]\n").find("pods"),
            std::string::npos);
  EXPECT_NE(refusal("kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n  - kms: {}\n")
                .find("kms"),
            std::string::npos);
  EXPECT_NE(refusal("kind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n"
                    "  - aesgcm: {keys: [{name: k, secret: c2hvcnQ=}]}\n")
                .find("32 bytes"),
            std::string::npos);
}

// A server over a store that outlives it as bytes.
class Server {
 public:
  Server(std::optional<ValueCipher> cipher, std::vector<store::Entry> entries) : cipher_(std::move(cipher)) {
    for (auto& entry : entries) {
      store::Operation put;
      put.key = entry.key;
      put.value.bytes = entry.value.bytes;
      store::Txn txn;
      txn.operations.push_back(std::move(put));
      EXPECT_TRUE(runOn(loop_, store_.txn(std::move(txn))).ok());
    }
    for (const auto& kind : kinds_.all()) {
      if (kind.stored && !kind.plural.empty() && kind.storedAsKind.empty()) caches_.add(kind.resource());
    }
    registry_ = std::make_unique<Registry>(loop_, store_, caches_, kinds_, StrategyOptions());
    EXPECT_TRUE(runOn(loop_, caches_.start()).ok());
    EXPECT_TRUE(runOn(loop_, registry_->sealAnew()).ok());
    if (entries.empty()) (void)make(resources::kNamespaces, "", R"({"metadata":{"name":"default"}})");
  }
  ~Server() {
    runOn(loop_, store_.close());
    runOn(loop_, caches_.stop());
  }
  Result<Outcome> make(const Resource& resource, std::string ns, std::string_view body) {
    return runOn(loop_,
                 registry_->create(context(), *kinds_.find(resource), std::move(ns), json::parse(body).get_object()));
  }
  Result<Outcome> makeSecret(const std::string& name) {
    return make(resources::kSecrets, "default",
                fmt::format(R"({{"metadata":{{"name":"{}"}},"stringData":{{"k":"v-{}"}}}})", name, name));
  }
  std::string read(const std::string& name) {
    auto got = runOn(loop_, registry_->get(*kinds_.find(resources::kSecrets), "default", name));
    if (!got.ok()) return got.error().message();
    return fromBase64(client::text((*got)->root(), {"data", "k"})).value_or("");
  }
  std::optional<Code> codeOf(const std::string& name) {
    auto got = runOn(loop_, registry_->get(*kinds_.find(resources::kSecrets), "default", name));
    return got.ok() ? std::nullopt : std::optional(got.error().code());
  }
  Result<ListOutcome> list(std::vector<std::string>* warnings) {
    ListQuery query;
    query.warnings = warnings;
    return runOn(loop_, registry_->list(*kinds_.find(resources::kSecrets), std::move(query)));
  }
  Result<Outcome> remove(const std::string& name) {
    return runOn(loop_, registry_->remove(context(), *kinds_.find(resources::kSecrets), "default", name, {}));
  }
  std::vector<store::Entry> entries() { return runOn(loop_, store_.list("/registry/", "", 0)).value().entries; }
  std::string stored(const std::string& name) {
    auto entry = runOn(loop_, store_.get("/registry/secrets/default/" + name)).value();
    return entry ? *entry->value.bytes : "";
  }
  void put(const std::string& key, const std::string& bytes) {
    store::Txn txn;
    store::Operation put;
    put.key = key;
    put.value.bytes = std::make_shared<const std::string>(bytes);
    txn.operations.push_back(std::move(put));
    auto done = runOn(loop_, store_.txn(std::move(txn)));
    EXPECT_TRUE(done.ok());
    EXPECT_TRUE(runOn(loop_, caches_.waitFor(*done)).ok());
  }

 private:
  static Context context() {
    Context context;
    context.fieldManager = "tester";
    return context;
  }
  SimLoop loop_;
  store::MemoryStore store_{loop_};
  const object::Kinds& kinds_ = object::Kinds::builtin();
  std::optional<ValueCipher> cipher_;
  WatchCache caches_{loop_, store_, cipher_ ? &*cipher_ : nullptr};
  std::unique_ptr<Registry> registry_;
};

TEST(EncryptedSecrets, NoValueIsPlainInTheStoreAndKeysCanBeChanged) {
  std::vector<store::Entry> entries;
  {
    Server server(std::nullopt, {});
    ASSERT_TRUE(server.makeSecret("old").ok());
    EXPECT_EQ(server.stored("old").front(), '{');
    entries = server.entries();
  }
  {
    Server server(cipherOf({"a"}), entries);
    ASSERT_TRUE(server.makeSecret("new").ok());
    for (std::string name : {"old", "new"}) {
      EXPECT_TRUE(server.stored(name).starts_with("k8s:enc:aesgcm:v1:a:")) << name;
      EXPECT_EQ(server.stored(name).find(toBase64("v-" + name)), std::string::npos);
      EXPECT_EQ(server.read(name), "v-" + name);
    }
    entries = server.entries();
  }
  Server server(cipherOf({"b", "a"}), entries);
  EXPECT_EQ(server.read("old"), "v-old");
  EXPECT_TRUE(server.stored("old").starts_with("k8s:enc:aesgcm:v1:b:"));
  EXPECT_TRUE(server.stored("new").starts_with("k8s:enc:aesgcm:v1:b:"));
}

TEST(EncryptedSecrets, OneThatCannotBeReadIsNamedAndTheOthersAreServed) {
  std::vector<store::Entry> entries;
  {
    Server server(cipherOf({"a"}), {});
    ASSERT_TRUE(server.makeSecret("good").ok());
    ASSERT_TRUE(server.makeSecret("bad").ok());
    entries = server.entries();
  }
  for (auto& entry : entries) {
    if (!entry.key.ends_with("/bad")) continue;
    auto bytes = *entry.value.bytes;
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    entry.value.bytes = std::make_shared<const std::string>(bytes);
  }
  Server server(cipherOf({"a"}), entries);
  EXPECT_EQ(server.read("good"), "v-good");
  EXPECT_EQ(server.codeOf("bad"), Code::kInternal);
  EXPECT_NE(server.read("bad").find("/registry/secrets/default/bad"), std::string::npos);
  std::vector<std::string> warnings;
  EXPECT_EQ(server.list(&warnings).value().items.size(), 1u);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("default/bad"), std::string::npos);
  EXPECT_EQ(server.makeSecret("bad").error().code(), Code::kInternal);
  EXPECT_EQ(server.remove("bad").error().code(), Code::kInternal);
}

TEST(EncryptedSecrets, ValuesThatAreExchangedOrChangedInTheStoreAreNotServed) {
  Server server(cipherOf({"a"}), {});
  ASSERT_TRUE(server.makeSecret("x").ok());
  ASSERT_TRUE(server.makeSecret("y").ok());
  const auto good = server.stored("x");
  server.put("/registry/secrets/default/x", server.stored("y"));
  EXPECT_EQ(server.codeOf("x"), Code::kInternal);
  EXPECT_EQ(server.read("y"), "v-y");
  server.put("/registry/secrets/default/x", good);
  EXPECT_EQ(server.read("x"), "v-x");
}

TEST(EncryptedSecrets, WithoutTheKeyNothingIsServedAndNothingLost) {
  std::vector<store::Entry> entries;
  {
    Server server(cipherOf({"a"}), {});
    ASSERT_TRUE(server.makeSecret("x").ok());
    entries = server.entries();
  }
  {
    Server server(std::nullopt, entries);
    EXPECT_NE(server.read("x").find("no key is configured"), std::string::npos);
  }
  {
    Server server(cipherOf({"b"}), entries);
    EXPECT_NE(server.read("x").find("\"a\""), std::string::npos);
    entries = server.entries();
  }
  EXPECT_EQ(Server(cipherOf({"a"}), entries).read("x"), "v-x");
}

}  // namespace
}  // namespace dhow::apiserver
