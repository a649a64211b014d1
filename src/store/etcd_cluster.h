// The members of an etcd cluster as one: which endpoint is asked, when another is, and when to give up. Private to this
// folder.
#pragma once

#include <set>

#include "grpc.h"
#include "store/etcd_store.h"

namespace dhow::store {

class EtcdCluster : public std::enable_shared_from_this<EtcdCluster> {
 public:
  static Result<std::shared_ptr<EtcdCluster>> create(Loop& loop, EtcdOptions options);

  enum class Repeat {
    kAlways,  // asking twice does no harm
    kUnsent,  // only when it has certainly not been done
  };
  struct Outcome {
    Answer answer;
    bool repeated = false;  // an earlier attempt may have been done
  };
  // Tries the endpoints in turn until one answers, the time is over, or the cluster has been without a leader for
  // longer than it is waited for. A failure is kRefused, kLost, or kUnreached (nothing has been done).
  static Task<Outcome> call(std::shared_ptr<EtcdCluster> self, std::string method, std::string request, Repeat repeat);

  // The endpoint in use, for streams. `failed` moves on to the next one, if it is still the one in use.
  std::shared_ptr<GrpcChannel> channel() const { return channels_[current_]; }
  void failed(const std::shared_ptr<GrpcChannel>& channel);
  // Of that URL, or one made for it.
  Result<std::shared_ptr<GrpcChannel>> channelTo(const std::string& url);
  size_t size() const { return channels_.size(); }

  Result<> replaceEndpoints(std::vector<std::string> endpoints);
  const std::optional<Error>& outage() const { return outage_; }
  const EtcdOptions& options() const { return options_; }
  Loop& loop() { return loop_; }
  // Ends all connections; later calls fail.
  void close();
  bool closed() const { return closed_; }

 private:
  EtcdCluster(Loop& loop, EtcdOptions options) : loop_(loop), options_(std::move(options)) {}
  Result<> connect();
  Result<std::shared_ptr<http::TlsClient>> tls() const;
  // Nobody has answered well since `troubleSince_`; after `patience` it is an outage, and a task asks until it is over.
  void trouble(const Error& error);
  void outage(const std::string& why);
  void recovered();
  // Asks each member whether it runs, which it can tell without the others. Fewer than most for a second: an outage.
  void checkQuorum();
  struct Check;
  // Asks a member how it is, which may tell of a new leader; whether it answers.
  static Task<bool> askStatus(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel, Duration limit);
  static Task<> askMember(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel,
                          std::shared_ptr<Check> check);
  struct Pending;
  static Task<> ask(std::shared_ptr<Pending> pending, std::shared_ptr<GrpcChannel> channel, std::string method,
                    std::string request, Duration limit);
  // Ends without an answer when an outage begins, or a leader is elected while it waits: what has been sent may yet be
  // done, and a new leader knows nothing of what was on its way to the old one.
  static Task<Answer> attempt(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel,
                              std::string method, std::string request, Repeat repeat, Duration limit);
  bool callsAreLate() const;
  // Asks that member for its leader as long as calls are late: nobody tells of an election.
  static Task<> seekLeader(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel);
  void heardLeader(uint64_t term);
  static Task<> probe(std::shared_ptr<EtcdCluster> self);

  Loop& loop_;
  EtcdOptions options_;
  std::vector<std::shared_ptr<GrpcChannel>> channels_;
  size_t current_ = 0;
  std::optional<TimePoint> troubleSince_;
  TimePoint lastTrouble_{};
  std::optional<Error> outage_;
  std::set<std::shared_ptr<Pending>> pending_;
  uint64_t term_ = 0;  // raft's, as last heard: each leader has its own
  size_t seekers_ = 0;
  bool checking_ = false;
  bool probing_ = false;
  bool closed_ = false;
};

}  // namespace dhow::store
