// Several contents of one cluster in one etcd, of which one is in use: its generation. Restoring a snapshot fills
// another beside it and then makes that the one in use, in a single transaction; masters follow it (server_role.cc).
// The one before stays until the next change, since a master that has not heard of the change yet must not see its
// objects vanish.
#pragma once

#include "store/etcd_store.h"

namespace dhow::store {

class Generations {
 public:
  // `options.prefix` is what all contents have in common.
  static Task<Result<std::unique_ptr<Generations>>> open(Loop& loop, EtcdOptions options);

  // What the content of a generation has before its keys; the first is "".
  static std::string prefixOf(const std::string& root, const std::string& generation);

  struct Use {
    std::string current, before;
    bool changed = false;  // there is one before
    Revision revision = 0;
  };
  Task<Result<Use>> read();
  // kConflict when somebody else was first.
  Task<Result<>> change(Use from, std::string to);
  // Returns once another than `used` is in use; kCancelled after close().
  Task<Result<>> awaitChange(Use used);

  Result<> replaceEndpoints(std::vector<std::string> endpoints) {
    return keys_->replaceEndpoints(std::move(endpoints));
  }
  Task<> close() { return keys_->close(); }

 private:
  explicit Generations(std::unique_ptr<EtcdStore> keys) : keys_(std::move(keys)) {}
  // Its keys begin with '!' below the root, where no content's do.
  std::unique_ptr<EtcdStore> keys_;
};

}  // namespace dhow::store
