#include "store/datastore.h"

#include "base/files.h"
#include "base/strings.h"
#include "grpc.h"
#include "store/sqlite_store.h"

namespace dhow::store {

namespace {
constexpr size_t kMaxPem = 1 << 20;

Error malformed(const std::string& text, std::string_view why) {
  return Error(Code::kInvalid, fmt::format("datastore \"{}\": {}", text, why));
}
}  // namespace

Result<DatastoreConfig> parseDatastore(const std::string& text, const std::string& sqlitePath,
                                       const std::string& caFile, const std::string& certificateFile,
                                       const std::string& keyFile) {
  DatastoreConfig out;
  out.sqlitePath = sqlitePath;
  if (text.empty()) return out;
  auto parts = splitOnce(text, '=');
  if (!parts) return malformed(text, "write etcd=https://host:2379[,...] or sqlite=/path");
  auto [kind, rest] = *parts;
  if (kind == "sqlite") {
    if (rest.empty()) return malformed(text, "the path is missing");
    out.sqlitePath = rest;
    return out;
  }
  if (kind != "etcd") return malformed(text, fmt::format("\"{}\" is not a kind of store: etcd and sqlite are", kind));
  out.kind = DatastoreConfig::Kind::kEtcd;
  bool secure = false;
  for (const auto& one : split(rest, ',')) {
    std::string url(trim(one));
    if (url.empty()) return malformed(text, "an endpoint is empty");
    ASSIGN_OR_RETURN(auto endpoint, GrpcChannel::parse(url));
    secure = secure || endpoint.tls;
    out.etcd.endpoints.push_back(std::move(url));
  }
  if (certificateFile.empty() != keyFile.empty()) {
    return malformed(text, "the client certificate and its key must be given together");
  }
  if (!secure && !certificateFile.empty()) return malformed(text, "a client certificate needs https:// endpoints");
  auto read = [&](const std::string& path, std::string& into) -> Result<> {
    if (path.empty()) return {};
    ASSIGN_OR_RETURN(into, readFile(path, kMaxPem));
    return {};
  };
  RETURN_IF_ERROR(read(caFile, out.etcd.caPem));
  RETURN_IF_ERROR(read(certificateFile, out.etcd.certificatePem));
  RETURN_IF_ERROR(read(keyFile, out.etcd.privateKeyPem));
  return out;
}

Task<Result<std::unique_ptr<Store>>> openStore(Loop& loop, DatastoreConfig config) {
  if (config.kind == DatastoreConfig::Kind::kEtcd) {
    auto opened = co_await EtcdStore::open(loop, std::move(config.etcd));
    if (!opened.ok()) co_return std::move(opened).error();
    co_return std::unique_ptr<Store>(std::move(*opened));
  }
  SqliteStore::Options options;
  options.path = std::move(config.sqlitePath);
  CO_ASSIGN_OR_RETURN(auto opened, SqliteStore::open(loop, std::move(options)));
  co_return std::unique_ptr<Store>(std::move(opened));
}

}  // namespace dhow::store
