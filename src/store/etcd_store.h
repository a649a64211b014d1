// The Store over an etcd cluster (API v3): what several masters share. Speaks gRPC over the HTTP/2 client of src/http;
// all on the loop.
//
// Endpoints are tried in the order given; the first that answers is kept until it fails. A read or a guarded
// transaction whose answer was lost is asked again of another endpoint: a transaction in which every changed key is
// also compared can be repeated, since at most one of its copies finds the compares true. Without a leader calls wait
// as long as an election may take, once; after that they fail at once until a leader is back. Where the endpoints are
// all the members there are, an election is only waited for while most of them answer at all: otherwise there can be
// none, and calls fail within one and a half seconds.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "http/tls.h"
#include "store/store.h"

namespace dhow::store {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // "https://10.0.0.1:2379"; http:// speaks in the clear
  std::string caPem;                   // the authority of the members' certificates; empty: the system's
  std::string certificatePem;          // our client certificate and its key, or neither
  std::string privateKeyPem;
  // Instead of the three: one that others use, too, and whose identity is replaced while it is used.
  std::shared_ptr<http::TlsClient> tls;
  std::function<void()> beforeDial;             // called before each new connection: may replace that identity
  std::string prefix;                           // put before each key, e.g. "/dhow/dev"; may be empty
  Duration timeout = std::chrono::seconds(5);   // of a call, all attempts together
  Duration patience = std::chrono::seconds(3);  // how long a missing leader is waited for
  bool allMembers = false;                      // the endpoints are those of all members, one each
};

class EtcdStore final : public Store {
 public:
  // Asks the cluster once, so that a wrong address or certificate is told here. kInvalid for malformed options,
  // kUnavailable when nobody answers, kUnauthenticated when a certificate is refused.
  static Task<Result<std::unique_ptr<EtcdStore>>> open(Loop& loop, EtcdOptions options);
  ~EtcdStore() override;

  // The members may change while the store is used.
  Result<> replaceEndpoints(std::vector<std::string> endpoints);
  // Set while the cluster has no leader or nobody answers; the last reason.
  std::optional<Error> outage() const;

  Task<Result<std::optional<Entry>>> get(std::string key) override;
  Task<Result<ListResult>> list(std::string prefix, std::string from = "", size_t limit = 0) override;
  Task<Result<std::unique_ptr<Cursor>>> read() override;
  Task<Result<Revision>> txn(Txn txn) override;
  Result<std::unique_ptr<Watcher>> watch(std::string prefix, Revision after, bool previous = false) override;
  Task<Result<>> compact(Revision revision) override;
  Revision revision() const override;
  Task<Result<Revision>> currentRevision() override;
  Task<Result<>> advance(Revision atLeast) override;
  Task<> close() override;

  struct Rep;  // of this folder alone

 private:
  class RangeCursor;
  explicit EtcdStore(std::shared_ptr<Rep> rep);
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::store
