#include "base/identity_keeper.h"

#include "base/files.h"
#include "base/log.h"
#include "base/time.h"

namespace dhow {

namespace {

constexpr size_t kMaxFile = 1 << 20;
constexpr std::string_view kKeyBegin = "-----BEGIN PRIVATE KEY-----";
constexpr Duration kFirstDelay = std::chrono::seconds(1);
constexpr Duration kMaxDelay = std::chrono::hours(1);
// Timers do not notice that the wall clock is set.
constexpr Duration kLongestWait = std::chrono::hours(1);

Duration randomUpTo(Loop& loop, Duration limit) {
  return limit > Duration::zero() ? Duration(static_cast<int64_t>(loop.random() % static_cast<uint64_t>(limit.count())))
                                  : Duration::zero();
}

}  // namespace

Result<Identity> readIdentityFile(const std::string& path) {
  ASSIGN_OR_RETURN(auto text, readFile(path, kMaxFile));
  const auto key = text.find(kKeyBegin);
  if (key == std::string::npos || key == 0)
    return Error(Code::kDataLoss, fmt::format("{} does not hold a certificate and its key", path));
  return Identity{text.substr(0, key), text.substr(key)};
}

Result<> writeIdentityFile(const std::string& path, const Identity& identity) {
  return writeFileDurably(path, identity.certificatePem + identity.privateKeyPem, 0600);
}

IdentityKeeper::IdentityKeeper(Loop& loop, Options options)
    : loop_(loop), options_(std::move(options)), wake_(loop), gate_(loop) {}

void IdentityKeeper::start() {
  // One that cannot be read is renewed at once.
  if (auto used = use(options_.certificatePem); !used.ok()) complain(used.error());
  gate_.spawn(run(this));
}

Task<> IdentityKeeper::stop() {
  stopping_ = true;
  wake_.notify();
  co_await gate_.close();
}

Result<> IdentityKeeper::use(const std::string& certificatePem) {
  ASSIGN_OR_RETURN(auto info, inspectCertificate(certificatePem));
  const Duration life = info.notAfter - info.notBefore;
  end_ = info.notAfter;
  due_ = end_ - life / 3 - randomUpTo(loop_, life / 10);
  return {};
}

Task<> IdentityKeeper::run(IdentityKeeper* self) {
  while (!self->stopping_) {
    const WallTime now = self->loop_.wallNow();
    if (now < self->due_) {
      co_await self->wake_.waitFor(std::min<Duration>(self->due_ - now, kLongestWait));
      continue;
    }
    auto renewed = co_await self->renew();
    if (self->stopping_) co_return;
    if (renewed.ok()) {
      self->failures_ = 0;
      ++self->renewals_;
      log::info("identity", "the certificate of {} is renewed, until {}", self->options_.name, formatTime(self->end_));
    } else {
      ++self->failures_;
      self->complain(renewed.error());
    }
    // One that an authority in its last days cut short must not be renewed without a pause either.
    co_await self->wake_.waitFor(self->pause());
  }
}

Task<Result<>> IdentityKeeper::renew() {
  auto issued = co_await options_.issue();
  CO_RETURN_IF_ERROR(issued);
  const std::string certificate = issued->certificatePem;
  auto taken = co_await options_.take(std::move(*issued));
  CO_RETURN_IF_ERROR(taken);
  co_return use(certificate);
}

// Grows with each failure, but not beyond a tenth of the time that is left.
Duration IdentityKeeper::pause() {
  Duration limit = std::clamp<Duration>((end_ - loop_.wallNow()) / 10, kFirstDelay, kMaxDelay);
  if (end_ <= loop_.wallNow()) limit = std::chrono::minutes(1);
  Duration delay = kFirstDelay;
  for (int i = 1; i < failures_ && delay < limit; ++i) delay *= 2;
  delay = std::min(delay, limit);
  return delay / 2 + randomUpTo(loop_, delay / 2);
}

void IdentityKeeper::complain(const Error& error) const {
  const Duration left = end_ - loop_.wallNow();
  if (end_ == WallTime{} || left <= Duration::zero()) {
    log::error("identity", "the certificate of {} has ended and cannot be renewed: {}", options_.name, error.message());
  } else if (left >= std::chrono::hours(48)) {
    log::warn("identity", "the certificate of {} ends in {} days and cannot be renewed: {}", options_.name,
              left / std::chrono::hours(24), error.message());
  } else {
    log::warn("identity", "the certificate of {} ends in {} minutes and cannot be renewed: {}", options_.name,
              left / std::chrono::minutes(1), error.message());
  }
}

namespace {

Task<Result<>> takeIdentity(Loop* loop, BlockingPool* pool, std::string path,
                            std::function<Result<>(const Identity&)> use, Identity identity) {
  auto written = co_await pool->run(*loop, [&]() -> Result<> { return writeIdentityFile(path, identity); });
  CO_RETURN_IF_ERROR(written);
  co_return use(identity);
}

}  // namespace

std::function<Task<Result<>>(Identity)> takeIntoFile(Loop& loop, BlockingPool& pool, std::string path,
                                                     std::function<Result<>(const Identity&)> use) {
  return [&loop, &pool, path = std::move(path), use = std::move(use)](Identity identity) {
    return takeIdentity(&loop, &pool, path, use, std::move(identity));
  };
}

}  // namespace dhow
