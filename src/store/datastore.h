// Which store a master uses, as it is configured, and the way to open it.
#pragma once

#include "store/etcd_store.h"

namespace dhow::store {

struct DatastoreConfig {
  enum class Kind { kSqlite, kEtcd };
  Kind kind = Kind::kSqlite;
  std::string sqlitePath;
  EtcdOptions etcd;
};

// "etcd=https://a:2379,https://b:2379", with the files of the authority and of our identity (all three, or none for
// http://). "sqlite=/path" and "" stand for the embedded store. kInvalid tells what is wrong with the text.
Result<DatastoreConfig> parseDatastore(const std::string& text, const std::string& sqlitePath,
                                       const std::string& caFile = "", const std::string& certificateFile = "",
                                       const std::string& keyFile = "");

Task<Result<std::unique_ptr<Store>>> openStore(Loop& loop, DatastoreConfig config);

}  // namespace dhow::store
