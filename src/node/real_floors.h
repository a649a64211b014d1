// The floors below as they are, behind the interfaces of floors.h.
#pragma once

#include <map>
#include <memory>
#include <set>

#include "base/blocking.h"
#include "base/gate.h"
#include "client/client.h"
#include "client/http_client.h"
#include "client/reflector.h"
#include "floors.h"
#include "image/store.h"
#include "network/bridge_network.h"
#include "network/nat_table.h"

namespace dhow::node {

class StoreImages final : public Images {
 public:
  explicit StoreImages(image::ImageStore& store) : store_(store) {}
  bool present(const std::string& reference) const override;
  Task<Result<image::ImagePtr>> ensure(std::string reference, image::PullPolicy policy,
                                       image::Keyring secrets) override;
  Task<Result<image::Snapshot>> prepare(std::string imageId, std::string containerId) override;
  Task<Result<>> removeSnapshot(std::string containerId) override;
  std::vector<std::string> snapshots() const override { return store_.snapshots(); }
  std::vector<image::ImagePtr> list() const override { return store_.list(); }

 private:
  image::ImageStore& store_;
};

// The pods' bridge, once the node knows its range. What is asked for before waits.
class BridgePodNetwork final : public PodNetwork {
 public:
  struct Settings {
    std::string clusterRange, clusterRange6;  // of IPv4 and of IPv6; one of both may be empty
    bool ipv6First = false;                   // of two
    std::string stateDir;
    std::string bridge = "dhow0";
    std::string natTable = "dhow_pods";
    int poolSize = 4;
  };
  BridgePodNetwork(Loop& loop, BlockingPool& pool, Settings settings);
  ~BridgePodNetwork() override;
  // The node's ranges are known: of IPv4, and of IPv6, or "" for one of both. kConflict when it has others already.
  Result<> open(const std::string& range, const std::string& range6);
  // Of the pods' links, from the next open() on; 0: 1500.
  void setMtu(int mtu) { mtu_ = mtu; }
  bool ready() const { return network_ != nullptr; }
  const std::string& range() const { return range_; }  // of IPv4 if there is one
  IpAddress gateway() const;

  Task<Result<Given>> acquire(std::string podUid, bool ownUsers) override;
  Result<> adopt(const std::string& podUid, const std::string& address, const std::string& hostInterface) override;
  void release(const std::string& podUid) override;
  Result<> publish(const std::string& podUid, const std::vector<std::string>& addresses,
                   const std::vector<HostPort>& ports) override;
  // After all pods of an earlier run were adopted: their other addresses are free, and what that run published else is
  // published no more.
  void releaseOthers();
  Result<> setRoutes(const std::vector<NodeRoute>& routes);
  // Acquires that wait end.
  void stop();

 private:
  Loop& loop_;
  BlockingPool& pool_;
  Settings settings_;
  std::string range_;
  int mtu_ = 0;
  std::unique_ptr<NatTable> nat_;
  std::unique_ptr<BridgeNetwork> network_;
  struct Adopted {
    std::string uid, address, link;
    std::vector<std::string> addresses;
    std::vector<HostPort> ports;
  };
  void installNat();
  std::vector<Adopted> waiting_;  // adopted before the range was known
  std::set<std::string> live_, published_;
  Signal opened_;
  bool recovered_ = false, stopping_ = false;
};

class ApiBarrier final : public Barrier {
 public:
  ApiBarrier(client::HttpClient& client, std::string node) : client_(client), node_(std::move(node)) {}
  Task<Result<client::Drained>> pass(client::DrainQuestion pod) override;
  Task<Result<client::Held>> held(client::HeldQuestion pod) override;

 private:
  client::HttpClient& client_;
  const std::string node_;
};

class ApiTokens final : public Tokens {
 public:
  ApiTokens(Loop& loop, client::Client& client) : loop_(loop), client_(client) {}
  Task<Result<Token>> request(std::string ns, std::string account, TokenRequest request, std::string podName,
                              std::string podUid) override;

 private:
  Loop& loop_;
  client::Client& client_;
};

// One watch for each object that pods refer to; some are kept for half a minute after their last pod.
class WatchedObjects final : public ObjectSource {
 public:
  WatchedObjects(Loop& loop, client::Client& client) : loop_(loop), client_(client), gate_(loop) {}
  void use(const std::string& user, std::vector<ObjectRef> refs, std::function<void()> changed) override;
  void seed(const ObjectRef& ref, ObjectPtr object) override;
  bool known(const ObjectRef& ref) const override;
  ObjectPtr find(const ObjectRef& ref) const override;
  Task<> stop();
  size_t watched() const { return entries_.size(); }

 private:
  struct Entry {
    std::unique_ptr<client::Reflector> reflector;
    std::unique_ptr<client::Cache::Subscription> subscription;
    std::set<std::string> users;
    Timer linger;  // nobody uses it any more
  };
  struct User {
    std::set<ObjectRef> refs;
    std::function<void()> changed;
  };
  void open(const ObjectRef& ref);
  void drop(ObjectRef ref);
  void tell(const ObjectRef& ref);
  static Task<> announce(WatchedObjects* self, ObjectRef ref, client::Reflector* reflector);
  static Task<> close(std::shared_ptr<Entry> entry);

  Loop& loop_;
  client::Client& client_;
  std::map<ObjectRef, std::shared_ptr<Entry>> entries_;
  std::map<ObjectRef, ObjectPtr> seeds_;
  std::map<std::string, User> users_;
  bool stopping_ = false;
  Gate gate_;
};

class NetConnector final : public Connector {
 public:
  explicit NetConnector(Loop& loop);
  ~NetConnector() override;
  Task<Result<Answer>> httpGet(HttpGet request, Duration timeout) override;
  Task<Result<>> tcpConnect(std::string host, uint16_t port, Duration timeout) override;
  Task<Result<>> grpcHealth(std::string host, uint16_t port, std::string service, Duration timeout) override;
  Task<> stop();

 private:
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

class PoolOffload final : public Offload {
 public:
  PoolOffload(Loop& loop, BlockingPool& pool) : loop_(loop), pool_(pool) {}
  Task<> run(std::function<void()> work) override;

 private:
  Loop& loop_;
  BlockingPool& pool_;
};

}  // namespace dhow::node
