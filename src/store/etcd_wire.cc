#include "etcd_wire.h"

#include "proto.h"

namespace dhow::store::etcd {

namespace {

Error malformed(std::string_view what) {
  return Error(Code::kDataLoss, fmt::format("etcd sent a malformed {}", what));
}

// mvccpb.KeyValue
bool readKeyValue(std::string_view bytes, KeyValue& out) {
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: out.key = in.string(); break;
      case 2: out.created = in.signedNumber(); break;
      case 3: out.modified = in.signedNumber(); break;
      case 5: out.value = in.string(); break;
    }
  }
  return !in.bad();
}

// mvccpb.Event
bool readEvent(std::string_view bytes, WatchEvent& out) {
  ProtoReader in(bytes);
  bool good = true;
  while (in.next()) {
    switch (in.field()) {
      case 1: out.removed = in.number() == 1; break;
      case 2: good = good && readKeyValue(in.bytes(), out.entry); break;
      case 3:
        out.hasPrevious = true;
        good = good && readKeyValue(in.bytes(), out.previous);
        break;
    }
  }
  return good && !in.bad();
}

bool readMember(std::string_view bytes, EtcdAdmin::Member& out) {
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: out.id = in.number(); break;
      case 2: out.name = in.string(); break;
      case 3: out.peerUrls.push_back(in.string()); break;
      case 4: out.clientUrls.push_back(in.string()); break;
      case 5: out.learner = in.number() != 0; break;
    }
  }
  return !in.bad();
}

}  // namespace

Header readHeader(std::string_view bytes) {
  Header out;
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: out.clusterId = in.number(); break;
      case 2: out.memberId = in.number(); break;
      case 3: out.revision = in.signedNumber(); break;
      case 4: out.term = in.number(); break;
    }
  }
  return out;
}

Header headerOf(std::string_view answer) {
  ProtoReader in(answer);
  return in.next() && in.field() == 1 ? readHeader(in.bytes()) : Header();
}

std::string endOf(std::string_view prefix) {
  std::string end(prefix);
  while (!end.empty()) {
    if (static_cast<uint8_t>(end.back()) < 0xff) {
      end.back() = static_cast<char>(end.back() + 1);
      return end;
    }
    end.pop_back();
  }
  return std::string(1, '\0');
}

std::string encode(const RangeRequest& request) {
  return ProtoWriter()
      .bytes(1, request.key)
      .bytes(2, request.end)
      .number(3, static_cast<uint64_t>(request.limit))
      .number(4, static_cast<uint64_t>(request.revision))
      .number(8, request.keysOnly)
      .number(9, request.countOnly)
      .take();
}

Result<RangeResponse> readRange(std::string_view bytes) {
  RangeResponse out;
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: out.header = readHeader(in.bytes()); break;
      case 2:
        if (!readKeyValue(in.bytes(), out.entries.emplace_back())) return malformed("key");
        break;
      case 3: out.more = in.number() != 0; break;
      case 4: out.count = in.signedNumber(); break;
    }
  }
  if (in.bad()) return malformed("list");
  return out;
}

std::string encodeTxn(const Txn& txn, std::string_view prefix) {
  ProtoWriter out;
  std::string key;
  auto full = [&](const std::string& name) -> const std::string& { return key.assign(prefix).append(name); };
  for (const auto& compare : txn.compares) {
    // Compare: result EQUAL is 0, target MOD is 2, the revision is field 6 of a oneof, so that 0 must be written.
    ProtoWriter one;
    one.number(2, 2).bytes(3, full(compare.key));
    std::string text = one.take();
    if (compare.modified == 0)
      text.append("\x30\x00", 2);
    else
      text += ProtoWriter().number(6, static_cast<uint64_t>(compare.modified)).text();
    out.message(1, text);
  }
  for (const auto& operation : txn.operations) {
    if (operation.type == Operation::Type::kPut) {
      ProtoWriter put;
      put.bytes(1, full(operation.key)).bytes(2, *operation.value.bytes);
      out.message(2, ProtoWriter().message(2, put.text()).text());
    } else {
      ProtoWriter removal;
      removal.bytes(1, full(operation.key));
      out.message(2, ProtoWriter().message(3, removal.text()).text());
    }
  }
  return out.take();
}

Result<TxnResponse> readTxn(std::string_view bytes) {
  TxnResponse out;
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: out.header = readHeader(in.bytes()); break;
      case 2: out.succeeded = in.number() != 0; break;
      case 3: {
        // ResponseOp: a put (2), or a deletion (3) with the number of keys that are gone.
        ProtoReader response(in.bytes());
        while (response.next()) {
          if (response.field() == 2) out.changed = true;
          if (response.field() != 3) continue;
          ProtoReader removal(response.bytes());
          while (removal.next()) out.changed = out.changed || (removal.field() == 2 && removal.number() > 0);
        }
        if (response.bad()) return malformed("answer to a transaction");
        break;
      }
    }
  }
  if (in.bad()) return malformed("answer to a transaction");
  return out;
}

std::string encode(const WatchCreate& request) {
  ProtoWriter create;
  create.bytes(1, request.key)
      .bytes(2, request.end)
      .number(3, static_cast<uint64_t>(request.start))
      .number(4, 1)  // tells the revision now and then, in order with the events
      .number(6, request.previous)
      .number(8, 1);  // large batches come in parts
  return ProtoWriter().message(1, create.text()).take();
}

std::string encodeProgressRequest() {
  return ProtoWriter().message(3, "").take();
}

Result<WatchResponse> readWatch(std::string_view bytes) {
  WatchResponse out;
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: out.header = readHeader(in.bytes()); break;
      case 2: out.watchId = in.signedNumber(); break;
      case 3: out.created = in.number() != 0; break;
      case 4: out.cancelled = in.number() != 0; break;
      case 5: out.compacted = in.signedNumber(); break;
      case 6: out.reason = in.string(); break;
      case 7: out.fragment = in.number() != 0; break;
      case 11:
        if (!readEvent(in.bytes(), out.events.emplace_back())) return malformed("event");
        break;
    }
  }
  if (in.bad()) return malformed("answer to a watch");
  return out;
}

std::string encodeCompact(Revision revision) {
  return ProtoWriter().number(1, static_cast<uint64_t>(revision)).take();
}

Result<std::vector<EtcdAdmin::Member>> readMembers(std::string_view bytes, uint32_t field) {
  std::vector<EtcdAdmin::Member> out;
  ProtoReader in(bytes);
  while (in.next()) {
    if (in.field() == field && !readMember(in.bytes(), out.emplace_back())) return malformed("member");
  }
  if (in.bad()) return malformed("list of members");
  return out;
}

Result<EtcdAdmin::Status> readStatus(std::string_view bytes) {
  EtcdAdmin::Status out;
  ProtoReader in(bytes);
  while (in.next()) {
    switch (in.field()) {
      case 1: {
        Header header = readHeader(in.bytes());
        out.clusterId = header.clusterId;
        out.memberId = header.memberId;
        out.revision = header.revision;
        break;
      }
      case 2: out.version = in.string(); break;
      case 3: out.fileBytes = in.signedNumber(); break;
      case 4: out.leaderId = in.number(); break;
      case 5: out.raftIndex = in.number(); break;
      case 6: out.raftTerm = in.number(); break;
      case 7: out.appliedIndex = in.number(); break;
      case 8: out.errors.push_back(in.string()); break;
      case 9: out.usedBytes = in.signedNumber(); break;
      case 10: out.learner = in.number() != 0; break;
    }
  }
  if (in.bad()) return malformed("status");
  return out;
}

Result<std::vector<EtcdAdmin::Alarm>> readAlarms(std::string_view bytes) {
  std::vector<EtcdAdmin::Alarm> out;
  ProtoReader in(bytes);
  while (in.next()) {
    if (in.field() != 2) continue;
    ProtoReader one(in.bytes());
    EtcdAdmin::Alarm alarm;
    uint64_t kind = 0;
    while (one.next()) {
      if (one.field() == 1) alarm.memberId = one.number();
      if (one.field() == 2) kind = one.number();
    }
    if (one.bad()) return malformed("alarm");
    if (kind == 0) continue;
    alarm.kind = kind == 2 ? EtcdAdmin::Alarm::Kind::kCorrupt : EtcdAdmin::Alarm::Kind::kNoSpace;
    out.push_back(alarm);
  }
  if (in.bad()) return malformed("list of alarms");
  return out;
}

Result<SnapshotPart> readSnapshotPart(std::string_view bytes) {
  SnapshotPart out;
  ProtoReader in(bytes);
  while (in.next()) {
    if (in.field() == 2) out.remaining = in.number();
    if (in.field() == 3) out.blob = in.string();
  }
  if (in.bad()) return malformed("part of a snapshot");
  return out;
}

}  // namespace dhow::store::etcd
