// What a controller wrote and does not see in its cache yet. While anything is missing there the cache is known to be
// stale, and the controller must not decide by it how many to create, to scale or to delete. A write whose answer was
// lost counts as done until the API itself has been asked. Lives in memory: a controller that starts anew lists first.
#pragma once

#include <map>
#include <string>

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

class OwnWrites {
 public:
  OwnWrites(Context context, client::Resource resource, client::Cache& cache)
      : context_(context), resource_(std::move(resource)), cache_(cache) {}

  // `owner` is the UID of the object on whose behalf was written. Created or changed: the cache must get as far.
  void wrote(const std::string& owner, const ObjectPtr& object);
  // Deleted: it must be gone from the cache, or be marked there as on its way out.
  void deleted(const std::string& owner, const ObjectPtr& object);
  // The write failed. When the error leaves open whether it happened, it is looked up before seen() says yes.
  void failed(const std::string& owner, std::string_view ns, std::string_view name, const Error& error);
  void forget(const std::string& owner) { pending_.erase(owner); }

  // Whether the cache shows all. Asks the API about writes in doubt, and about those that stay unseen for long, as an
  // object may be gone again before a cache hears of it.
  Task<Result<bool>> seen(std::string owner);

 private:
  struct Write {
    std::string uid;
    int64_t version = 0;
    bool deletion = false;
    bool doubt = false;
    TimePoint since{};
  };
  using Writes = std::map<std::pair<std::string, std::string>, Write>;  // by namespace and name

  bool shows(const std::pair<std::string, std::string>& key, const Write& write) const;

  Context context_;
  const client::Resource resource_;
  client::Cache& cache_;
  std::map<std::string, Writes> pending_;
};

}  // namespace dhow::controllers
