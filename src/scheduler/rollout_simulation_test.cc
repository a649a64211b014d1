// Rollouts while everything between the components fails: each of deployment, replica set, garbage collection and
// scheduler has a connection and caches of its own, as on several masters. Events come late, watches break and expire,
// requests are refused or their answers get lost, components restart. One seed is one run; DHOW_SEEDS=5000 runs that
// many, DHOW_FIRST_SEED=123 starts elsewhere.
#include <gtest/gtest.h>

#include "base/log.h"
#include "base/strings.h"
#include "client/reflector.h"
#include "faulty_client.h"
#include "simulation.h"

namespace dhow::scheduler {
namespace {

// One component with a connection of its own.
class Part {
 public:
  Part(World& world, std::string name, Faults faults) : world_(world), name_(std::move(name)), faults_(faults) {
    inner_ = world.server.clientFor(name_);
  }
  void start() {
    client_ = std::make_unique<FaultyClient>(world_.loop, *inner_, faults_);
    caches_ = std::make_unique<HttpCaches>(world_.loop, *client_);
    if (name_ == "scheduler") {
      scheduler_ = std::make_unique<Scheduler>(world_.loop, *client_, *caches_, Options());
      scheduler_->start();
    } else {
      controllers::Options options;
      options.disabled = {"deployment", "replicaset",    "endpointslice",  "garbagecollector", "podgc",
                          "namespace",  "nodelifecycle", "serviceaccount", "nodeipam",         "disruption"};
      options.disabled.erase(name_);
      manager_ = std::make_unique<controllers::Manager>(world_.loop, *client_, *caches_, std::move(options));
      manager_->start();
    }
    caches_->start();
  }
  Task<> stop() {
    if (manager_) co_await manager_->stop();
    if (scheduler_) co_await scheduler_->stop();
    co_await caches_->stop();
    manager_.reset();
    scheduler_.reset();
    caches_.reset();
    client_.reset();
  }
  const std::string& name() const { return name_; }

 private:
  World& world_;
  std::string name_;
  Faults faults_;
  std::unique_ptr<Client> inner_;
  std::unique_ptr<FaultyClient> client_;
  std::unique_ptr<HttpCaches> caches_;
  std::unique_ptr<controllers::Manager> manager_;
  std::unique_ptr<Scheduler> scheduler_;
};

struct Wish {
  int replicas = 1, surge = 1, unavailable = 0;
  std::string image;
};

// Looks at every change of a pod as the API server itself sees it.
class Judge {
 public:
  explicit Judge(World& world) : world_(world) {}
  void watch() {
    subscription_ =
        world_.server.caches().of(kinds::kPods).subscribe([this](const ObjectPtr& before, const ObjectPtr& after) {
          changed(before, after);
        });
  }
  // While a change is under way, what was promised before it may still be acted on.
  void wish(const Wish& wish, bool settled) {
    const size_t most = static_cast<size_t>(wish.replicas + wish.surge);
    const size_t least = static_cast<size_t>(std::max(wish.replicas - wish.unavailable, 0));
    most_ = settled ? most : std::max(most_, most);
    least_ = settled ? least : std::min(least_, least);
    if (available_ < least_) enoughSince_.reset();
    if (available_ >= least_ && !enoughSince_) enoughSince_ = world_.loop.now();
  }
  const std::vector<std::string>& broken() const { return broken_; }

 private:
  static bool counts(const ObjectPtr& pod) { return pod && !pod->deleting(); }
  static bool available(const ObjectPtr& pod) { return counts(pod) && conditionTrue(pod->root(), "Ready"); }
  void changed(const ObjectPtr& before, const ObjectPtr& after) {
    pods_ += counts(after);
    pods_ -= counts(before);
    available_ += available(after);
    available_ -= available(before);
    if (counts(after) && !counts(before) && pods_ > most_) {
      broken_.push_back(fmt::format("{} pods of {} at {}", pods_, most_, formatTime(world_.loop.wallNow())));
    }
    if (available_ >= least_) {
      if (!enoughSince_) enoughSince_ = world_.loop.now();
      return;
    }
    const auto since = std::exchange(enoughSince_, std::nullopt);
    // Pods that do not serve may be taken away, and one of them may begin to serve before that is heard of: what was
    // available for so long only was not known to be.
    if (available(before) && !counts(after) && since && world_.loop.now() - *since > 20s) {
      broken_.push_back(fmt::format("{} available of {} at {}", available_, least_, formatTime(world_.loop.wallNow())));
    }
  }

  World& world_;
  size_t pods_ = 0, available_ = 0, most_ = 0, least_ = 0;
  std::optional<TimePoint> enoughSince_;
  std::vector<std::string> broken_;
  std::unique_ptr<Cache::Subscription> subscription_;
};

class Chaos {
 public:
  explicit Chaos(uint64_t seed)
      :  // Its nodes send no heartbeats.
        world_(seed, {"deployment", "replicaset", "garbagecollector", "scheduler", "nodelifecycle"}),
        judge_(world_),
        gate_(world_.loop) {
    for (int i = 0; i < 3; ++i) world_.node(i, 3);
    for (std::string name : {"deployment", "replicaset", "garbagecollector", "scheduler"}) {
      Faults faults;
      faults.delay = std::chrono::milliseconds(pick({1, 20, 100, 400}));
      faults.refused = pick({0, 30, 8});
      faults.lost = pick({0, 30, 8});
      faults.broken = pick({0, 50, 10});
      faults.expired = pick({0, 100, 20});
      parts_.push_back(std::make_unique<Part>(world_, std::move(name), faults));
      parts_.back()->start();
    }
    world_.faults = pick({0, 50, 15});
    judge_.watch();
    if (pick({0, 1}) == 1) restartLater();
  }
  ~Chaos() {
    world_.faults = 0;
    restart_.cancel();
    runOn(world_.loop, gate_.close());
    for (auto& part : parts_) runOn(world_.loop, part->stop());
  }

  void run() {
    Wish wish{.replicas = static_cast<int>(2 + random(8)), .surge = 1, .unavailable = 0, .image = "i0"};
    limits(wish);
    judge_.wish(wish, true);
    deploy(wish);
    const int changes = static_cast<int>(3 + random(4));
    for (int i = 1; i <= changes; ++i) {
      const bool wait = random(2) == 0;
      if (wait) {
        if (!settle(wish)) return;
        judge_.wish(wish, true);
      } else {
        world_.loop.advance(std::chrono::milliseconds(random(6000)));
      }
      switch (random(5)) {
        case 0: wish.replicas = static_cast<int>(2 + random(8)); break;
        case 1: limits(wish); break;
        default: wish.image = fmt::format("i{}", random(3)); break;
      }
      judge_.wish(wish, false);
      deploy(wish);
    }
    settle(wish);
  }
  const std::vector<std::string>& broken() const { return judge_.broken(); }

 private:
  uint64_t random(uint64_t below) { return world_.loop.random() % below; }
  uint64_t pick(std::initializer_list<uint64_t> of) { return *(of.begin() + random(of.size())); }
  void limits(Wish& wish) {
    wish.surge = static_cast<int>(random(4));
    wish.unavailable = static_cast<int>(random(3));
    if (wish.surge + wish.unavailable == 0) wish.surge = 1;
  }
  void deploy(const Wish& wish) { world_.deploy("web", wish.replicas, wish.image, wish.surge, wish.unavailable); }
  bool settled(const Wish& wish) {
    if (!world_.rolledOut("web")) return false;
    const std::vector<ObjectPtr> pods = world_.podsOf("web");
    return pods.size() == static_cast<size_t>(wish.replicas) && std::all_of(pods.begin(), pods.end(), [&](auto& pod) {
             const json::array& containers = array(pod->root(), {"spec", "containers"});
             return text(containers[0].get_object(), "image") == wish.image;
           });
  }
  bool settle(const Wish& wish) {
    if (world_.loop.runUntil([&] { return settled(wish); }, 1h)) return true;
    ADD_FAILURE() << "not rolled out after an hour: " << wish.image << " x " << wish.replicas;
    return false;
  }
  void restartLater() {
    restart_ = world_.loop.after(std::chrono::milliseconds(200 + random(8000)),
                                 [this] { gate_.spawn(restart(this, parts_[random(parts_.size())].get())); });
  }
  static Task<> restart(Chaos* self, Part* part) {
    co_await part->stop();
    part->start();
    self->restartLater();
  }

  World world_;
  Judge judge_;
  std::vector<std::unique_ptr<Part>> parts_;
  Timer restart_;
  Gate gate_;
};

uint64_t setting(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : static_cast<uint64_t>(parseInt(text).value_or(static_cast<int64_t>(otherwise)));
}

struct Quiet {
  Quiet() { log::configure(log::Level::kError, ""); }
  ~Quiet() { log::configure(log::Level::kInfo, ""); }
};

TEST(RolloutSimulation, KeepsItsPromisesWhateverFails) {
  // Every failure that was asked for is a warning.
  Quiet quiet;
#ifdef __OPTIMIZE__
  const uint64_t seeds = setting("DHOW_SEEDS", 40);
#else
  const uint64_t seeds = setting("DHOW_SEEDS", 10);
#endif
  const uint64_t first = setting("DHOW_FIRST_SEED", 1);
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Chaos chaos(seed);
    chaos.run();
    for (const std::string& what : chaos.broken()) ADD_FAILURE() << what;
  }
}

}  // namespace
}  // namespace dhow::scheduler
