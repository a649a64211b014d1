#include "store/generation.h"

namespace dhow::store {

namespace {

constexpr const char *kCurrent = "generation", *kBefore = "generation-before";

Operation put(const char* key, std::string value) {
  return {Operation::Type::kPut, key, {std::make_shared<const std::string>(std::move(value)), nullptr}};
}

}  // namespace

Task<Result<std::unique_ptr<Generations>>> Generations::open(Loop& loop, EtcdOptions options) {
  options.prefix += "!";
  CO_ASSIGN_OR_RETURN(auto keys, co_await EtcdStore::open(loop, std::move(options)));
  co_return std::unique_ptr<Generations>(new Generations(std::move(keys)));
}

std::string Generations::prefixOf(const std::string& root, const std::string& generation) {
  return generation.empty() ? root : root + "!" + generation + "!";
}

Task<Result<Generations::Use>> Generations::read() {
  Use use;
  CO_ASSIGN_OR_RETURN(auto current, co_await keys_->get(kCurrent));
  CO_ASSIGN_OR_RETURN(auto before, co_await keys_->get(kBefore));
  use.changed = before.has_value();
  if (before) use.before = *before->value.bytes;
  if (!current) co_return use;
  use.current = *current->value.bytes;
  use.revision = current->modified;
  co_return use;
}

Task<Result<>> Generations::change(Use from, std::string to) {
  Txn txn;
  txn.compares.push_back({kCurrent, from.revision});
  txn.operations = {put(kCurrent, std::move(to)), put(kBefore, from.current)};
  auto done = co_await keys_->txn(std::move(txn));
  CO_RETURN_IF_ERROR(done);
  co_return Result<>();
}

Task<Result<>> Generations::awaitChange(Use used) {
  while (true) {
    CO_ASSIGN_OR_RETURN(const Revision from, co_await keys_->currentRevision());
    CO_ASSIGN_OR_RETURN(auto now, co_await read());
    if (now.current != used.current) co_return Result<>();
    CO_ASSIGN_OR_RETURN(auto watcher, keys_->watch(kCurrent, from));
    while (true) {
      auto batch = co_await watcher->next();
      if (!batch.ok() && batch.error().is(Code::kExpired)) break;  // what was compacted is read
      CO_RETURN_IF_ERROR(batch);
      bool changed = false;
      for (const auto& event : batch->events)
        changed |=
            event.entry.key == kCurrent && event.type == Event::Type::kPut && *event.entry.value.bytes != used.current;
      if (changed) co_return Result<>();
    }
  }
}

}  // namespace dhow::store
