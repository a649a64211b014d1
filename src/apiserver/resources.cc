// The verbs of the API on resources, but for watch.
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "base/yaml.h"
#include "client/fields.h"
#include "front.h"
#include "object/apply.h"
#include "object/decode.h"
#include "pod_address.h"

namespace dhow::apiserver {

using client::text;

namespace {

Error unknownPath() {
  return Error(Code::kNotFound, "the server could not find the requested resource");
}
Error wrongMethod() {
  return Error(Code::kMethodNotAllowed, "the server does not allow this method on the requested resource");
}

std::string mediaType(const http::Request& request) {
  auto type = request.headers.get("Content-Type");
  return toLower(trim(type.substr(0, type.find(';'))));
}

}  // namespace

bool isStreamed(std::string_view subresource) {
  return subresource == "log" || subresource == "exec" || subresource == "attach" || subresource == "portforward" ||
         subresource == "proxy";
}

Result<Context> Front::contextOf(Call& call) const {
  const auto& query = call.request.query;
  Context context;
  context.caller = call.caller;
  auto dryRun = query.get("dryRun");
  if (!dryRun.empty() && dryRun != "All") {
    return invalid("PatchOptions", "meta.k8s.io", "",
                   {{"FieldValueNotSupported",
                     fmt::format("Unsupported value: \"{}\": supported values: \"All\"", dryRun), "dryRun"}});
  }
  context.dryRun = dryRun == "All";
  ASSIGN_OR_RETURN(context.fieldValidation, object::parseFieldValidation(query.get("fieldValidation")));
  context.fieldManager = query.get("fieldManager");
  if (context.fieldManager.size() > 128) {
    return invalid("PatchOptions", "meta.k8s.io", "",
                   {{"FieldValueTooLong", "Too long: may not be more than 128 bytes", "fieldManager"}});
  }
  bool apply = mediaType(call.request) == "application/apply-patch+yaml" && call.request.method == "PATCH";
  if (context.fieldManager.empty() && !apply) {
    context.fieldManager = object::managerFromUserAgent(call.request.headers.get("User-Agent"));
    if (context.fieldManager.empty()) context.fieldManager = "unknown";
  }
  context.force = truthy(query.get("force"));
  context.warnings = &call.warnings;
  if (audit_) context.annotations = &call.annotations;
  return context;
}

Task<Result<std::string>> Front::readBody(Call& call) {
  if (!call.request.body) co_return std::string();
  auto body = co_await http::readAll(*call.request.body, kMaxBody);
  if (!body.ok() && body.error().is(Code::kTooLarge)) {
    co_return Error(Code::kTooLarge, fmt::format("Request entity too large: limit is {}", kMaxBody));
  }
  co_return body;
}

Task<Result<>> Front::serveResource(Call& call) {
  const auto& info = call.info;
  const KindInfo& kind = *call.kind;
  if (!kind.stored) {
    if (!info.name.empty() || info.verb != "create") co_return wrongMethod();
    co_return co_await serveReview(call);
  }
  if (!info.subresource.empty()) {
    bool nodeProxy = kind.plural == "nodes" && info.subresource == "proxy";
    if (!kind.subresource(info.subresource) && !nodeProxy) {
      call.subject = {};  // it is the subresource that is missing, not the object
      co_return unknownPath();
    }
    if (isStreamed(info.subresource)) co_return co_await streaming_.serve(call.request, call.writer, info);
  }
  // Objects of a namespace are written inside it.
  bool collection = info.name.empty();
  if (kind.namespaced && info.ns.empty() && (info.verb == "create" || !collection)) co_return wrongMethod();
  if (collection && !info.subresource.empty()) co_return unknownPath();
  if (collection && (info.verb == "update" || info.verb == "patch")) co_return wrongMethod();
  bool plain = info.subresource.empty();
  if (plain && !kind.has(info.verb)) co_return wrongMethod();
  const auto* sub = plain ? nullptr : kind.subresource(info.subresource);
  if (sub && !sub->has(info.verb)) co_return wrongMethod();
  auto accepted = negotiate(call.request.headers.get("Accept"));
  CO_RETURN_IF_ERROR(accepted);
  call.accepted = *accepted;
  if (call.accepted.view == View::kPodAddress && kind.kind != "Pod")
    co_return Error(Code::kNotAcceptable, "only pods are shown as PodAddress");
  if (info.verb == "get") co_return co_await serveGet(call);
  if (info.verb == "list") co_return co_await serveList(call);
  if (info.verb == "watch") co_return co_await serveWatch(call);
  if (info.verb == "create" && (collection || !plain)) co_return co_await serveCreate(call);
  if (info.verb == "update") co_return co_await serveUpdate(call);
  if (info.verb == "patch") co_return co_await servePatch(call);
  if (info.verb == "delete" || info.verb == "deletecollection") co_return co_await serveDelete(call);
  co_return wrongMethod();
}

std::string renderItem(View view, const object::Object& object) {
  if (view == View::kMetadata) return object::renderMetadata(object);
  if (view == View::kPodAddress) return renderPodAddress(object);
  return object.bytes();
}

std::string Front::renderOne(const Call& call, const ObjectPtr& object) const {
  if (call.accepted.view == View::kTable && object->kind() == call.kind->kind) {
    object::TableOptions options;
    auto include = call.request.query.get("includeObject");
    options.include = include == "Object" ? object::IncludeObject::kObject
                      : include == "None" ? object::IncludeObject::kNone
                                          : object::IncludeObject::kMetadata;
    options.now = loop_.wallNow();
    options.resourceVersion = std::to_string(object->resourceVersion());
    if (object->kind() == "Pod")
      options.podSessions = [this](const object::Object& pod) { return sessions_.cell(pod); };
    return object::renderTable(*call.kind, std::span(&object, 1), options);
  }
  if (object->kind() != "Status") return renderItem(call.accepted.view, *object);
  return object->bytes();
}

Task<Result<>> Front::sendObject(Call& call, int status, ObjectPtr object) {
  if (auditsObjects(call)) call.responseObject = object;
  std::string body = renderOne(call, object);
  body.push_back('\n');
  co_return co_await sendJson(call, status, std::move(body));
}

Task<Result<>> Front::serveGet(Call& call) {
  std::string sub = call.info.subresource == "status" || call.info.subresource == "scale" ? call.info.subresource : "";
  auto object = co_await registry_.get(*call.kind, call.kind->namespaced ? call.info.ns : "", call.info.name, sub,
                                       &call.warnings, std::string(call.request.query.get("resourceVersion")));
  CO_RETURN_IF_ERROR(object);
  co_return co_await sendObject(call, 200, *object);
}

void Front::warnOfHeldSessions(Call& call) const {
  constexpr std::string_view name = "metadata.name=";
  const std::string selected(call.request.query.get("fieldSelector"));
  if (call.kind->kind != "Deployment" || !selected.starts_with(name) || selected.find(',') != selected.npos) return;
  ObjectPtr deployment = registry_.caches().of(call.kind->resource()).get(call.info.ns, selected.substr(name.size()));
  const auto* held = deployment ? client::condition(deployment->root(), client::kSessionsHeldCondition) : nullptr;
  if (held != nullptr && text(*held, "status") == "True")
    call.warnings.push_back(fmt::format("deployment \"{}\": {}", deployment->name(), text(*held, "message")));
}

Task<Result<>> Front::serveList(Call& call) {
  const auto& query = call.request.query;
  ListQuery wanted;
  wanted.ns = call.info.plural == "namespaces" ? "" : call.info.ns;
  wanted.labelSelector = query.get("labelSelector");
  wanted.fieldSelector = query.get("fieldSelector");
  wanted.continueToken = query.get("continue");
  wanted.resourceVersion = query.get("resourceVersion");
  wanted.resourceVersionMatch = query.get("resourceVersionMatch");
  wanted.warnings = &call.warnings;
  warnOfHeldSessions(call);
  if (auto limit = query.get("limit"); !limit.empty()) {
    auto number = parseInt(limit);
    if (!number || *number < 0)
      co_return Error(Code::kBadRequest, fmt::format("the limit \"{}\" is not a number", limit));
    wanted.limit = *number;
  }
  CO_ASSIGN_OR_RETURN(ListOutcome list, co_await registry_.list(*call.kind, std::move(wanted)));
  std::string body;
  if (call.accepted.view == View::kTable) {
    object::TableOptions options;
    auto include = query.get("includeObject");
    options.include = include == "Object" ? object::IncludeObject::kObject
                      : include == "None" ? object::IncludeObject::kNone
                                          : object::IncludeObject::kMetadata;
    options.now = loop_.wallNow();
    options.resourceVersion = std::to_string(list.revision);
    options.continueToken = list.continueToken;
    options.remaining = list.remaining;
    if (call.kind->kind == "Pod") options.podSessions = sessions_.column();
    body = object::renderTable(*call.kind, list.items, options);
  } else {
    json::object metadata{{"resourceVersion", std::to_string(list.revision)}};
    if (!list.continueToken.empty()) metadata["continue"] = list.continueToken;
    if (list.remaining) metadata["remainingItemCount"] = *list.remaining;
    bool partial = call.accepted.view == View::kMetadata;
    std::string kind = partial ? "PartialObjectMetadataList" : call.kind->kind + "List";
    std::string version = partial ? "meta.k8s.io/v1" : call.kind->apiVersion();
    size_t size = 256;
    if (call.accepted.view == View::kObject) {
      for (const auto& item : list.items) size += item->bytes().size() + 1;
    }
    body.reserve(size);
    body = fmt::format("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[", kind, version,
                       json::serialize(metadata));
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i) body.push_back(',');
      body += renderItem(call.accepted.view, *list.items[i]);
    }
    body += "]}";
  }
  body.push_back('\n');
  co_return co_await sendJson(call, 200, std::move(body));
}

Task<Result<>> Front::serveCreate(Call& call) {
  CO_ASSIGN_OR_RETURN(Context context, contextOf(call));
  CO_ASSIGN_OR_RETURN(std::string bytes, co_await readBody(call));
  object::DecodeOptions options;
  options.validation = context.fieldValidation;
  options.expected = call.kind;
  const auto* sub = call.info.subresource.empty() ? nullptr : call.kind->subresource(call.info.subresource);
  if (sub && !sub->kind.empty()) {
    std::string version = sub->version.empty() ? call.kind->apiVersion()
                          : sub->group.empty() ? sub->version
                                               : sub->group + "/" + sub->version;
    options.expected = registry_.kinds().findKind(version, sub->kind);
  }
  auto decoded = object::decodeBody(registry_.kinds(), bytes, call.request.headers.get("Content-Type"), options);
  CO_RETURN_IF_ERROR(decoded);
  call.warnings.insert(call.warnings.end(), decoded->warnings.begin(), decoded->warnings.end());
  if (auditsObjects(call)) call.requestObject = decoded->document;
  if (sub) {
    auto answer = co_await registry_.createSubresource(std::move(context), *call.kind, call.info.ns, call.info.name,
                                                       call.info.subresource, std::move(decoded->document));
    CO_RETURN_IF_ERROR(answer);
    co_return co_await sendObject(call, 201, *answer);
  }
  // The body has been checked once; its warnings are told once.
  context.fieldValidation = object::FieldValidation::kIgnore;
  if (call.subject.name.empty()) call.subject.name = text(decoded->document, {"metadata", "name"});
  std::string ns = call.kind->namespaced ? call.info.ns : "";
  auto outcome = co_await registry_.create(std::move(context), *call.kind, std::move(ns), std::move(decoded->document));
  CO_RETURN_IF_ERROR(outcome);
  co_return co_await sendObject(call, 201, outcome->object);
}

Task<Result<>> Front::serveUpdate(Call& call) {
  CO_ASSIGN_OR_RETURN(Context context, contextOf(call));
  CO_ASSIGN_OR_RETURN(std::string bytes, co_await readBody(call));
  object::DecodeOptions options;
  options.validation = context.fieldValidation;
  options.expected =
      call.info.subresource == "scale" ? registry_.kinds().findKind("autoscaling/v1", "Scale") : call.kind;
  auto decoded = object::decodeBody(registry_.kinds(), bytes, call.request.headers.get("Content-Type"), options);
  CO_RETURN_IF_ERROR(decoded);
  call.warnings.insert(call.warnings.end(), decoded->warnings.begin(), decoded->warnings.end());
  if (auditsObjects(call)) call.requestObject = decoded->document;
  context.fieldValidation = object::FieldValidation::kIgnore;
  std::string ns = call.kind->namespaced ? call.info.ns : "";
  auto outcome = co_await registry_.update(std::move(context), *call.kind, std::move(ns), call.info.name,
                                           call.info.subresource, std::move(decoded->document));
  CO_RETURN_IF_ERROR(outcome);
  co_return co_await sendObject(call, 200, outcome->object);
}

Task<Result<>> Front::servePatch(Call& call) {
  CO_ASSIGN_OR_RETURN(Context context, contextOf(call));
  std::string type = mediaType(call.request);
  PatchType how = PatchType::kMerge;
  if (type == "application/json-patch+json")
    how = PatchType::kJson;
  else if (type == "application/merge-patch+json")
    how = PatchType::kMerge;
  else if (type == "application/strategic-merge-patch+json")
    how = PatchType::kStrategicMerge;
  else if (type == "application/apply-patch+yaml")
    how = PatchType::kApply;
  else {
    co_return Error(
        Code::kUnsupportedMediaType,
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, "
        "application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml");
  }
  if (context.force && how != PatchType::kApply) {
    co_return invalid("PatchOptions", "meta.k8s.io", "",
                      {{"FieldValueForbidden", "Forbidden: may not be specified for non-apply patch", "force"}});
  }
  CO_ASSIGN_OR_RETURN(std::string bytes, co_await readBody(call));
  std::vector<std::string> duplicates;
  auto body = how == PatchType::kApply ? parseYaml(bytes, &duplicates) : object::parseJson(bytes, &duplicates);
  CO_RETURN_IF_ERROR(body);
  for (const auto& path : duplicates) {
    if (context.fieldValidation == object::FieldValidation::kStrict) {
      co_return Error(Code::kBadRequest, fmt::format("strict decoding error: duplicate field \"{}\"", path));
    }
    if (context.fieldValidation == object::FieldValidation::kWarn)
      call.warnings.push_back(fmt::format("duplicate field \"{}\"", path));
  }
  if (auditsObjects(call)) call.requestObject = *body;
  std::string ns = call.kind->namespaced ? call.info.ns : "";
  auto outcome = co_await registry_.patch(std::move(context), *call.kind, std::move(ns), call.info.name,
                                          call.info.subresource, how, std::move(*body));
  CO_RETURN_IF_ERROR(outcome);
  co_return co_await sendObject(call, outcome->created ? 201 : 200, outcome->object);
}

Task<Result<DeleteQuery>> Front::readDeleteOptions(Call& call) {
  CO_ASSIGN_OR_RETURN(std::string bytes, co_await readBody(call));
  json::object options;
  if (!trim(bytes).empty()) {
    const auto* expected = registry_.kinds().findKind("v1", "DeleteOptions");
    if (!expected) expected = registry_.kinds().findKind("meta.k8s.io/v1", "DeleteOptions");
    if (bytes.starts_with(std::string_view("k8s\0", 4))) {
      CO_ASSIGN_OR_RETURN(options, object::decodeProtobuf(registry_.kinds(), bytes, expected));
    } else {
      auto value = mediaType(call.request) == "application/yaml" ? parseYaml(bytes) : object::parseJson(bytes);
      CO_RETURN_IF_ERROR(value);
      if (!value->is_object()) co_return Error(Code::kBadRequest, "the body of a delete must be DeleteOptions");
      options = std::move(value->get_object());
    }
  }
  if (auditsObjects(call) && !options.empty()) call.requestObject = options;
  const auto& query = call.request.query;
  DeleteQuery wanted;
  wanted.gracePeriodSeconds = client::number(options, {"gracePeriodSeconds"});
  if (auto grace = query.get("gracePeriodSeconds"); !grace.empty()) {
    wanted.gracePeriodSeconds = parseInt(grace);
    if (!wanted.gracePeriodSeconds)
      co_return Error(Code::kBadRequest, fmt::format("gracePeriodSeconds \"{}\" is not a number", grace));
  }
  wanted.propagationPolicy = text(options, "propagationPolicy");
  if (auto policy = query.get("propagationPolicy"); !policy.empty()) wanted.propagationPolicy = policy;
  if (client::flag(options, {"orphanDependents"})) wanted.propagationPolicy = "Orphan";
  wanted.uid = text(options, {"preconditions", "uid"});
  wanted.resourceVersion = text(options, {"preconditions", "resourceVersion"});
  for (const auto& one : client::array(options, {"dryRun"})) {
    if (one == "All") call.request.query.add("dryRun", "All");
  }
  co_return wanted;
}

Task<Result<>> Front::serveDelete(Call& call) {
  CO_ASSIGN_OR_RETURN(DeleteQuery wanted, co_await readDeleteOptions(call));
  CO_ASSIGN_OR_RETURN(Context context, contextOf(call));
  std::string ns = call.kind->namespaced ? call.info.ns : "";
  if (call.info.verb == "delete") {
    auto outcome =
        co_await registry_.remove(std::move(context), *call.kind, std::move(ns), call.info.name, std::move(wanted));
    CO_RETURN_IF_ERROR(outcome);
    bool pod = call.kind->group.empty() && call.kind->plural == "pods";
    if (outcome->gone && !pod)
      co_return co_await sendJson(call, 200, json::serialize(successStatus(call.subject, outcome->object->uid())));
    co_return co_await sendObject(call, 200, outcome->object);
  }
  ListQuery selection;
  selection.ns = std::move(ns);
  selection.labelSelector = call.request.query.get("labelSelector");
  selection.fieldSelector = call.request.query.get("fieldSelector");
  auto removed =
      co_await registry_.removeCollection(std::move(context), *call.kind, std::move(selection), std::move(wanted));
  CO_RETURN_IF_ERROR(removed);
  std::string body =
      fmt::format("{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{}\"}},\"items\":[",
                  call.kind->kind, call.kind->apiVersion(), removed->revision);
  for (size_t i = 0; i < removed->items.size(); ++i) {
    if (i) body.push_back(',');
    body += removed->items[i]->bytes();
  }
  body += "]}\n";
  co_return co_await sendJson(call, 200, std::move(body));
}

Task<Result<>> Front::serveReview(Call& call) {
  CO_ASSIGN_OR_RETURN(std::string bytes, co_await readBody(call));
  object::DecodeOptions options;
  options.expected = call.kind;
  auto decoded = object::decodeBody(registry_.kinds(), bytes, call.request.headers.get("Content-Type"), options);
  CO_RETURN_IF_ERROR(decoded);
  Context context;
  context.caller = call.caller;
  context.warnings = &call.warnings;
  auto answer = co_await registry_.create(std::move(context), *call.kind, call.info.ns, std::move(decoded->document));
  CO_RETURN_IF_ERROR(answer);
  co_return co_await sendObject(call, 201, answer->object);
}

}  // namespace dhow::apiserver
