#include "etcd_cluster.h"

#include <algorithm>

#include "base/log.h"
#include "etcd_wire.h"

namespace dhow::store {

namespace {
constexpr Duration kAttempt = std::chrono::seconds(2);
constexpr Duration kBetweenRounds = std::chrono::milliseconds(50);
constexpr Duration kProbeEvery = std::chrono::milliseconds(200);
constexpr Duration kUnanswered = std::chrono::milliseconds(500);  // of a call, before the members are looked at
constexpr Duration kMemberAnswers = std::chrono::seconds(1);      // one that is started again may be back by then
constexpr Duration kAskMemberAgain = std::chrono::milliseconds(100);
}  // namespace

struct EtcdCluster::Pending {
  Pending(Loop& loop, Repeat repeat, uint64_t term) : repeat(repeat), term(term), news(loop) {}
  // By an election, and not just slow.
  bool overtaken(uint64_t now) const { return late && repeat == Repeat::kAlways && term != 0 && term < now; }
  const Repeat repeat;
  const uint64_t term;  // when it was sent
  bool late = false;
  std::optional<Answer> answer;
  Signal news;
};

Result<std::shared_ptr<EtcdCluster>> EtcdCluster::create(Loop& loop, EtcdOptions options) {
  std::shared_ptr<EtcdCluster> made(new EtcdCluster(loop, std::move(options)));
  RETURN_IF_ERROR(made->connect());
  return made;
}

Result<std::shared_ptr<http::TlsClient>> EtcdCluster::tls() const {
  if (options_.tls) return options_.tls;
  if (options_.certificatePem.empty() != options_.privateKeyPem.empty()) {
    return Error(Code::kInvalid, "etcd: a client certificate and its key must be given together");
  }
  http::TlsClient::Options tls;
  tls.caPem = options_.caPem;
  if (!options_.certificatePem.empty()) tls.keyPair = http::KeyPair{options_.certificatePem, options_.privateKeyPem};
  auto made = http::TlsClient::create(std::move(tls));
  if (!made.ok()) return std::move(made).error().wrap("etcd's certificates");
  return made;
}

Result<> EtcdCluster::connect() {
  if (options_.endpoints.empty()) return Error(Code::kInvalid, "etcd: no endpoints are given");
  std::shared_ptr<http::TlsClient> context;
  std::vector<std::shared_ptr<GrpcChannel>> channels;
  for (const auto& url : options_.endpoints) {
    ASSIGN_OR_RETURN(auto endpoint, GrpcChannel::parse(url));
    if (endpoint.tls && !context) {
      ASSIGN_OR_RETURN(context, tls());
    }
    channels.push_back(std::make_shared<GrpcChannel>(loop_, std::move(endpoint), context, options_.beforeDial));
  }
  std::string using_ = channels_.empty() ? "" : channel()->url();
  auto old = std::exchange(channels_, std::move(channels));
  current_ = 0;
  for (size_t i = 0; i < channels_.size(); ++i) {
    if (channels_[i]->url() == using_) current_ = i;
  }
  for (auto& channel : old) channel->drop();
  return {};
}

Result<> EtcdCluster::replaceEndpoints(std::vector<std::string> endpoints) {
  if (endpoints == options_.endpoints) return {};
  auto before = std::exchange(options_.endpoints, std::move(endpoints));
  auto done = connect();
  if (!done.ok()) options_.endpoints = std::move(before);
  return done;
}

Result<std::shared_ptr<GrpcChannel>> EtcdCluster::channelTo(const std::string& url) {
  for (const auto& channel : channels_) {
    if (channel->url() == url) return channel;
  }
  ASSIGN_OR_RETURN(auto endpoint, GrpcChannel::parse(url));
  std::shared_ptr<http::TlsClient> context;
  if (endpoint.tls) {
    ASSIGN_OR_RETURN(context, tls());
  }
  return std::make_shared<GrpcChannel>(loop_, std::move(endpoint), std::move(context), options_.beforeDial);
}

void EtcdCluster::failed(const std::shared_ptr<GrpcChannel>& channel) {
  if (channels_[current_] == channel) current_ = (current_ + 1) % channels_.size();
}

void EtcdCluster::close() {
  closed_ = true;
  for (auto& channel : channels_) channel->drop();
}

void EtcdCluster::recovered() {
  troubleSince_.reset();
  if (!outage_) return;
  log::info("etcd", "the cluster answers again");
  outage_.reset();
}

void EtcdCluster::trouble(const Error& error) {
  TimePoint now = loop_.now();
  // Long ago and unheard of since: trouble of its own.
  if (!troubleSince_ || now - lastTrouble_ > options_.patience) troubleSince_ = now;
  lastTrouble_ = now;
  if (now - *troubleSince_ >= options_.patience) return outage(error.message());
  checkQuorum();
}

void EtcdCluster::outage(const std::string& why) {
  if (outage_ || closed_) return;
  outage_ = Error(Code::kUnavailable, "etcd cannot serve: " + why);
  log::error("etcd", "{}", outage_->message());
  for (const auto& pending : pending_) pending->news.notify();
  if (!std::exchange(probing_, true)) spawn(loop_, probe(shared_from_this()));
}

struct EtcdCluster::Check {
  size_t members = 0, answered = 0, silent = 0;
};

void EtcdCluster::checkQuorum() {
  if (!options_.allMembers || outage_ || closed_ || std::exchange(checking_, true)) return;
  auto check = std::make_shared<Check>();
  check->members = channels_.size();
  for (const auto& channel : channels_) spawn(loop_, askMember(shared_from_this(), channel, check));
}

Task<bool> EtcdCluster::askStatus(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel,
                                  Duration limit) {
  auto answer = co_await GrpcChannel::call(channel, "/etcdserverpb.Maintenance/Status", "", limit, false);
  if (!answer.ok()) co_return false;
  auto status = etcd::readStatus(answer.message);
  if (status.ok() && status->leaderId != 0) self->heardLeader(status->raftTerm);
  co_return true;
}

Task<> EtcdCluster::askMember(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel,
                              std::shared_ptr<Check> check) {
  const TimePoint end = self->loop_.now() + kMemberAnswers;
  bool answered = false;
  while (!answered && !self->closed_ && self->loop_.now() < end) {
    answered = co_await askStatus(self, channel, end - self->loop_.now());
    if (!answered) co_await self->loop_.sleep(kAskMemberAgain);
  }
  ++(answered ? check->answered : check->silent);
  if (check->answered + check->silent < check->members) co_return;
  self->checking_ = false;
  if (2 * check->answered > check->members) co_return;
  self->outage(fmt::format("{} of its {} members answer, and most are needed", check->answered, check->members));
}

Task<> EtcdCluster::ask(std::shared_ptr<Pending> pending, std::shared_ptr<GrpcChannel> channel, std::string method,
                        std::string request, Duration limit) {
  pending->answer = co_await GrpcChannel::call(std::move(channel), std::move(method), std::move(request), limit);
  pending->news.notify();
}

Task<Answer> EtcdCluster::attempt(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel,
                                  std::string method, std::string request, Repeat repeat, Duration limit) {
  auto pending = std::make_shared<Pending>(self->loop_, repeat, self->term_);
  Timer late = self->loop_.after(kUnanswered, [self, pending] {
    pending->late = true;
    pending->news.notify();
    self->checkQuorum();
    if (self->seekers_ > 0) return;
    self->seekers_ = self->channels_.size();
    for (const auto& one : self->channels_) spawn(self->loop_, seekLeader(self, one));
  });
  spawn(self->loop_, ask(pending, std::move(channel), std::move(method), std::move(request), limit));
  self->pending_.insert(pending);
  while (!pending->answer && !pending->overtaken(self->term_) && !self->outage_) co_await pending->news.wait();
  self->pending_.erase(pending);
  if (pending->answer) co_return std::move(*pending->answer);
  if (self->outage_) co_return Answer::failed(Failure::kLost, *self->outage_);
  co_return Answer::failed(Failure::kLost, Error(Code::kUnavailable, "etcd elected a leader meanwhile"));
}

bool EtcdCluster::callsAreLate() const {
  return !closed_ && !outage_ &&
         std::any_of(pending_.begin(), pending_.end(), [](const auto& pending) { return pending->late; });
}

Task<> EtcdCluster::seekLeader(std::shared_ptr<EtcdCluster> self, std::shared_ptr<GrpcChannel> channel) {
  while (self->callsAreLate()) {
    (void)co_await askStatus(self, channel, kMemberAnswers);
    if (self->callsAreLate()) co_await self->loop_.sleep(kAskMemberAgain);
  }
  --self->seekers_;
}

void EtcdCluster::heardLeader(uint64_t term) {
  if (term <= term_) return;
  term_ = term;
  for (const auto& pending : pending_) pending->news.notify();
}

// Asks one endpoint after another until one can serve again, or close().
Task<> EtcdCluster::probe(std::shared_ptr<EtcdCluster> self) {
  std::string question = etcd::encode(etcd::RangeRequest{.key = "!", .countOnly = true});
  for (size_t turn = 0; self->outage_ && !self->closed_; ++turn) {
    auto channel = self->channels_[turn % self->channels_.size()];
    auto answer = co_await GrpcChannel::call(channel, "/etcdserverpb.KV/Range", question, kAttempt);
    if (self->closed_) break;
    if (answer.ok()) {
      for (size_t i = 0; i < self->channels_.size(); ++i) {
        if (self->channels_[i] == channel) self->current_ = i;
      }
      self->recovered();
      break;
    }
    co_await self->loop_.sleep(kProbeEvery);
  }
  self->probing_ = false;
}

Task<EtcdCluster::Outcome> EtcdCluster::call(std::shared_ptr<EtcdCluster> self, std::string method, std::string request,
                                             Repeat repeat) {
  Outcome out;
  TimePoint end = self->loop_.now() + self->options_.timeout;
  size_t tried = 0;
  while (true) {
    if (self->closed_) {
      out.answer = Answer::failed(Failure::kUnreached, Error(Code::kUnavailable, "the store is closed"));
    } else if (self->outage_) {
      // At once, but not without letting others run: who tries again and again must not keep the end of it away.
      co_await self->loop_.sleep(std::chrono::milliseconds(1));
      if (!self->outage_) continue;
      out.answer = Answer::failed(Failure::kUnreached, *self->outage_);
    } else {
      auto channel = self->channel();
      Duration limit = std::clamp<Duration>(end - self->loop_.now(), std::chrono::milliseconds(100), kAttempt);
      out.answer = co_await attempt(self, channel, method, request, repeat, limit);
      if (out.answer.ok() || out.answer.failure == Failure::kRefused) {
        self->recovered();
        if (out.answer.ok()) self->heardLeader(etcd::headerOf(out.answer.message).term);
        co_return out;
      }
      self->failed(channel);
      if (!self->outage_) self->trouble(*out.answer.error);
    }
    bool lost = out.answer.failure == Failure::kLost;
    out.repeated = out.repeated || lost;
    bool over = self->closed_ || self->outage_ || self->loop_.now() >= end || (lost && repeat == Repeat::kUnsent);
    if (over) {
      // What an earlier attempt may have done stays unknown.
      out.answer.failure = out.repeated ? Failure::kLost : Failure::kUnreached;
      co_return out;
    }
    if (++tried % self->size() == 0) co_await self->loop_.sleep(kBetweenRounds);
  }
}

}  // namespace dhow::store
