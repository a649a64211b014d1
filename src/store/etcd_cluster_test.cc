// EtcdCluster against a member of our own that answers what a test wants it to.
#include "etcd_cluster.h"

#include <gtest/gtest.h>

#include "http/server.h"
#include "proto.h"

namespace dhow::store {
namespace {

constexpr const char* kTxn = "/etcdserverpb.KV/Txn";
constexpr uint32_t kTermOfHeader = 4;

// A follower. What it is given while `loses` is on its way to a leader that has died, and nobody hears of it again.
class FakeMember {
 public:
  explicit FakeMember(RealLoop& loop)
      : loop_(loop), server_(loop, {}, [this](http::Request& request, http::ResponseWriter& writer) {
          return serve(this, &request, &writer);
        }) {
    port_ = server_.listenTcp("127.0.0.1", 0).value();
  }
  ~FakeMember() { runOn(loop_, server_.stop()); }

  EtcdOptions options() const {
    EtcdOptions out;
    out.endpoints = {fmt::format("http://127.0.0.1:{}", port_)};
    return out;
  }

  uint64_t term = 7;
  uint64_t leader = 1;
  bool loses = false;
  std::function<void()> onStatus;
  int transactions = 0;
  int lost = 0;     // that nobody answers, and that their sender still waits for
  int waiting = 0;  // of these, when the last transaction came

 private:
  std::string header() const { return ProtoWriter().number(kTermOfHeader, term).take(); }

  static Task<> serve(FakeMember* self, http::Request* request, http::ResponseWriter* writer) {
    std::string message;
    if (request->path == kTxn) {
      ++self->transactions;
      self->waiting = self->lost;
      if (self->loses) {
        ++self->lost;
        Signal gone(self->loop_);
        writer->onClose([self, &gone] {
          --self->lost;
          gone.notify();
        });
        co_await gone.wait();
        co_return;
      }
      message = ProtoWriter().message(1, self->header()).take();
    } else {
      message = ProtoWriter().message(1, self->header()).number(4, self->leader).number(6, self->term).take();
      if (self->onStatus) self->onStatus();
    }
    http::Response response;
    response.headers.set("Content-Type", "application/grpc");
    response.headers.set("grpc-status", "0");
    response.body = {'\0', '\0', '\0', '\0', static_cast<char>(message.size())};
    response.body += message;
    (void)co_await writer->send(std::move(response));
  }

  RealLoop& loop_;
  http::Server server_;
  uint16_t port_ = 0;
};

class EtcdClusterTest : public testing::Test {
 protected:
  void SetUp() override {
    cluster_ = EtcdCluster::create(loop_, member_.options()).value();
    ASSERT_TRUE(call(EtcdCluster::Repeat::kAlways).answer.ok());  // the cluster knows the term
    member_.loses = true;
  }
  void TearDown() override { cluster_->close(); }
  EtcdCluster::Outcome call(EtcdCluster::Repeat repeat) {
    return runOn(loop_, EtcdCluster::call(cluster_, kTxn, "", repeat));
  }
  // As an election is seen from outside: no leader at first, then one with a term of its own.
  void elect() {
    member_.leader = 0;
    ++member_.term;
    member_.onStatus = [this] {
      if (++asked_ < 2) return;
      member_.leader = 2;
      member_.loses = false;
    };
  }

  RealLoop loop_;
  FakeMember member_{loop_};
  std::shared_ptr<EtcdCluster> cluster_;
  int asked_ = 0;
};

TEST_F(EtcdClusterTest, WhatADeadLeaderTookAlongIsSentAgainAsSoonAsAnotherIsElected) {
  elect();
  auto outcome = call(EtcdCluster::Repeat::kAlways);
  EXPECT_TRUE(outcome.answer.ok());
  EXPECT_TRUE(outcome.repeated) << "whoever asked must know that the first may have been done";
  EXPECT_EQ(member_.transactions, 3);
  EXPECT_EQ(member_.waiting, 1) << "the first attempt's time was waited for";
}

TEST_F(EtcdClusterTest, WhatMustNotBeDoneTwiceIsNotSentAgain) {
  elect();
  auto outcome = call(EtcdCluster::Repeat::kUnsent);
  EXPECT_EQ(outcome.answer.failure, Failure::kLost);
  EXPECT_EQ(member_.transactions, 2);
}

TEST_F(EtcdClusterTest, ASlowAnswerOfALeaderThatStaysIsWaitedFor) {
  member_.onStatus = [this] {
    if (++asked_ == 5) member_.loses = false;
  };
  auto outcome = call(EtcdCluster::Repeat::kAlways);
  EXPECT_TRUE(outcome.answer.ok());
  EXPECT_EQ(member_.waiting, 0) << "sent again although nothing was lost";
}

}  // namespace
}  // namespace dhow::store
