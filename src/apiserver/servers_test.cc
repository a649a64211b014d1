// Several API servers over one store, each behind a network of its own: what they must never do to each other.
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <set>

#include "apiserver/server.h"
#include "client/fields.h"
#include "store/memory_store.h"

namespace dhow::apiserver {
namespace {

using namespace std::chrono_literals;
using client::text;
namespace resources = object::resources;

// The shared store as one server sees it: everything takes its time, and watches lag behind.
class DistantStore final : public store::Store {
 public:
  DistantStore(Loop& loop, store::Store& real) : loop_(loop), real_(real) {}

  Duration longest = 5ms;      // of a way there or back
  Duration longestLag = 30ms;  // of a watch
  bool down = false;           // no quorum
  bool loseNextPlace = false;  // the watch ends with kExpired
  bool frozen = false;         // the watch gives nothing

  Task<Result<std::optional<store::Entry>>> get(std::string key) override { return real_.get(std::move(key)); }
  Task<Result<store::ListResult>> list(std::string prefix, std::string from, size_t limit) override {
    co_await loop_.sleep(some(longest));
    if (down) co_return outage();
    auto all = co_await real_.list(std::move(prefix), std::move(from), limit);
    if (all.ok()) {
      for (auto& entry : all->entries) entry.value.decoded = nullptr;
    }
    co_return all;
  }
  Task<Result<std::unique_ptr<store::Cursor>>> read() override { return real_.read(); }
  Task<Result<Revision>> txn(store::Txn txn) override {
    for (auto& operation : txn.operations) operation.value.decoded = nullptr;
    co_await loop_.sleep(some(longest));
    if (down) co_return outage();
    auto done = co_await real_.txn(std::move(txn));
    co_await loop_.sleep(some(longest));
    co_return done;
  }
  Result<std::unique_ptr<store::Watcher>> watch(std::string prefix, Revision after, bool) override {
    ASSIGN_OR_RETURN(auto watcher, real_.watch(std::move(prefix), after));
    return std::unique_ptr<store::Watcher>(new LateWatcher(*this, std::move(watcher)));
  }
  Task<Result<>> compact(Revision revision) override { return real_.compact(revision); }
  Revision revision() const override { return 0; }
  Task<Result<Revision>> currentRevision() override {
    co_await loop_.sleep(some(longest));
    if (down) co_return outage();
    Revision current = real_.revision();
    co_await loop_.sleep(some(longest));
    co_return current;
  }
  Task<Result<>> advance(Revision atLeast) override { return real_.advance(atLeast); }
  Task<> close() override { co_return; }

 private:
  class LateWatcher final : public store::Watcher {
   public:
    LateWatcher(DistantStore& store, std::unique_ptr<store::Watcher> real) : store_(store), real_(std::move(real)) {}
    Task<Result<Batch>> next() override {
      auto batch = co_await real_->next();
      do {
        co_await store_.loop_.sleep(store_.some(store_.longestLag));
      } while (store_.frozen && !closed_);
      if (std::exchange(store_.loseNextPlace, false)) co_return Error(Code::kExpired, "compacted");
      co_return batch;
    }
    void close() override {
      closed_ = true;
      real_->close();
    }

   private:
    DistantStore& store_;
    std::unique_ptr<store::Watcher> real_;
    bool closed_ = false;
  };

  Duration some(Duration most) {
    return Duration(static_cast<int64_t>(loop_.random() % static_cast<uint64_t>(most.count() + 1)));
  }
  static Error outage() { return Error(Code::kUnavailable, "no leader"); }

  Loop& loop_;
  store::Store& real_;
};

json::object parse(std::string_view text) {
  return json::parse(text).as_object();
}

struct World {
  explicit World(uint64_t seed, size_t count = 3) : loop(seed) {
    for (size_t i = 0; i < count; ++i) {
      stores.push_back(std::make_unique<DistantStore>(loop, shared));
      ServerOptions options;
      options.services.serviceRanges = {"10.96.0.0/24"};
      options.services.nodePortFirst = 30000;
      options.services.nodePortLast = 30199;
      options.advertiseAddress = fmt::format("10.0.0.{}", i + 1);
      options.sharedStore = true;
      servers.push_back(std::make_unique<ApiServer>(loop, *stores[i], object::Kinds::builtin(), options));
      clients.push_back(servers[i]->clientFor("tester"));
    }
  }
  ~World() {
    for (auto& store : stores) store->frozen = false;
    for (auto& server : servers) runOn(loop, server->stop());
    runOn(loop, shared.close());
    loop.advance(1s);
  }
  Task<> startOne(size_t i, int* started) {
    auto done = co_await servers[i]->start();
    EXPECT_TRUE(done.ok()) << done.error().message();
    ++*started;
  }
  void start() {
    int started = 0;
    for (size_t i = 0; i < servers.size(); ++i) spawn(loop, startOne(i, &started));
    ASSERT_TRUE(loop.runUntil([&] { return started == static_cast<int>(servers.size()); }, 60s));
  }
  Result<ObjectPtr> create(size_t i, const Resource& resource, std::string ns, std::string_view body) {
    return runOn(loop, clients[i]->create(resource, std::move(ns), parse(body), "", ""));
  }
  Result<ObjectPtr> get(size_t i, const Resource& resource, std::string ns, std::string name) {
    return runOn(loop, clients[i]->get(resource, std::move(ns), std::move(name)));
  }
  Result<> remove(size_t i, const Resource& resource, std::string ns, std::string name) {
    return runOn(loop, clients[i]->remove(resource, std::move(ns), std::move(name), {}));
  }
  std::set<std::string> claims() {
    std::set<std::string> out;
    auto all = runOn(loop, shared.list("/registry/claims/", "", 0));
    for (const auto& entry : all->entries) out.insert(entry.key.substr(std::string("/registry/claims/").size()));
    return out;
  }

  SimLoop loop;
  store::MemoryStore shared{loop};
  std::vector<std::unique_ptr<DistantStore>> stores;
  std::vector<std::unique_ptr<ApiServer>> servers;
  std::vector<std::unique_ptr<client::Client>> clients;
};

Task<> createInto(client::Client* client, Resource resource, std::string ns, json::object body,
                  std::vector<Result<ObjectPtr>>* out) {
  auto made = co_await client->create(resource, std::move(ns), std::move(body), "", "");
  out->push_back(std::move(made));
}

TEST(ApiServers, StartTogetherOnAnEmptyStore) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(seed);
    world.start();
    auto endpoints = world.get(0, resources::kEndpoints, "default", "kubernetes");
    ASSERT_TRUE(endpoints.ok());
    auto text = json::serialize(endpoints.value()->root());
    for (auto address : {"10.0.0.1", "10.0.0.2", "10.0.0.3"}) EXPECT_NE(text.find(address), text.npos) << seed << text;
    EXPECT_TRUE(runOn(world.loop, world.servers[1]->publishMasters({"10.0.0.2", "10.0.0.3"})).ok());
    auto left = json::serialize(world.get(2, resources::kEndpointSlices, "default", "kubernetes").value()->root());
    EXPECT_EQ(left.find("10.0.0.1"), left.npos) << left;
    EXPECT_NE(left.find("10.0.0.2"), left.npos);
  }
}

TEST(ApiServers, NeverGiveAnAddressOrAPortTwice) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    World world(seed);
    world.start();
    std::vector<Result<ObjectPtr>> made;
    for (int i = 0; i < 150; ++i) {
      auto body = parse(
          fmt::format(R"({{"metadata":{{"name":"s{}"}},"spec":{{"type":"NodePort","ports":[{{"port":80}}]}}}})", i));
      spawn(world.loop, createInto(world.clients[static_cast<size_t>(i) % 3].get(), resources::kServices, "default",
                                   std::move(body), &made));
    }
    ASSERT_TRUE(world.loop.runUntil([&] { return made.size() == 150; }, 60s));
    std::set<std::string> addresses;
    std::set<int64_t> ports;
    for (const auto& one : made) {
      ASSERT_TRUE(one.ok()) << one.error().message();
      const auto& spec = client::object((*one)->root(), {"spec"});
      EXPECT_TRUE(addresses.emplace(text(spec, "clusterIP")).second);
      EXPECT_TRUE(ports.insert(client::number(client::array(spec, {"ports"})[0].as_object(), {"nodePort"}, 0)).second);
    }
    EXPECT_EQ(world.claims().size(), 301u) << "each claim is kept, and that of the service kubernetes";
  }
}

TEST(ApiServers, AChosenAddressGoesToOneServiceAndIsFreeAgainAfterIt) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(seed);
    world.start();
    std::vector<Result<ObjectPtr>> made;
    for (size_t i = 0; i < 3; ++i) {
      auto body = parse(fmt::format(
          R"({{"metadata":{{"name":"s{}"}},"spec":{{"clusterIP":"10.96.0.50","ports":[{{"port":80}}]}}}})", i));
      spawn(world.loop, createInto(world.clients[i].get(), resources::kServices, "default", std::move(body), &made));
    }
    ASSERT_TRUE(world.loop.runUntil([&] { return made.size() == 3; }, 60s));
    std::string winner;
    for (const auto& one : made) {
      if (one.ok())
        winner = one.value()->name();
      else
        EXPECT_EQ(one.error().code(), Code::kInvalid) << one.error().message();
    }
    ASSERT_FALSE(winner.empty());
    EXPECT_EQ(std::count_if(made.begin(), made.end(), [](const auto& one) { return one.ok(); }), 1);
    ASSERT_TRUE(world.remove(1, resources::kServices, "default", winner).ok());
    EXPECT_FALSE(world.claims().contains("service-address/10.96.0.50"));
    auto again =
        world.create(2, resources::kServices, "default",
                     R"({"metadata":{"name":"next"},"spec":{"clusterIP":"10.96.0.50","ports":[{"port":80}]}})");
    EXPECT_TRUE(again.ok()) << again.error().message();
  }
}

TEST(ApiServers, ReadsAreNotOlderThanAWriteThatAnotherServerAcknowledged) {
  World world(5);
  world.start();
  for (int round = 0; round < 30; ++round) {
    size_t writer = static_cast<size_t>(round) % 3, reader = (writer + 1) % 3;
    std::string name = fmt::format("c{}", round);
    ASSERT_TRUE(world
                    .create(writer, resources::kConfigMaps, "default",
                            fmt::format(R"({{"metadata":{{"name":"{}"}},"data":{{"a":"1"}}}})", name))
                    .ok());
    EXPECT_TRUE(world.get(reader, resources::kConfigMaps, "default", name).ok());
    auto patched = runOn(world.loop, world.clients[reader]->patch(resources::kConfigMaps, "default", name, "",
                                                                  PatchType::kMerge, parse(R"({"data":{"a":"2"}})")));
    ASSERT_TRUE(patched.ok());
    auto listed = runOn(world.loop, world.clients[writer]->list(resources::kConfigMaps, {.ns = "default"}));
    ASSERT_TRUE(listed.ok());
    for (const auto& item : listed->items) {
      if (item->name() == name) EXPECT_EQ(text(item->root(), {"data", "a"}), "2");
    }
    // Said of an old state, this would be "unchanged".
    auto back = runOn(world.loop, world.clients[writer]->patch(resources::kConfigMaps, "default", name, "",
                                                               PatchType::kMerge, parse(R"({"data":{"a":"1"}})")));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(text(world.get(reader, resources::kConfigMaps, "default", name).value()->root(), {"data", "a"}), "1");
    ASSERT_TRUE(world.remove(writer, resources::kConfigMaps, "default", name).ok());
    EXPECT_EQ(world.get(reader, resources::kConfigMaps, "default", name).error().code(), Code::kNotFound);
  }
}

Task<> annotate(client::Client* client, std::string key, int* done) {
  auto patched = co_await client->patch(resources::kConfigMaps, "default", "shared", "", PatchType::kMerge,
                                        json::object{{"data", json::object{{key, "x"}}}});
  EXPECT_TRUE(patched.ok()) << patched.error().message();
  ++*done;
}

TEST(ApiServers, PatchesOfOneObjectThroughAllServersAreAllKept) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    World world(seed);
    world.start();
    ASSERT_TRUE(world.create(0, resources::kConfigMaps, "default", R"({"metadata":{"name":"shared"}})").ok());
    int done = 0;
    for (int i = 0; i < 30; ++i) {
      spawn(world.loop, annotate(world.clients[static_cast<size_t>(i) % 3].get(), fmt::format("k{}", i), &done));
    }
    ASSERT_TRUE(world.loop.runUntil([&] { return done == 30; }, 60s));
    auto end = world.get(1, resources::kConfigMaps, "default", "shared");
    EXPECT_EQ(client::object(end.value()->root(), {"data"}).size(), 30u);
  }
}

TEST(ApiServers, OnePodIsBoundOnce) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World world(seed);
    world.start();
    ASSERT_TRUE(world.create(0, resources::kServiceAccounts, "default", R"({"metadata":{"name":"default"}})").ok());
    ASSERT_TRUE(world
                    .create(0, resources::kPods, "default",
                            R"({"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}})")
                    .ok());
    std::vector<Result<ObjectPtr>> bound;
    for (size_t i = 0; i < 3; ++i) {
      json::object binding = parse(fmt::format(R"({{"target":{{"kind":"Node","name":"n{}"}}}})", i));
      auto bind = [](client::Client* client, json::object body, std::vector<Result<ObjectPtr>>* out) -> Task<> {
        auto made = co_await client->create(resources::kPods, "default", std::move(body), "p", "binding");
        out->push_back(std::move(made));
      };
      spawn(world.loop, bind(world.clients[i].get(), std::move(binding), &bound));
    }
    ASSERT_TRUE(world.loop.runUntil([&] { return bound.size() == 3; }, 60s));
    EXPECT_EQ(std::count_if(bound.begin(), bound.end(), [](const auto& one) { return one.ok(); }), 1);
    for (const auto& one : bound) {
      if (!one.ok()) EXPECT_EQ(one.error().code(), Code::kConflict);
    }
  }
}

TEST(ApiServers, NothingEntersANamespaceOnceItsDeletionIsAcknowledged) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    World world(seed);
    world.start();
    ASSERT_TRUE(world.create(0, resources::kNamespaces, "", R"({"metadata":{"name":"going"}})").ok());
    std::vector<Result<ObjectPtr>> made;
    for (int i = 0; i < 60; ++i) {
      auto late = [](World* world, int i, std::vector<Result<ObjectPtr>>* out) -> Task<> {
        co_await world->loop.sleep(Duration(static_cast<int64_t>(world->loop.random() % 60'000'000)));
        auto one = co_await world->clients[static_cast<size_t>(i) % 3]->create(
            resources::kConfigMaps, "going", parse(fmt::format(R"({{"metadata":{{"name":"c{}"}}}})", i)), "", "");
        out->push_back(std::move(one));
      };
      spawn(world.loop, late(&world, i, &made));
    }
    world.loop.advance(20ms);
    ASSERT_TRUE(world.remove(1, resources::kNamespaces, "", "going").ok());
    ASSERT_TRUE(world.loop.runUntil([&] { return made.size() == 60; }, 60s));
    auto ended = world.get(0, resources::kNamespaces, "", "going").value()->resourceVersion();
    for (const auto& one : made) {
      if (one.ok())
        EXPECT_LT((*one)->resourceVersion(), ended);
      else
        EXPECT_EQ(one.error().code(), Code::kPermissionDenied) << one.error().message();
    }
  }
}

TEST(ApiServers, ServicesFromBeforeClaimsWereKeptGetTheirs) {
  World world(3);
  store::Txn txn;
  store::Operation put{store::Operation::Type::kPut, "/registry/services/default/old", {}};
  put.value.bytes = std::make_shared<const std::string>(
      R"({"kind":"Service","apiVersion":"v1","metadata":{"name":"old","namespace":"default","uid":"u"},)"
      R"("spec":{"type":"NodePort","clusterIP":"10.96.0.77","ports":[{"port":80,"nodePort":30100}]}})");
  txn.operations.push_back(std::move(put));
  ASSERT_TRUE(runOn(world.loop, world.shared.txn(std::move(txn))).ok());
  world.start();
  EXPECT_TRUE(world.claims().contains("service-address/10.96.0.77"));
  EXPECT_TRUE(world.claims().contains("service-port/30100"));
}

TEST(ApiServers, WithoutAQuorumWritesFailAtOnceAndReadsGoOn) {
  World world(4);
  world.start();
  ASSERT_TRUE(world.create(0, resources::kConfigMaps, "default", R"({"metadata":{"name":"c"}})").ok());
  ASSERT_TRUE(world.get(1, resources::kConfigMaps, "default", "c").ok());
  for (auto& store : world.stores) store->down = true;
  auto before = world.loop.now();
  auto refused = world.create(1, resources::kConfigMaps, "default", R"({"metadata":{"name":"d"}})");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code(), Code::kUnavailable);
  EXPECT_LT(world.loop.now() - before, 100ms);
  EXPECT_EQ(world.remove(1, resources::kConfigMaps, "default", "c").error().code(), Code::kUnavailable);
  std::vector<std::string> warnings;
  const auto& kind = *object::Kinds::builtin().find(resources::kConfigMaps);
  auto old = runOn(world.loop, world.servers[1]->registry().get(kind, "default", "c", "", &warnings));
  EXPECT_TRUE(old.ok());
  EXPECT_EQ(warnings.size(), 1u);
  ListQuery query;
  query.resourceVersion = "0";
  query.warnings = &warnings;
  EXPECT_TRUE(runOn(world.loop, world.servers[1]->registry().list(kind, query)).ok());
  EXPECT_EQ(warnings.size(), 1u) << "any version was asked for";
  WatchQuery watch;
  watch.resourceVersion = std::to_string(old.value()->resourceVersion());
  auto watched = runOn(world.loop, world.servers[1]->registry().watch(kind, watch));
  ASSERT_TRUE(watched.ok());
  for (auto& store : world.stores) store->down = false;
  ASSERT_TRUE(world.create(2, resources::kConfigMaps, "default", R"({"metadata":{"name":"e"}})").ok());
  auto batch = runOn(world.loop, (*watched)->next());
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(batch->events.at(0).object->name(), "e");
}

TEST(ApiServers, AServerWhoseWatchHasLostItsPlaceReadsEverythingAnew) {
  World world(6);
  world.start();
  for (auto name : {"gone", "changed", "same", "remade"}) {
    ASSERT_TRUE(
        world.create(0, resources::kConfigMaps, "default", fmt::format(R"({{"metadata":{{"name":"{}"}}}})", name))
            .ok());
  }
  ASSERT_TRUE(world.get(1, resources::kConfigMaps, "default", "remade").ok());
  auto& cache = world.servers[1]->caches().of(resources::kConfigMaps);
  std::vector<std::string> seen;
  auto subscription = cache.subscribe([&](const ObjectPtr& before, const ObjectPtr& after) {
    seen.push_back(fmt::format("{}{}", before ? "-" : "", after ? "+" : "") +
                   std::string((after ? after : before)->name()));
  });
  seen.clear();
  world.stores[1]->frozen = true;
  ASSERT_TRUE(world.remove(0, resources::kConfigMaps, "default", "gone").ok());
  ASSERT_TRUE(world.remove(0, resources::kConfigMaps, "default", "remade").ok());
  ASSERT_TRUE(world.create(0, resources::kConfigMaps, "default", R"({"metadata":{"name":"remade"}})").ok());
  ASSERT_TRUE(runOn(world.loop, world.clients[0]->patch(resources::kConfigMaps, "default", "changed", "",
                                                        PatchType::kMerge, parse(R"({"data":{"a":"1"}})")))
                  .ok());
  world.stores[1]->loseNextPlace = true;
  world.stores[1]->frozen = false;
  EXPECT_EQ(world.get(1, resources::kConfigMaps, "default", "gone").error().code(), Code::kNotFound);
  EXPECT_EQ(text(world.get(1, resources::kConfigMaps, "default", "changed").value()->root(), {"data", "a"}), "1");
  EXPECT_EQ(world.get(1, resources::kConfigMaps, "default", "remade").value()->uid(),
            world.get(0, resources::kConfigMaps, "default", "remade").value()->uid());
  EXPECT_TRUE(world.create(1, resources::kConfigMaps, "default", R"({"metadata":{"name":"after"}})").ok());
  EXPECT_TRUE(world.get(0, resources::kConfigMaps, "default", "after").ok());
}

TEST(ApiServers, AServerThatCannotFollowTheStoreSaysSo) {
  World world(7);
  world.start();
  world.stores[1]->frozen = true;
  ASSERT_TRUE(world.create(0, resources::kConfigMaps, "default", R"({"metadata":{"name":"c"}})").ok());
  EXPECT_EQ(world.get(1, resources::kConfigMaps, "default", "c").error().code(), Code::kDeadlineExceeded);
  world.stores[1]->frozen = false;
  EXPECT_TRUE(world.get(1, resources::kConfigMaps, "default", "c").ok());
}

}  // namespace
}  // namespace dhow::apiserver
