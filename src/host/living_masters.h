// Which masters of separate hosts live: each renews a Lease of its own, kube-system/apiserver-<name>, and the leading
// one makes those whose lease is renewed the endpoints of the service `kubernetes`. Pods find masters by that service,
// and nodes follow it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/gate.h"
#include "client/cache.h"
#include "client/client.h"
#include "client/controller.h"

namespace dhow::host {

inline constexpr Duration kMasterRenewEvery = std::chrono::seconds(2);
// By the leader's own clock, since it saw the last renewal.
inline constexpr Duration kMasterDeadAfter = std::chrono::seconds(6);

struct MasterAddress {
  std::string name, address;
};
// Its lease; where and under which name.
inline constexpr const char* kMasterLeases = "kube-system";
std::string masterLease(const std::string& master);
// Of a master's lease; nothing for other leases.
std::optional<MasterAddress> masterOf(const client::Object& lease);

// Renews this master's lease while it serves; stop() gives it up.
class MasterHeartbeat {
 public:
  MasterHeartbeat(Loop& loop, client::Client& client, std::string name, std::string address);
  void start() { gate_.spawn(run(this)); }
  Task<> stop();

 private:
  static Task<> run(MasterHeartbeat* self);
  Task<Result<>> renew();

  Loop& loop_;
  client::Client& client_;
  std::string name_, address_;
  bool stopping_ = false;
  Signal stopped_;
  Gate gate_;
};

// The leader's part. `publish` is called with the addresses of all that live, never with none.
class LivingMasters {
 public:
  using Publish = std::function<Task<Result<>>(std::vector<std::string> addresses)>;
  LivingMasters(Loop& loop, client::Cache& leases, Publish publish);
  void start();
  Task<> stop() { return controller_.stop(); }

 private:
  struct Seen {
    uint64_t version = 0;
    TimePoint at;
  };
  Task<Result<>> reconcile(std::string key);

  Loop& loop_;
  client::Cache& leases_;
  Publish publish_;
  std::map<std::string, Seen> seen_;  // by lease
  client::Controller controller_;
};

}  // namespace dhow::host
