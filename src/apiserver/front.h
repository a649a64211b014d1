// The HTTP face of the API server: who asks, may they, what for, and the answer in the form that they accept.
#pragma once

#include <map>

#include "apiserver/audit.h"
#include "apiserver/drain_barrier.h"
#include "apiserver/registry.h"
#include "apiserver/tokens.h"
#include "authorizer.h"
#include "errors.h"
#include "http/server.h"
#include "node_consumers.h"
#include "object/table.h"
#include "request_info.h"
#include "reviews.h"
#include "session_counts.h"
#include "streaming.h"
#include "tunnels.h"

namespace dhow::apiserver {

inline constexpr size_t kMaxBody = 3 << 20;
inline constexpr std::string_view kApiVersion = "v1.35.0";

class Front {
 public:
  Front(Loop& loop, Registry& registry, Authorizer& authorizer, Tokens& tokens, store::Store& store,
        std::string clusterId, std::string serverAddress);

  Task<> serve(http::Request& request, http::ResponseWriter& writer);
  Tunnels& tunnels() { return tunnels_; }
  DrainBarrier& barrier() { return barrier_; }
  // Null: no log. It outlives the requests.
  void setAudit(Audit* audit) { audit_ = audit; }
  // Hashes snapshots.
  void setPool(BlockingPool* pool) { pool_ = pool; }
  // The caches are filled.
  void start();
  // Whether start-up is over: /readyz says so.
  void setReady(bool ready) { ready_ = ready; }
  Task<> stop();

 private:
  struct Call {
    http::Request& request;
    http::ResponseWriter& writer;
    RequestInfo info;
    Accepted accepted;
    Caller caller;
    Subject subject;
    std::vector<std::string> warnings;
    const KindInfo* kind = nullptr;
    int status = 0;  // of the answer
    // For the audit log alone.
    WallTime received{};
    std::string auditId;
    std::optional<Caller> impersonator;
    std::string decision;  // of authorization: "allow", "forbid"
    std::map<std::string, std::string> annotations;
    std::optional<Error> failure;
    std::optional<json::value> requestObject;
    ObjectPtr responseObject;
  };

  // audit_event.cc
  bool audits(const Call& call) const;
  bool auditsObjects(const Call& call) const;
  void writeAudit(const Call& call, std::string_view stage);

  Result<Caller> authenticate(const http::Request& request);
  Result<Caller> impersonate(Caller caller, const http::Request& request) const;
  Result<> authorize(const Call& call) const;

  Task<Result<>> dispatch(Call& call);
  Task<Result<>> servePath(Call& call);
  Task<Result<>> serveResource(Call& call);
  Task<Result<>> serveGet(Call& call);
  Task<Result<>> serveList(Call& call);
  Task<Result<>> serveWatch(Call& call);
  Task<Result<>> serveCreate(Call& call);
  Task<Result<>> serveUpdate(Call& call);
  Task<Result<>> servePatch(Call& call);
  Task<Result<>> serveDelete(Call& call);
  Task<Result<>> serveReview(Call& call);
  // What an agent asks for itself: its tunnel, the drain barrier, what users hold of a pod.
  Task<Result<>> serveAgent(Call& call);
  Task<Result<>> serveTunnel(Call& call, std::string node);
  Task<Result<>> serveDrain(Call& call, std::string node);
  Task<Result<>> serveHeld(Call& call, std::string node);
  Task<Result<>> serveSnapshot(Call& call);
  // Who waits for one Deployment (`kubectl rollout status`) is told what its rollout waits for.
  void warnOfHeldSessions(Call& call) const;

  Result<Context> contextOf(Call& call) const;
  Task<Result<std::string>> readBody(Call& call);
  Task<Result<DeleteQuery>> readDeleteOptions(Call& call);
  Task<Result<>> sendObject(Call& call, int status, ObjectPtr object);
  Task<Result<>> sendJson(Call& call, int status, std::string body, std::string_view contentType = "application/json");
  Task<> sendError(Call& call, const Error& error);
  std::string renderOne(const Call& call, const ObjectPtr& object) const;
  struct Document {
    std::string body;
    std::string tag;  // its ETag
  };
  std::shared_ptr<const Document> document(const std::string& key, const std::function<std::string()>& make);
  Task<Result<>> sendDocument(Call& call, std::shared_ptr<const Document> document,
                              std::string_view contentType = "application/json");

  Loop& loop_;
  Audit* audit_ = nullptr;
  Registry& registry_;
  Authorizer& authorizer_;
  Tokens& tokens_;
  store::Store& store_;
  std::string clusterId_;
  BlockingPool* pool_ = nullptr;
  Reviews reviews_;
  Tunnels tunnels_;
  NodeConsumers nodes_;
  DrainBarrier barrier_;
  SessionCounts sessions_;
  Streaming streaming_;
  std::string serverAddress_;
  bool ready_ = false;
  // Discovery and OpenAPI documents, kept while somebody asks for them.
  std::map<std::string, std::shared_ptr<const Document>> documents_;
  Timer forgetDocuments_;
  std::map<std::pair<std::string, int>, uint64_t> counts_;  // verb and status -> requests
  size_t watches_ = 0;
  uint64_t watchSequence_ = 0;
  std::map<uint64_t, std::weak_ptr<KindWatch>> openWatches_;
  bool stopping_ = false;
};

// Whether a subresource is served by the node: logs, exec, ...
bool isStreamed(std::string_view subresource);
// "application/json" and gzip where it pays.
bool wantsGzip(const http::Request& request, size_t size);
std::string gzip(std::string_view bytes);

}  // namespace dhow::apiserver
