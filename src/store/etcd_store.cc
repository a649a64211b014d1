#include "store/etcd_store.h"

#include "base/strings.h"
#include "core.h"
#include "etcd_rep.h"

namespace dhow::store {

namespace {

constexpr int64_t kPage = 500;
constexpr int64_t kPiece = 64;  // of a cursor
constexpr int kListAttempts = 3;
constexpr size_t kMaxExpected = 256;

Error unknownOutcome(const Error& why) {
  return Error(Code::kDeadlineExceeded,
               fmt::format("the store did not tell in time whether the change was made: {}", why.message()));
}

// Whether a second copy of the transaction cannot be done after the first: one of its own keys is compared.
bool guarded(const Txn& txn) {
  for (const auto& compare : txn.compares) {
    for (const auto& operation : txn.operations) {
      if (operation.key != compare.key) continue;
      if (operation.type == Operation::Type::kPut || compare.modified != 0) return true;
    }
  }
  return false;
}

}  // namespace

void EtcdStore::Rep::expect(const Txn& txn) {
  if (watchers.empty()) return;
  for (const auto& operation : txn.operations) {
    if (operation.type != Operation::Type::kPut || !operation.value.decoded) continue;
    auto [at, fresh] = expected.insert_or_assign(operation.key, operation.value);
    if (fresh) expectedOrder.push_back(operation.key);
  }
  while (expectedOrder.size() > kMaxExpected) {
    expected.erase(expectedOrder.front());
    expectedOrder.pop_front();
  }
}

void EtcdStore::Rep::forget(const Txn& txn) {
  for (const auto& operation : txn.operations) {
    auto found = expected.find(operation.key);
    if (found != expected.end() && found->second.bytes == operation.value.bytes) expected.erase(found);
  }
}

std::optional<Value> EtcdStore::Rep::recall(const std::string& key, const std::string& bytes) {
  auto found = expected.find(key);
  if (found == expected.end() || *found->second.bytes != bytes) return std::nullopt;
  Value value = std::move(found->second);
  expected.erase(found);
  // Its name in the order stays until it is the oldest.
  if (expected.empty()) expectedOrder.clear();
  return value;
}

EtcdStore::EtcdStore(std::shared_ptr<Rep> rep) : rep_(std::move(rep)) {}

EtcdStore::~EtcdStore() {
  rep_->closed = true;
  closeEtcdWatchers(*rep_);
  rep_->cluster->close();
}

Task<Result<std::unique_ptr<EtcdStore>>> EtcdStore::open(Loop& loop, EtcdOptions options) {
  CO_ASSIGN_OR_RETURN(auto cluster, EtcdCluster::create(loop, std::move(options)));
  auto rep = std::make_shared<Rep>(std::move(cluster));
  std::unique_ptr<EtcdStore> store(new EtcdStore(rep));
  etcd::RangeRequest request;
  request.key = rep->cluster->options().prefix + std::string(kBaseKey);
  auto found = co_await Rep::range(rep, std::move(request));
  if (!found.ok()) co_return std::move(found).error().wrap("open the etcd store");
  if (!found->entries.empty()) {
    auto base = parseInt(found->entries.front().value);
    if (!base || *base < 0) co_return Error(Code::kDataLoss, "open the etcd store: its base revision is damaged");
    rep->base = *base;
  }
  co_return store;
}

Result<> EtcdStore::replaceEndpoints(std::vector<std::string> endpoints) {
  return rep_->cluster->replaceEndpoints(std::move(endpoints));
}
std::optional<Error> EtcdStore::outage() const {
  return rep_->cluster->outage();
}

Task<Result<etcd::RangeResponse>> EtcdStore::Rep::range(std::shared_ptr<Rep> rep, etcd::RangeRequest request) {
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  auto outcome = co_await EtcdCluster::call(rep->cluster, "/etcdserverpb.KV/Range", etcd::encode(request),
                                            EtcdCluster::Repeat::kAlways);
  if (!outcome.answer.ok()) co_return *outcome.answer.error;
  auto response = etcd::readRange(outcome.answer.message);
  if (response.ok()) rep->heard(response->header.revision);
  co_return response;
}

Task<Result<std::optional<Entry>>> EtcdStore::get(std::string key) {
  auto rep = rep_;
  etcd::RangeRequest request;
  request.key = rep->cluster->options().prefix + key;
  auto found = co_await Rep::range(rep, std::move(request));
  if (!found.ok()) co_return std::move(found).error();
  if (found->entries.empty()) co_return std::optional<Entry>();
  auto& one = found->entries.front();
  Entry entry{std::move(key), {}, rep->ours(one.created), rep->ours(one.modified)};
  entry.value.bytes = std::make_shared<const std::string>(std::move(one.value));
  co_return std::optional<Entry>(std::move(entry));
}

namespace {

bool isOwn(std::string_view key) {
  return key.starts_with('!') || key.ends_with(kMarkKey);
}

// From `from` on all keys with the prefix.
etcd::RangeRequest rangeOf(const std::string& root, const std::string& prefix, const std::string& from) {
  etcd::RangeRequest request;
  request.key = root + std::max(prefix, from);
  request.end = etcd::endOf(root + prefix);
  if (request.key.empty()) request.key = std::string(1, '\0');
  return request;
}

}  // namespace

// The page that the request asks for, without our own keys; then the request asks for the one that follows, at the same
// revision. False: there is none.
Task<Result<bool>> EtcdStore::Rep::page(std::shared_ptr<Rep> rep, etcd::RangeRequest* request,
                                        std::vector<Entry>* entries) {
  CO_ASSIGN_OR_RETURN(auto page, co_await range(rep, *request));
  if (request->revision == 0) request->revision = page.header.revision;
  const bool more = page.more && !page.entries.empty();
  if (more) request->key = page.entries.back().key + std::string(1, '\0');
  for (auto& one : page.entries) {
    std::string key = one.key.substr(rep->cluster->options().prefix.size());
    if (isOwn(key)) continue;
    Entry entry{std::move(key), {}, rep->ours(one.created), rep->ours(one.modified)};
    entry.value.bytes = std::make_shared<const std::string>(std::move(one.value));
    entries->push_back(std::move(entry));
  }
  co_return more;
}

Task<Result<ListResult>> EtcdStore::list(std::string prefix, std::string from, size_t limit) {
  auto rep = rep_;
  for (int attempt = 1;; ++attempt) {
    ListResult result;
    auto request = rangeOf(rep->cluster->options().prefix, prefix, from);
    bool more = true;
    std::optional<Error> failed;
    // One page more than asked for tells whether there is more.
    while (more && (limit == 0 || result.entries.size() <= limit)) {
      int64_t wanted = limit == 0 ? kPage : static_cast<int64_t>(limit - result.entries.size() + 1);
      request.limit = std::min(kPage, wanted);
      auto page = co_await Rep::page(rep, &request, &result.entries);
      if (!page.ok()) {
        failed = std::move(page).error();
        break;
      }
      more = *page;
    }
    result.revision = rep->ours(request.revision);
    // The revision of the first page was compacted before the last came.
    if (failed && failed->is(Code::kExpired) && attempt < kListAttempts) continue;
    if (failed) co_return std::move(*failed);
    if (limit != 0 && result.entries.size() > limit) {
      result.entries.resize(limit);
      result.more = true;
    }
    co_return result;
  }
}

class EtcdStore::RangeCursor final : public Cursor {
 public:
  RangeCursor(std::shared_ptr<Rep> rep, etcd::RangeRequest request, uint64_t entries)
      : rep_(std::move(rep)), request_(std::move(request)), entries_(entries) {
    request_.limit = kPiece;
  }
  Revision revision() const override { return rep_->ours(request_.revision); }
  uint64_t entries() const override { return entries_; }
  Task<Result<std::vector<Entry>>> next() override {
    std::vector<Entry> entries;
    // A piece of nothing but our own keys is not the end.
    while (more_ && entries.empty()) {
      CO_ASSIGN_OR_RETURN(more_, co_await Rep::page(rep_, &request_, &entries));
    }
    co_return entries;
  }

 private:
  std::shared_ptr<Rep> rep_;
  etcd::RangeRequest request_;
  const uint64_t entries_;
  bool more_ = true;
};

// The keys first, to know how many there are of the store's.
Task<Result<std::unique_ptr<Cursor>>> EtcdStore::read() {
  auto rep = rep_;
  auto all = rangeOf(rep->cluster->options().prefix, "", "");
  auto request = all;
  request.keysOnly = true;
  request.limit = kPage;
  uint64_t count = 0;
  for (bool more = true; more;) {
    std::vector<Entry> keys;
    CO_ASSIGN_OR_RETURN(more, co_await Rep::page(rep, &request, &keys));
    count += keys.size();
  }
  all.revision = request.revision;
  co_return std::unique_ptr<Cursor>(new RangeCursor(std::move(rep), std::move(all), count));
}

Task<Result<Revision>> EtcdStore::txn(Txn txn) {
  auto rep = rep_;
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  CO_RETURN_IF_ERROR(checkTxn(txn));
  bool mayRepeat = guarded(txn);
  for (auto& compare : txn.compares) {
    if (compare.modified != 0) compare.modified = rep->etcds(compare.modified);
  }
  std::string request = etcd::encodeTxn(txn, rep->cluster->options().prefix);
  rep->expect(txn);
  auto outcome = co_await EtcdCluster::call(rep->cluster, "/etcdserverpb.KV/Txn", std::move(request),
                                            mayRepeat ? EtcdCluster::Repeat::kAlways : EtcdCluster::Repeat::kUnsent);
  const auto& answer = outcome.answer;
  if (!answer.ok()) {
    rep->forget(txn);
    if (answer.failure == Failure::kLost) co_return unknownOutcome(*answer.error);
    if (answer.failure == Failure::kRefused && outcome.repeated) co_return unknownOutcome(*answer.error);
    co_return Error(answer.error->code(), answer.error->message());
  }
  auto done = etcd::readTxn(answer.message);
  if (!done.ok()) {
    rep->forget(txn);
    co_return unknownOutcome(done.error());
  }
  rep->heard(done->header.revision);
  if (done->succeeded) co_return rep->ours(done->header.revision);
  if (outcome.repeated) co_return co_await Rep::resolve(rep, std::move(txn));
  rep->forget(txn);
  co_return Error(Code::kConflict, fmt::format("{} has changed", txn.compares.front().key));
}

Task<Result<Revision>> EtcdStore::Rep::resolve(std::shared_ptr<Rep> rep, Txn txn) {
  const auto& first = txn.operations.front();
  etcd::RangeRequest request;
  request.key = rep->cluster->options().prefix + first.key;
  auto found = co_await range(rep, std::move(request));
  if (found.ok() && first.type == Operation::Type::kPut && !found->entries.empty() &&
      found->entries.front().value == *first.value.bytes) {
    bool unchanged = false;
    for (const auto& compare : txn.compares) {
      unchanged = unchanged || (compare.key == first.key && compare.modified == found->entries.front().modified);
    }
    if (!unchanged) co_return rep->ours(found->entries.front().modified);
  }
  rep->forget(txn);
  co_return unknownOutcome(found.ok() ? Error(Code::kUnknown, "the connection broke, and the object has changed since")
                                      : found.error());
}

Result<std::unique_ptr<Watcher>> EtcdStore::watch(std::string prefix, Revision after, bool previous) {
  if (rep_->closed) return Error(Code::kUnavailable, "the store is closed");
  return watchEtcd(rep_, std::move(prefix), after, previous);
}

Task<Result<>> EtcdStore::compact(Revision revision) {
  auto rep = rep_;
  if (rep->closed) co_return Error(Code::kUnavailable, "the store is closed");
  Revision at = std::min(rep->etcds(revision), rep->newest);
  if (at <= 0) co_return Result<>();
  auto outcome = co_await EtcdCluster::call(rep->cluster, "/etcdserverpb.KV/Compact", etcd::encodeCompact(at),
                                            EtcdCluster::Repeat::kAlways);
  // Already compacted: that is what was asked for.
  if (outcome.answer.ok() || outcome.answer.error->is(Code::kExpired)) co_return Result<>();
  co_return *outcome.answer.error;
}

Revision EtcdStore::revision() const {
  return rep_->ours(rep_->newest);
}

// Answers all who asked before it began, again and again until nobody waits.
Task<> EtcdStore::Rep::readCurrent(std::shared_ptr<Rep> rep) {
  while (rep->nextRead) {
    auto asked = std::exchange(rep->nextRead, nullptr);
    etcd::RangeRequest request;
    request.key = rep->cluster->options().prefix + std::string(kBaseKey);
    request.countOnly = true;
    auto read = co_await range(rep, std::move(request));
    if (read.ok())
      asked->result.emplace(rep->ours(read->header.revision));
    else
      asked->result.emplace(Error(Code::kUnavailable, read.error().message()));
    asked->done.notify();
  }
  rep->reading = false;
}

Task<Result<Revision>> EtcdStore::currentRevision() {
  auto rep = rep_;
  if (!rep->nextRead) rep->nextRead = std::make_shared<Rep::CurrentRead>(rep->loop());
  auto mine = rep->nextRead;
  if (!std::exchange(rep->reading, true)) spawn(rep->loop(), Rep::readCurrent(rep));
  while (!mine->result) co_await mine->done.wait();
  co_return *mine->result;
}

Task<Result<>> EtcdStore::advance(Revision atLeast) {
  auto rep = rep_;
  CO_ASSIGN_OR_RETURN(ListResult present, co_await list("", "", 1));
  if (!present.entries.empty()) co_return Error(Code::kFailedPrecondition, "the store is not empty");
  if (present.revision >= atLeast) co_return Result<>();
  Revision base = rep->base + (atLeast - present.revision);
  Txn txn;
  Operation put{Operation::Type::kPut, std::string(kBaseKey), {}};
  put.value.bytes = std::make_shared<const std::string>(std::to_string(base));
  txn.operations.push_back(std::move(put));
  CO_RETURN_IF_ERROR(co_await this->txn(std::move(txn)));
  rep->base = base;
  co_return Result<>();
}

Task<> EtcdStore::close() {
  auto rep = rep_;
  rep->closed = true;
  closeEtcdWatchers(*rep);
  rep->cluster->close();
  co_return;
}

}  // namespace dhow::store
