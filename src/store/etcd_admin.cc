#include "store/etcd_admin.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/digest.h"
#include "base/fd.h"
#include "base/log.h"
#include "etcd_cluster.h"
#include "etcd_wire.h"
#include "proto.h"

namespace dhow::store {

namespace {
constexpr Duration kStatusLimit = std::chrono::seconds(3);
constexpr Duration kSlowLimit = std::chrono::minutes(2);
constexpr size_t kDigestBytes = 32;
}  // namespace

struct EtcdAdmin::Rep {
  explicit Rep(std::shared_ptr<EtcdCluster> given) : cluster(std::move(given)) {}
  std::shared_ptr<EtcdCluster> cluster;  // null: the options are wrong, as `wrong` tells
  std::optional<Error> wrong;
  Revision nextCompaction = 0;

  // One that any member can answer.
  static Task<Result<std::string>> ask(std::shared_ptr<Rep> rep, std::string method, std::string request,
                                       EtcdCluster::Repeat repeat) {
    if (rep->wrong) co_return *rep->wrong;
    auto outcome = co_await EtcdCluster::call(rep->cluster, std::move(method), std::move(request), repeat);
    if (!outcome.answer.ok()) co_return *outcome.answer.error;
    co_return std::move(outcome.answer.message);
  }
  // One for that member alone.
  static Task<Result<std::string>> askAt(std::shared_ptr<Rep> rep, std::string endpoint, std::string method,
                                         std::string request, Duration limit, bool requireLeader) {
    if (rep->wrong) co_return *rep->wrong;
    CO_ASSIGN_OR_RETURN(auto channel, rep->cluster->channelTo(endpoint));
    auto answer = co_await GrpcChannel::call(channel, std::move(method), std::move(request), limit, requireLeader);
    if (!answer.ok()) co_return std::move(*answer.error).wrap(endpoint);
    co_return std::move(answer.message);
  }
};

EtcdAdmin::EtcdAdmin(Loop& loop, EtcdOptions options) {
  auto cluster = EtcdCluster::create(loop, std::move(options));
  rep_ = std::make_shared<Rep>(cluster.ok() ? *cluster : nullptr);
  if (!cluster.ok()) rep_->wrong = cluster.error();
}

EtcdAdmin::~EtcdAdmin() {
  if (rep_->cluster) rep_->cluster->close();
}

Result<> EtcdAdmin::replaceEndpoints(std::vector<std::string> endpoints) {
  if (rep_->wrong) return *rep_->wrong;
  return rep_->cluster->replaceEndpoints(std::move(endpoints));
}

Task<Result<std::vector<EtcdAdmin::Member>>> EtcdAdmin::members() {
  auto answer = co_await Rep::ask(rep_, "/etcdserverpb.Cluster/MemberList", "", EtcdCluster::Repeat::kAlways);
  if (!answer.ok()) co_return std::move(answer).error();
  co_return etcd::readMembers(*answer);
}

Task<Result<EtcdAdmin::Member>> EtcdAdmin::addMember(std::vector<std::string> peerUrls, bool learner) {
  ProtoWriter request;
  for (const auto& url : peerUrls) request.bytes(1, url);
  request.number(2, learner);
  auto answer =
      co_await Rep::ask(rep_, "/etcdserverpb.Cluster/MemberAdd", request.take(), EtcdCluster::Repeat::kUnsent);
  if (!answer.ok()) co_return std::move(answer).error();
  ProtoReader in(*answer);
  while (in.next()) {
    if (in.field() != 2) continue;
    // Read as a list of one.
    std::string alone = ProtoWriter().message(2, in.bytes()).take();
    CO_ASSIGN_OR_RETURN(auto list, etcd::readMembers(alone));
    co_return std::move(list.front());
  }
  co_return Error(Code::kDataLoss, "etcd did not name the member that it added");
}

Task<Result<>> EtcdAdmin::promoteMember(uint64_t id) {
  std::string request = ProtoWriter().number(1, id).take();
  auto answer =
      co_await Rep::ask(rep_, "/etcdserverpb.Cluster/MemberPromote", std::move(request), EtcdCluster::Repeat::kUnsent);
  CO_RETURN_IF_ERROR(answer);
  co_return Result<>();
}

Task<Result<>> EtcdAdmin::removeMember(uint64_t id) {
  std::string request = ProtoWriter().number(1, id).take();
  auto answer =
      co_await Rep::ask(rep_, "/etcdserverpb.Cluster/MemberRemove", std::move(request), EtcdCluster::Repeat::kUnsent);
  CO_RETURN_IF_ERROR(answer);
  co_return Result<>();
}

Task<Result<>> EtcdAdmin::updateMember(uint64_t id, std::vector<std::string> peerUrls) {
  ProtoWriter request;
  request.number(1, id);
  for (const auto& url : peerUrls) request.bytes(2, url);
  auto answer =
      co_await Rep::ask(rep_, "/etcdserverpb.Cluster/MemberUpdate", request.take(), EtcdCluster::Repeat::kAlways);
  CO_RETURN_IF_ERROR(answer);
  co_return Result<>();
}

Task<Result<>> EtcdAdmin::moveLeader(uint64_t toMember) {
  // Only the leader can give its office away.
  if (rep_->wrong) co_return *rep_->wrong;
  for (const auto& endpoint : rep_->cluster->options().endpoints) {
    auto about = co_await status(endpoint);
    if (!about.ok() || !about->leads()) continue;
    std::string request = ProtoWriter().number(1, toMember).take();
    auto answer = co_await Rep::askAt(rep_, endpoint, "/etcdserverpb.Maintenance/MoveLeader", std::move(request),
                                      kStatusLimit, true);
    CO_RETURN_IF_ERROR(answer);
    co_return Result<>();
  }
  co_return Error(Code::kUnavailable, "no endpoint leads the etcd cluster");
}

Task<Result<EtcdAdmin::Status>> EtcdAdmin::status(std::string endpoint) {
  auto answer = co_await Rep::askAt(rep_, endpoint, "/etcdserverpb.Maintenance/Status", "", kStatusLimit, false);
  if (!answer.ok()) co_return std::move(answer).error();
  CO_ASSIGN_OR_RETURN(Status about, etcd::readStatus(*answer));
  about.endpoint = std::move(endpoint);
  co_return about;
}

Task<Result<>> EtcdAdmin::health(std::string endpoint) {
  std::string request = etcd::encode(etcd::RangeRequest{.key = "!health", .countOnly = true});
  auto answer =
      co_await Rep::askAt(rep_, std::move(endpoint), "/etcdserverpb.KV/Range", std::move(request), kStatusLimit, true);
  CO_RETURN_IF_ERROR(answer);
  co_return Result<>();
}

Task<Result<std::vector<EtcdAdmin::Alarm>>> EtcdAdmin::alarms() {
  auto answer = co_await Rep::ask(rep_, "/etcdserverpb.Maintenance/Alarm", "", EtcdCluster::Repeat::kAlways);
  if (!answer.ok()) co_return std::move(answer).error();
  co_return etcd::readAlarms(*answer);
}

Task<Result<>> EtcdAdmin::disarm(Alarm alarm) {
  std::string request = ProtoWriter()
                            .number(1, 2)
                            .number(2, alarm.memberId)
                            .number(3, alarm.kind == Alarm::Kind::kCorrupt ? 2 : 1)
                            .take();
  auto answer =
      co_await Rep::ask(rep_, "/etcdserverpb.Maintenance/Alarm", std::move(request), EtcdCluster::Repeat::kAlways);
  CO_RETURN_IF_ERROR(answer);
  co_return Result<>();
}

Task<Result<>> EtcdAdmin::compact(Revision etcdRevision) {
  auto answer = co_await Rep::ask(rep_, "/etcdserverpb.KV/Compact", etcd::encodeCompact(etcdRevision),
                                  EtcdCluster::Repeat::kAlways);
  // kExpired: it was compacted before.
  if (!answer.ok() && !answer.error().is(Code::kExpired)) co_return std::move(answer).error();
  co_return Result<>();
}

Task<Result<>> EtcdAdmin::defragment(std::string endpoint) {
  auto answer =
      co_await Rep::askAt(rep_, std::move(endpoint), "/etcdserverpb.Maintenance/Defragment", "", kSlowLimit, false);
  CO_RETURN_IF_ERROR(answer);
  co_return Result<>();
}

Task<Result<size_t>> EtcdAdmin::defragmentAll(int64_t leastBytes, double leastFree) {
  if (rep_->wrong) co_return *rep_->wrong;
  std::vector<Status> all;
  for (const auto& endpoint : rep_->cluster->options().endpoints) {
    auto about = co_await status(endpoint);
    if (!about.ok()) co_return std::move(about).error().wrap("not every member is well, so none is defragmented");
    all.push_back(std::move(*about));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.leads() < b.leads(); });
  size_t done = 0;
  for (const auto& one : all) {
    double free = one.fileBytes > 0 ? 1.0 - static_cast<double>(one.usedBytes) / static_cast<double>(one.fileBytes) : 0;
    if (one.fileBytes < leastBytes || free < leastFree) continue;
    for (const auto& other : all) {
      auto well = co_await health(other.endpoint);
      if (!well.ok()) co_return std::move(well).error().wrap("not every member is well, so none is defragmented");
    }
    CO_RETURN_IF_ERROR(co_await defragment(one.endpoint));
    ++done;
    log::info("etcd", "{} was defragmented: {} of {} bytes were in use", one.endpoint, one.usedBytes, one.fileBytes);
  }
  co_return done;
}

Task<Result<>> EtcdAdmin::maintain() {
  if (rep_->wrong) co_return *rep_->wrong;
  auto rep = rep_;
  std::string question = etcd::encode(etcd::RangeRequest{.key = "!now", .countOnly = true});
  auto answer = co_await Rep::ask(rep, "/etcdserverpb.KV/Range", std::move(question), EtcdCluster::Repeat::kAlways);
  if (!answer.ok()) co_return std::move(answer).error();
  CO_ASSIGN_OR_RETURN(auto now, etcd::readRange(*answer));
  Revision before = std::exchange(rep->nextCompaction, now.header.revision);
  if (before > 0) CO_RETURN_IF_ERROR(co_await compact(before));
  CO_ASSIGN_OR_RETURN(auto raised, co_await alarms());
  for (const auto& alarm : raised) {
    if (alarm.kind == Alarm::Kind::kCorrupt) {
      log::error("etcd", "member {:x} has found its data corrupt: replace it", alarm.memberId);
      continue;
    }
    log::error("etcd", "member {:x} has run out of space: making room", alarm.memberId);
    if (before == 0) CO_RETURN_IF_ERROR(co_await compact(now.header.revision));
    auto defragmented = co_await defragmentAll(0, 0.1);
    CO_RETURN_IF_ERROR(defragmented);
    // With nothing gained the alarm stands: it would only come back.
    if (*defragmented > 0) CO_RETURN_IF_ERROR(co_await disarm(alarm));
  }
  co_return Result<>();
}

namespace {

// The database as it arrives. etcd ends it with the SHA-256 of all before, which stays in the file.
struct DatabaseFile {
  std::string partial;
  UniqueFd file;
  Sha256 digest;
  std::string tail;  // the last bytes: perhaps the digest
  uint64_t size = 0;

  Result<> take(const std::string& blob) {
    for (size_t at = 0; at < blob.size();) {
      ssize_t n = ::write(file.get(), blob.data() + at, blob.size() - at);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Error::fromErrno("write " + partial);
      at += static_cast<size_t>(n);
    }
    size += blob.size();
    tail += blob;
    if (tail.size() > kDigestBytes) {
      size_t passed = tail.size() - kDigestBytes;
      digest.update(std::string_view(tail).substr(0, passed));
      tail.erase(0, passed);
    }
    return {};
  }
  Result<> finish(const std::string& path) {
    // A database is a whole number of pages.
    if (size % 512 != kDigestBytes || fromHex(digest.hex()) != tail) {
      return Error(Code::kDataLoss, "the database that etcd sent does not match its digest");
    }
    if (::fsync(file.get()) != 0) return Error::fromErrno("fsync " + partial);
    if (::rename(partial.c_str(), path.c_str()) != 0) return Error::fromErrno("rename " + partial);
    return {};
  }
  static std::string fromHex(const std::string& hex) {
    std::string out;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) {
      out.push_back(static_cast<char>(std::strtol(hex.substr(i, 2).c_str(), nullptr, 16)));
    }
    return out;
  }
  ~DatabaseFile() {
    if (file) ::unlink(partial.c_str());
  }
};

}  // namespace

Task<Result<>> EtcdAdmin::saveDatabase(BlockingPool& pool, std::string endpoint, std::string path) {
  if (rep_->wrong) co_return *rep_->wrong;
  auto rep = rep_;
  CO_ASSIGN_OR_RETURN(auto channel, rep->cluster->channelTo(endpoint));
  DatabaseFile into;
  into.partial = path + ".partial";
  into.file = UniqueFd(::open(into.partial.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
  if (!into.file) co_return Error::fromErrno("create " + into.partial);
  auto stream = co_await GrpcChannel::open(channel, "/etcdserverpb.Maintenance/Snapshot", "", false);
  if (!stream.ok()) co_return std::move(stream).error();
  (*stream)->finish();
  while (true) {
    auto message = co_await (*stream)->receive();
    if (!message.ok()) co_return std::move(message).error();
    if (!*message) break;
    CO_ASSIGN_OR_RETURN(auto part, etcd::readSnapshotPart(**message));
    std::function<Result<>()> write = [&into, &part] { return into.take(part.blob); };
    CO_RETURN_IF_ERROR(co_await pool.run(rep->cluster->loop(), std::move(write)));
  }
  std::function<Result<>()> end = [&into, &path] { return into.finish(path); };
  co_return co_await pool.run(rep->cluster->loop(), std::move(end));
}

EtcdUpkeep::EtcdUpkeep(Loop& loop, EtcdOptions options, Duration interval)
    : admin_(loop, std::move(options)), interval_(interval), gate_(loop), stopping_(loop) {}

void EtcdUpkeep::start() {
  gate_.spawn(work());
}

Task<> EtcdUpkeep::stop() {
  stopped_ = true;
  stopping_.notify();
  co_await gate_.close();
}

Task<> EtcdUpkeep::work() {
  while (!stopped_) {
    auto kept = co_await admin_.maintain();
    if (!kept.ok()) log::warn("etcd", "upkeep: {}", kept.error().message());
    if (kept.ok() && !stopped_) {
      auto done = co_await admin_.defragmentAll();
      if (!done.ok()) log::warn("etcd", "upkeep: {}", done.error().message());
    }
    if (!stopped_) (void)co_await stopping_.waitFor(interval_);
  }
}

}  // namespace dhow::store
