// etcd's messages (API v3: packages etcdserverpb and mvccpb) that we send and read. Private to this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "store/etcd_admin.h"
#include "store/store.h"

namespace dhow::store::etcd {

struct Header {
  uint64_t clusterId = 0;
  uint64_t memberId = 0;
  Revision revision = 0;
  uint64_t term = 0;
};
Header readHeader(std::string_view bytes);
// Of any answer: each begins with it.
Header headerOf(std::string_view answer);

// The first key after all that start with `prefix`; "\0" stands for the end of all keys.
std::string endOf(std::string_view prefix);

struct RangeRequest {
  std::string key;
  std::string end;  // empty: that key alone
  int64_t limit = 0;
  Revision revision = 0;  // 0: the newest
  bool countOnly = false;
  bool keysOnly = false;
};
struct KeyValue {
  std::string key;
  std::string value;
  Revision created = 0;
  Revision modified = 0;
};
struct RangeResponse {
  Header header;
  std::vector<KeyValue> entries;
  bool more = false;
  int64_t count = 0;
};
std::string encode(const RangeRequest& request);
Result<RangeResponse> readRange(std::string_view bytes);

// Keys already carry their prefix.
std::string encodeTxn(const Txn& txn, std::string_view prefix);
struct TxnResponse {
  Header header;
  bool succeeded = false;
  bool changed = false;  // some operation had an effect
};
Result<TxnResponse> readTxn(std::string_view bytes);

struct WatchCreate {
  std::string key;
  std::string end;
  Revision start = 0;  // the first revision wanted
  bool previous = false;
};
std::string encode(const WatchCreate& request);
std::string encodeProgressRequest();
struct WatchEvent {
  bool removed = false;
  KeyValue entry;
  bool hasPrevious = false;
  KeyValue previous;
};
struct WatchResponse {
  Header header;
  int64_t watchId = 0;
  bool created = false;
  bool cancelled = false;
  Revision compacted = 0;
  std::string reason;
  bool fragment = false;  // the rest of this batch follows
  std::vector<WatchEvent> events;
};
Result<WatchResponse> readWatch(std::string_view bytes);

std::string encodeCompact(Revision revision);
Result<std::vector<EtcdAdmin::Member>> readMembers(std::string_view bytes, uint32_t field = 2);
Result<EtcdAdmin::Status> readStatus(std::string_view bytes);
Result<std::vector<EtcdAdmin::Alarm>> readAlarms(std::string_view bytes);
struct SnapshotPart {
  uint64_t remaining = 0;
  std::string blob;
};
Result<SnapshotPart> readSnapshotPart(std::string_view bytes);

}  // namespace dhow::store::etcd
