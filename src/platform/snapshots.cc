#include "platform/snapshots.h"

#include <ctime>

#include <algorithm>
#include <set>

#include "base/digest.h"
#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/http_client.h"
#include "client/kubeconfig.h"
#include "http/client.h"

namespace dhow::platform {

namespace {

using namespace std::chrono_literals;

constexpr std::string_view kScheduled = "auto-";
constexpr std::string_view kSuffix = ".snapshot";
constexpr size_t kNewest = 24;
constexpr size_t kDays = 7;
// Where there is none yet, one comes soon.
constexpr Duration kFirst = 1min;
// After a failure.
constexpr Duration kAgain = 1min;

}  // namespace

std::string clusterIdOf(const std::string& name, const std::string& authorityPem) {
  return fmt::format("{} sha256:{}", name, sha256Hex(trim(authorityPem)).substr(0, 32));
}

std::string snapshotName(WallTime taken, bool scheduled) {
  std::string time = formatTime(taken);
  std::erase_if(time, [](char c) { return c == '-' || c == ':'; });
  return fmt::format("{}{}{}", scheduled ? kScheduled : "", time, kSuffix);
}

std::optional<WallTime> scheduledTime(const std::string& name) {
  constexpr size_t kStamp = 16;  // 20260101T000000Z
  std::string_view text = name;
  if (text.size() != kScheduled.size() + kStamp + kSuffix.size()) return std::nullopt;
  if (!text.starts_with(kScheduled) || !text.ends_with(kSuffix)) return std::nullopt;
  text = text.substr(kScheduled.size(), kStamp);
  return parseTime(fmt::format("{}-{}-{}:{}:{}", text.substr(0, 4), text.substr(4, 2), text.substr(6, 5),
                               text.substr(11, 2), text.substr(13)));
}

std::vector<std::string> outdatedSnapshots(const std::vector<std::string>& names) {
  std::vector<std::pair<WallTime, std::string>> scheduled;
  for (const auto& name : names) {
    if (auto time = scheduledTime(name)) scheduled.emplace_back(*time, name);
  }
  std::sort(scheduled.rbegin(), scheduled.rend());
  std::vector<std::string> outdated;
  std::set<int64_t> days;
  for (size_t i = 0; i < scheduled.size(); ++i) {
    const int64_t day = std::chrono::floor<std::chrono::days>(scheduled[i].first).time_since_epoch().count();
    const bool newestOfDay = days.size() < kDays && days.insert(day).second;
    if (i >= kNewest && !newestOfDay) outdated.push_back(scheduled[i].second);
  }
  return outdated;
}

Result<std::vector<SnapshotFile>> listSnapshots(const std::string& folder) {
  std::vector<SnapshotFile> files;
  if (!pathExists(folder)) return files;
  ASSIGN_OR_RETURN(auto names, listDir(folder));
  for (const auto& name : names) {
    if (!name.ends_with(kSuffix)) continue;
    SnapshotFile file{name, {}, std::nullopt};
    auto info = store::inspectSnapshot(folder + "/" + name);
    if (info.ok())
      file.info = std::move(*info);
    else
      file.damage = std::move(info).error();
    files.push_back(std::move(file));
  }
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return std::tie(a.info.taken, a.name) < std::tie(b.info.taken, b.name);
  });
  return files;
}

namespace {

constexpr size_t kPiece = 256 << 10;
constexpr size_t kMaxError = 1 << 20;

Task<Result<store::SnapshotInfo>> receive(http::Client* http, std::string url, store::SnapshotWriter writer) {
  auto answer = co_await http->send(std::move(url), http::Request());
  if (!answer.ok()) co_return std::move(answer).error().wrap("no master answers (`dhow status` shows them)");
  if (answer->status != 200) {
    auto body = co_await http::readAll(*answer->body, kMaxError);
    co_return client::errorOfStatus(answer->status, body.ok() ? *body : "");
  }
  std::vector<char> piece(kPiece);
  while (true) {
    auto count = co_await answer->body->read(piece);
    if (!count.ok()) co_return std::move(count).error().wrap("the snapshot broke off");
    if (*count == 0) break;
    CO_RETURN_IF_ERROR(writer.write({piece.data(), *count}));
  }
  co_return writer.finish();
}

}  // namespace

Task<Result<store::SnapshotInfo>> fetchSnapshot(Loop& loop, std::string kubeconfigFile, std::string file) {
  CO_ASSIGN_OR_RETURN(auto kubeconfig, client::loadKubeconfig(kubeconfigFile));
  CO_ASSIGN_OR_RETURN(auto connection, client::httpOptions(kubeconfig));
  CO_ASSIGN_OR_RETURN(auto writer, store::SnapshotWriter::create(file));
  http::Client::Options options;
  options.tls = connection.tls;
  options.pingAfter = std::chrono::seconds(5);
  http::Client http(loop, std::move(options));
  auto received = co_await receive(&http, kubeconfig.server + "/dhow/v1/snapshot", std::move(writer));
  http.close();
  co_return received;
}

SnapshotKeeper::SnapshotKeeper(Loop& loop, Options options)
    : loop_(loop), options_(std::move(options)), stopped_(loop), gate_(loop) {}

void SnapshotKeeper::start() {
  began_ = loop_.now();
  if (options_.every > 0s) gate_.spawn(run(this));
}

Task<> SnapshotKeeper::stop() {
  stopping_ = true;
  stopped_.notify();
  co_await gate_.close();
}

Duration SnapshotKeeper::untilNext() const {
  std::optional<WallTime> newest;
  if (auto names = listDir(options_.folder); names.ok()) {
    for (const auto& name : *names) newest = std::max(newest, scheduledTime(name));
  }
  if (!newest) return std::max<Duration>(began_ + std::min(options_.every, kFirst) - loop_.now(), 0s);
  // A clock that was set back makes nobody wait longer.
  return std::clamp<Duration>(*newest + options_.every - loop_.wallNow(), 0s, options_.every);
}

Task<Result<>> SnapshotKeeper::saveOne() {
  const std::string name = snapshotName(loop_.wallNow(), true);
  auto saved = co_await options_.save(options_.folder + "/" + name);
  CO_RETURN_IF_ERROR(saved);
  log::info("server", "saved snapshot {}", name);
  CO_ASSIGN_OR_RETURN(auto names, listDir(options_.folder));
  for (const auto& old : outdatedSnapshots(names)) CO_RETURN_IF_ERROR(removeTree(options_.folder + "/" + old));
  co_return Result<>();
}

Task<> SnapshotKeeper::run(SnapshotKeeper* self) {
  while (!self->stopping_) {
    const Duration wait = self->untilNext();
    if (wait > 0s) {
      co_await self->stopped_.waitFor(wait);
      continue;
    }
    auto saved = co_await self->saveOne();
    if (saved.ok() || self->stopping_) continue;
    log::warn("server", "no snapshot could be saved: {}", saved.error().message());
    co_await self->stopped_.waitFor(kAgain);
  }
}

}  // namespace dhow::platform
