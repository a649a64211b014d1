// What a request leaves in the audit log.
#include <boost/json/serialize.hpp>

#include "apiserver/audit.h"
#include "base/strings.h"
#include "base/time.h"
#include "front.h"

namespace dhow::apiserver {

namespace {

// Larger objects are left out of their events.
constexpr size_t kMaxObject = 512 << 10;

json::array toArray(const std::vector<std::string>& texts) {
  return json::array(texts.begin(), texts.end());
}

json::object userOf(const Caller& caller) {
  json::object user;
  if (!caller.user.empty()) user["username"] = caller.user;
  if (!caller.uid.empty()) user["uid"] = caller.uid;
  if (!caller.groups.empty()) user["groups"] = toArray(caller.groups);
  if (!caller.extra.empty()) {
    auto& extra = user["extra"].emplace_object();
    for (const auto& [key, values] : caller.extra) extra[key] = toArray(values);
  }
  return user;
}

std::string uriOf(const http::Request& request) {
  std::string query = request.query.str();
  return query.empty() ? request.path : fmt::format("{}?{}", request.path, query);
}

}  // namespace

bool Front::audits(const Call& call) const {
  if (!audit_) return false;
  const auto& path = call.request.path;
  return path != "/healthz" && path != "/livez" && path != "/readyz";
}

// What Secrets, ConfigMaps and tokens hold is in no event.
bool Front::auditsObjects(const Call& call) const {
  if (!audit_ || !call.kind || !call.kind->stored || isStreamed(call.info.subresource)) return false;
  const auto& verb = call.info.verb;
  if (verb != "create" && verb != "update" && verb != "patch" && verb != "delete" && verb != "deletecollection")
    return false;
  const auto& plural = call.info.plural;
  return !(call.info.group.empty() && (plural == "secrets" || plural == "configmaps")) &&
         call.info.subresource != "token";
}

void Front::writeAudit(const Call& call, std::string_view stage) {
  const auto& info = call.info;
  const bool whole = auditsObjects(call);
  json::object event{{"kind", "Event"},
                     {"apiVersion", "audit.k8s.io/v1"},
                     {"level", whole ? "RequestResponse" : "Metadata"},
                     {"auditID", call.auditId},
                     {"stage", stage},
                     {"requestURI", uriOf(call.request)},
                     {"verb", info.verb.empty() ? toLower(call.request.method) : info.verb},
                     {"user", userOf(call.impersonator ? *call.impersonator : call.caller)}};
  if (call.impersonator) event["impersonatedUser"] = userOf(call.caller);
  const auto& peer = call.request.peer.address;
  if (!peer.empty()) event["sourceIPs"] = json::array{peer.substr(0, peer.rfind(':'))};
  if (auto agent = call.request.headers.get("User-Agent"); !agent.empty()) event["userAgent"] = agent.substr(0, 1024);
  if (info.isResource) {
    json::object object;
    auto add = [&](std::string_view name, std::string_view value) {
      if (!value.empty()) object[name] = value;
    };
    add("resource", info.plural);
    add("namespace", info.ns);
    add("name", call.subject.name);
    add("apiGroup", info.group);
    add("apiVersion", info.version);
    add("subresource", info.subresource);
    event["objectRef"] = std::move(object);
  }
  if (stage != "RequestReceived") {
    json::object status{{"metadata", json::object()}, {"code", call.status}};
    if (call.failure) {
      status = statusOf(*call.failure, call.subject);
      status.erase("kind");
      status.erase("apiVersion");
      status["code"] = call.status;
    }
    event["responseStatus"] = std::move(status);
  }
  json::object annotations;
  if (!call.decision.empty()) annotations["authorization.k8s.io/decision"] = call.decision;
  for (const auto& [key, value] : call.annotations) annotations[key] = value;
  std::string requested = whole && call.requestObject ? json::serialize(*call.requestObject) : "";
  const std::string* answered = whole && call.responseObject ? &call.responseObject->bytes() : nullptr;
  if (requested.size() > kMaxObject || (answered && answered->size() > kMaxObject)) {
    requested.clear();
    answered = nullptr;
    annotations["audit.k8s.io/truncated"] = "true";
  }
  event["requestReceivedTimestamp"] = formatTimeMicro(call.received);
  event["stageTimestamp"] = formatTimeMicro(loop_.wallNow());
  if (!annotations.empty()) event["annotations"] = std::move(annotations);
  std::string line = json::serialize(event);
  line.pop_back();
  if (!requested.empty()) line.append(",\"requestObject\":").append(requested);
  if (answered) line.append(",\"responseObject\":").append(*answered);
  line.push_back('}');
  audit_->add(std::move(line));
}

}  // namespace dhow::apiserver
