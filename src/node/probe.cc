#include "probe.h"

namespace dhow::node {

namespace {
constexpr Duration kFirstRetry = std::chrono::milliseconds(5);
}

struct Probe::Rep {
  Loop& loop;
  Gate& gate;
  Kind kind;
  Settings settings;
  TimePoint startedAt;
  Look look;
  Hooks hooks;
  Timer timer;
  bool stopped = false;
  bool ok = false;         // the verdict
  bool decided = false;    // a verdict was told
  bool succeeded = false;  // some look did
  int successes = 0, failures = 0;
  TimePoint nextRegular{};
  Duration retry = kFirstRetry;
};

namespace {

Duration secondsOf(const json::object& probe, std::string_view name, int64_t otherwise) {
  return std::chrono::seconds(std::clamp<int64_t>(number(probe, {name}, otherwise), 0, 1 << 30));
}

}  // namespace

Probe::Settings Probe::settingsOf(const json::object& probe) {
  Settings out;
  out.initialDelay = secondsOf(probe, "initialDelaySeconds", 0);
  out.period = std::max<Duration>(std::chrono::seconds(1), secondsOf(probe, "periodSeconds", 10));
  out.timeout = std::max<Duration>(std::chrono::seconds(1), secondsOf(probe, "timeoutSeconds", 1));
  out.successThreshold = static_cast<int>(std::max<int64_t>(1, number(probe, {"successThreshold"}, 1)));
  out.failureThreshold = static_cast<int>(std::max<int64_t>(1, number(probe, {"failureThreshold"}, 3)));
  return out;
}

std::string_view probeName(Probe::Kind kind) {
  switch (kind) {
    case Probe::Kind::kStartup: return "Startup";
    case Probe::Kind::kLiveness: return "Liveness";
    case Probe::Kind::kReadiness: return "Readiness";
  }
  return "";
}

struct ProbeRun {
  template <class Rep>
  static void schedule(std::shared_ptr<Rep> rep, Duration delay) {
    std::weak_ptr<Rep> weak = rep;
    rep->timer = rep->loop.after(delay, [weak] {
      auto rep = weak.lock();
      if (rep && !rep->stopped) rep->gate.spawn(run(rep));
    });
  }

  template <class Rep>
  static Task<> run(std::shared_ptr<Rep> rep) {
    if (rep->stopped) co_return;
    const TimePoint began = rep->loop.now();
    const bool regular = began >= rep->nextRegular;
    if (regular) rep->nextRegular = began + rep->settings.period;
    ProbeOutcome outcome = co_await rep->look();
    if (rep->stopped) co_return;
    const TimePoint now = rep->loop.now();
    judge(*rep, outcome, regular);
    if (rep->stopped) co_return;
    Duration delay = std::max(Duration::zero(), rep->nextRegular - now);
    if (!rep->succeeded && !outcome.ok) {
      delay = std::min(delay, rep->retry);
      rep->retry = std::min(rep->retry * 2, rep->settings.period);
    }
    // More than one success is wanted: those are counted at the regular times.
    schedule(rep, delay);
  }

  template <class Rep>
  static void judge(Rep& rep, const ProbeOutcome& outcome, bool regular) {
    if (outcome.ok) {
      rep.failures = 0;
      rep.succeeded = true;
      if (++rep.successes >= rep.settings.successThreshold) tell(rep, true, outcome.message);
      return;
    }
    if (!regular) return;
    rep.successes = 0;
    ++rep.failures;
    rep.hooks.failed(outcome.message);
    if (rep.stopped || rep.failures < rep.settings.failureThreshold) return;
    tell(rep, false, outcome.message);
  }

  template <class Rep>
  static void tell(Rep& rep, bool ok, const std::string& message) {
    if (rep.decided && rep.ok == ok) return;
    rep.decided = true;
    rep.ok = ok;
    rep.hooks.verdict(ok, message);
  }
};

Probe::Probe(Loop& loop, Gate& gate, Kind kind, Settings settings, TimePoint startedAt, Look look, Hooks hooks)
    : rep_(new Rep{loop, gate, kind, settings, startedAt, std::move(look), std::move(hooks)}) {
  // A container counts as alive until the probe says otherwise.
  rep_->ok = kind == Kind::kLiveness;
  rep_->decided = kind == Kind::kLiveness;
  rep_->succeeded = kind == Kind::kLiveness;
}

Probe::~Probe() {
  stop();
}

void Probe::start() {
  const Duration passed = rep_->loop.now() - rep_->startedAt;
  const Duration delay = std::max(Duration::zero(), rep_->settings.initialDelay - passed);
  if (delay > Duration::zero()) {
    ProbeRun::schedule(rep_, delay);
  } else {
    rep_->gate.spawn(ProbeRun::run(rep_));
  }
}

void Probe::stop() {
  rep_->stopped = true;
  rep_->timer.cancel();
}

bool Probe::holds() const {
  return rep_->ok;
}

void Probe::assume(bool ok) {
  rep_->ok = ok;
  rep_->decided = true;
  rep_->succeeded = rep_->succeeded || ok;
}

}  // namespace dhow::node
