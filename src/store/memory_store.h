// A Store that forgets: for simulations and tests. Deterministic under SimLoop, with faults on request.
#pragma once

#include <functional>

#include "base/loop.h"
#include "store/store.h"

namespace dhow::store {

class MemoryStore final : public Store {
 public:
  enum class Fault {
    kNone,
    kRefused,     // nothing is written, the caller is told kUnavailable
    kLostAnswer,  // it is written, but the caller is told kDeadlineExceeded
  };
  struct Options {
    Duration commitDelay{0};  // of the loop's time, between a transaction and its being durable
    size_t keepRevisions = 10'000;
    std::function<Fault(const Txn&)> fault;  // asked for each transaction
  };
  explicit MemoryStore(Loop& loop) : MemoryStore(loop, Options()) {}
  MemoryStore(Loop& loop, Options options);
  ~MemoryStore() override;

  // Every later write fails until repair(), as after a failed disk.
  void breakDown();
  void repair();

  Task<Result<std::optional<Entry>>> get(std::string key) override;
  Task<Result<ListResult>> list(std::string prefix, std::string from, size_t limit) override;
  Task<Result<std::unique_ptr<Cursor>>> read() override;
  Task<Result<Revision>> txn(Txn txn) override;
  Result<std::unique_ptr<Watcher>> watch(std::string prefix, Revision after, bool previous = false) override;
  Task<Result<>> compact(Revision revision) override;
  Revision revision() const override;
  Task<Result<Revision>> currentRevision() override;
  Task<Result<>> advance(Revision atLeast) override;
  Task<> close() override;

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

}  // namespace dhow::store
