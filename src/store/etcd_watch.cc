// A watch of etcd that outlives its connections: it goes on after the last revision that it gave, whichever member
// answers, so that nothing is lost and nothing comes twice.
#include "base/log.h"
#include "base/strings.h"
#include "etcd_rep.h"

namespace dhow::store {

namespace {

// A stream that has been silent this long is asked for a sign of life, and given up when none comes.
constexpr Duration kPulse = std::chrono::seconds(5);
constexpr Duration kFirstPause = std::chrono::milliseconds(20);
constexpr Duration kLongestPause = std::chrono::seconds(1);

// Until 3.4.25 and 3.5.8 an answer to a progress request may overtake events (etcd issue 15220).
bool progressIsInOrder(std::string_view version) {
  auto parts = split(version, '.');
  if (parts.size() < 3) return false;
  auto major = parseUint(parts[0]).value_or(0);
  auto minor = parseUint(parts[1]).value_or(0);
  auto patch = parseUint(std::string_view(parts[2]).substr(0, parts[2].find_first_not_of("0123456789"))).value_or(0);
  if (major != 3) return major > 3;
  if (minor == 4) return patch >= 25;
  if (minor == 5) return patch >= 8;
  return minor > 5;
}

}  // namespace

class EtcdWatcher final : public Watcher {
 public:
  // Outlives the watcher while its task runs.
  struct State {
    State(std::shared_ptr<EtcdStore::Rep> store, std::string prefix, Revision after, bool previous)
        : rep(std::move(store)),
          prefix(std::move(prefix)),
          previous(previous),
          after(after),
          changed(rep->loop()),
          stopped(rep->loop()) {}
    std::shared_ptr<EtcdStore::Rep> rep;
    const std::string prefix;
    const bool previous;
    Revision after;  // ours; everything up to here has been queued
    std::deque<Batch> batches;
    std::optional<Error> ended;
    bool closed = false;
    bool inOrder = false;  // the member's answers to progress requests can be trusted
    bool marking = false;
    std::shared_ptr<GrpcStream> stream;
    TimePoint lastHeard{};
    Timer pulse;
    Batch partial;  // fragments of a batch
    Signal changed, stopped;
  };

  EtcdWatcher(std::shared_ptr<EtcdStore::Rep> rep, std::string prefix, Revision after, bool previous)
      : state_(std::make_shared<State>(std::move(rep), std::move(prefix), after, previous)) {
    state_->rep->watchers.insert(this);
    spawn(state_->rep->loop(), run(state_));
  }
  ~EtcdWatcher() override {
    state_->rep->watchers.erase(this);
    close();
  }

  Task<Result<Batch>> next() override {
    auto state = state_;
    while (true) {
      if (state->closed) co_return Error(Code::kCancelled, "the watch is closed");
      if (!state->batches.empty()) {
        Batch batch = std::move(state->batches.front());
        state->batches.pop_front();
        co_return batch;
      }
      if (state->ended) co_return *state->ended;
      co_await state->changed.wait();
    }
  }

  void close() override {
    state_->closed = true;
    state_->pulse.cancel();
    if (state_->stream) state_->stream->close();
    state_->changed.notify();
    state_->stopped.notify();
  }

  void requestProgress() override {
    if (state_->closed) return;
    if (state_->inOrder && state_->stream) {
      state_->stream->send(etcd::encodeProgressRequest());
    } else if (!std::exchange(state_->marking, true)) {
      spawn(state_->rep->loop(), mark(state_));
    }
  }

 private:
  using StatePtr = std::shared_ptr<State>;
  static Task<> run(StatePtr state);
  static Task<> mark(StatePtr state);
  static Task<Result<>> follow(StatePtr state, std::shared_ptr<GrpcChannel> channel, bool* answered);
  static Result<> take(State& state, std::string_view message);
  static void addEvent(State& state, etcd::WatchEvent event);
  static void watchPulse(StatePtr state);

  StatePtr state_;
};

// Writes a key that the watch sees in its place among the events.
Task<> EtcdWatcher::mark(StatePtr state) {
  Txn txn;
  Operation put{Operation::Type::kPut, state->prefix + std::string(kMarkKey), {}};
  put.value.bytes = std::make_shared<const std::string>("1");
  txn.operations.push_back(std::move(put));
  (void)co_await EtcdCluster::call(state->rep->cluster, "/etcdserverpb.KV/Txn",
                                   etcd::encodeTxn(txn, state->rep->cluster->options().prefix),
                                   EtcdCluster::Repeat::kAlways);
  state->marking = false;
}

void EtcdWatcher::watchPulse(StatePtr state) {
  state->pulse = state->rep->loop().after(kPulse, [weak = std::weak_ptr(state)] {
    auto state = weak.lock();
    if (!state || state->closed || !state->stream) return;
    Duration silent = state->rep->loop().now() - state->lastHeard;
    if (silent >= 2 * kPulse + kPulse / 2) {
      state->stream->close();
      return;
    }
    if (silent >= kPulse) state->stream->send(etcd::encodeProgressRequest());
    watchPulse(state);
  });
}

void EtcdWatcher::addEvent(State& state, etcd::WatchEvent in) {
  auto& rep = *state.rep;
  Event event;
  event.type = in.removed ? Event::Type::kDelete : Event::Type::kPut;
  auto& entry = event.entry;
  entry.key = in.entry.key.substr(rep.cluster->options().prefix.size());
  entry.modified = rep.ours(in.entry.modified);
  state.partial.revision = entry.modified;
  if (entry.key.starts_with('!') || entry.key.ends_with(kMarkKey)) return;
  entry.created = rep.ours(in.removed ? in.previous.created : in.entry.created);
  if (in.removed) {
    if (in.hasPrevious) entry.value.bytes = std::make_shared<const std::string>(std::move(in.previous.value));
  } else {
    if (auto own = rep.recall(entry.key, in.entry.value))
      entry.value = std::move(*own);
    else
      entry.value.bytes = std::make_shared<const std::string>(std::move(in.entry.value));
    if (in.hasPrevious) {
      event.previous = Value{std::make_shared<const std::string>(std::move(in.previous.value)), nullptr};
    }
  }
  state.partial.events.push_back(std::move(event));
}

Result<> EtcdWatcher::take(State& state, std::string_view message) {
  ASSIGN_OR_RETURN(auto response, etcd::readWatch(message));
  auto& rep = *state.rep;
  if (response.compacted != 0) {
    return Error(Code::kExpired, fmt::format("revision {} has been compacted; the oldest is {}", state.after,
                                             rep.ours(response.compacted)));
  }
  if (response.cancelled) return Error(Code::kUnavailable, "etcd ended the watch: " + response.reason);
  if (response.created) return {};
  if (response.events.empty() && !response.fragment && state.partial.revision == 0) {
    // How far it has got. Its own notices keep their place among the events.
    bool trusted = response.watchId >= 0 || state.inOrder;
    Revision reached = rep.ours(response.header.revision);
    if (!trusted || reached <= state.after) return {};
    rep.heard(response.header.revision);
    state.after = reached;
    state.batches.push_back({{}, reached});
    state.changed.notify();
    return {};
  }
  for (auto& event : response.events) addEvent(state, std::move(event));
  if (response.fragment) return {};
  Batch batch = std::exchange(state.partial, {});
  // A member that lags behind may repeat what another has given.
  if (batch.revision <= state.after) return {};
  std::erase_if(batch.events, [&](const Event& event) { return event.entry.modified <= state.after; });
  rep.heard(rep.etcds(batch.revision));
  state.after = batch.revision;
  state.batches.push_back(std::move(batch));
  state.changed.notify();
  return {};
}

// One stream from its beginning to its end; the error is why it ended.
Task<Result<>> EtcdWatcher::follow(StatePtr state, std::shared_ptr<GrpcChannel> channel, bool* answered) {
  auto status = co_await GrpcChannel::call(channel, "/etcdserverpb.Maintenance/Status", "", std::chrono::seconds(2));
  if (state->closed) co_return Error(Code::kCancelled, "");
  if (!status.ok()) co_return *status.error;
  CO_ASSIGN_OR_RETURN(auto about, etcd::readStatus(status.message));
  state->inOrder = progressIsInOrder(about.version);
  const std::string full = state->rep->cluster->options().prefix + state->prefix;
  etcd::WatchCreate create;
  create.key = full.empty() ? std::string(1, '\0') : full;
  create.end = etcd::endOf(full);
  create.start = state->rep->etcds(state->after) + 1;
  create.previous = state->previous;
  state->partial = {};
  auto opened = co_await GrpcChannel::open(channel, "/etcdserverpb.Watch/Watch", etcd::encode(create));
  if (state->closed) co_return Error(Code::kCancelled, "");
  if (!opened.ok()) co_return std::move(opened).error();
  auto stream = *opened;
  state->stream = stream;
  state->lastHeard = state->rep->loop().now();
  watchPulse(state);
  while (true) {
    auto message = co_await stream->receive();
    if (state->closed) co_return Error(Code::kCancelled, "");
    if (!message.ok()) co_return std::move(message).error();
    if (!*message) co_return Error(Code::kUnavailable, "the stream ended");
    state->lastHeard = state->rep->loop().now();
    *answered = true;
    CO_RETURN_IF_ERROR(take(*state, **message));
  }
}

Task<> EtcdWatcher::run(StatePtr state) {
  Duration pause = kFirstPause;
  while (!state->closed) {
    auto channel = state->rep->cluster->channel();
    bool answered = false;
    auto ended = co_await follow(state, channel, &answered);
    state->stream.reset();
    state->pulse.cancel();
    if (state->closed) break;
    const Error& why = ended.error();
    if (why.is(Code::kExpired)) {
      state->ended = why;
      state->changed.notify();
      break;
    }
    if (answered)
      log::info("etcd", "the watch of {} moves on from {}: {}", state->prefix, channel->url(), why.message());
    state->rep->cluster->failed(channel);
    pause = answered ? kFirstPause : std::min(pause * 2, kLongestPause);
    (void)co_await state->stopped.waitFor(pause);
  }
  state->changed.notify();
}

Result<std::unique_ptr<Watcher>> watchEtcd(std::shared_ptr<EtcdStore::Rep> rep, std::string prefix, Revision after,
                                           bool previous) {
  return std::unique_ptr<Watcher>(new EtcdWatcher(std::move(rep), std::move(prefix), after, previous));
}

void closeEtcdWatchers(EtcdStore::Rep& rep) {
  for (auto* watcher : rep.watchers) watcher->close();
}

}  // namespace dhow::store
