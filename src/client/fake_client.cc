#include "client/fake_client.h"

#include <boost/json/parse.hpp>

#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"
#include "object/kinds.h"
#include "object/patch.h"

namespace dhow::client {

void mergePatch(json::value& target, const json::value& patch) {
  if (!patch.is_object()) {
    target = patch;
    return;
  }
  if (!target.is_object()) target.emplace_object();
  json::object& into = target.get_object();
  for (const auto& [name, value] : patch.get_object()) {
    if (value.is_null()) {
      into.erase(name);
    } else {
      mergePatch(into[name], value);
    }
  }
}

struct FakeClient::Feed {
  explicit Feed(Loop& loop) : queue(loop) {}
  Resource resource;
  ListOptions options;
  Queue<WatchEvent> queue;
  bool broken = false;
  bool expired = false;
};

namespace {

std::string fieldOf(const Object& object, std::string_view path) {
  std::vector<std::string> steps = split(path, '.');
  const json::object* here = &object.root();
  for (size_t i = 0; i < steps.size(); ++i) {
    const json::value* value = here->if_contains(steps[i]);
    if (value == nullptr) return {};
    if (i + 1 == steps.size()) return value->is_string() ? std::string(value->get_string()) : std::string();
    here = value->if_object();
    if (here == nullptr) return {};
  }
  return {};
}

// Enough of both selectors for tests: comma-separated name=value and name!=value.
bool selected(const Object& object, const ListOptions& options) {
  if (!options.ns.empty() && object.ns() != options.ns) return false;
  auto holds = [](std::string_view term, auto valueOf) {
    const bool negative = term.find("!=") != std::string_view::npos;
    auto parts = splitOnce(term, negative ? '!' : '=');
    if (!parts) return true;
    std::string_view wanted = parts->second;
    while (wanted.starts_with("=")) wanted.remove_prefix(1);
    return (valueOf(parts->first) == wanted) != negative;
  };
  for (const std::string& term : split(options.fieldSelector, ',')) {
    if (!holds(term, [&](std::string_view path) { return fieldOf(object, path); })) return false;
  }
  for (const std::string& term : split(options.labelSelector, ',')) {
    if (!holds(term, [&](std::string_view name) { return std::string(object.label(name)); })) return false;
  }
  return true;
}

std::string describe(const Resource& resource, std::string_view name) {
  return fmt::format("{}{}{} \"{}\"", resource.plural, resource.group.empty() ? "" : ".", resource.group, name);
}

std::string kindOf(const Resource& resource) {
  static const std::map<std::string, std::string> kKinds = {{"namespaces", "Namespace"},
                                                            {"nodes", "Node"},
                                                            {"pods", "Pod"},
                                                            {"services", "Service"},
                                                            {"configmaps", "ConfigMap"},
                                                            {"secrets", "Secret"},
                                                            {"serviceaccounts", "ServiceAccount"},
                                                            {"events", "Event"},
                                                            {"endpoints", "Endpoints"},
                                                            {"endpointslices", "EndpointSlice"},
                                                            {"deployments", "Deployment"},
                                                            {"replicasets", "ReplicaSet"},
                                                            {"leases", "Lease"},
                                                            {"roles", "Role"}};
  auto found = kKinds.find(resource.plural);
  return found == kKinds.end() ? resource.plural : found->second;
}

}  // namespace

class FakeClient::FakeWatcher final : public Watcher {
 public:
  explicit FakeWatcher(std::shared_ptr<Feed> feed) : feed_(std::move(feed)) {}
  ~FakeWatcher() override { feed_->queue.close(); }
  Task<Result<WatchEvent>> next() override {
    std::shared_ptr<Feed> feed = feed_;
    std::optional<WatchEvent> event = co_await feed->queue.pop();
    if (event) co_return std::move(*event);
    if (feed->expired) co_return Error(Code::kExpired, "too old resource version");
    if (feed->broken) co_return Error(Code::kUnavailable, "the connection broke");
    co_return Error(Code::kCancelled, "the watch was closed");
  }
  void close() override { feed_->queue.close(); }

 private:
  std::shared_ptr<Feed> feed_;
};

std::string FakeClient::Action::str() const {
  std::string out = verb + " " + resource.plural;
  if (!subresource.empty()) out += "/" + subresource;
  if (!ns.empty() || !name.empty()) out += " ";
  if (!ns.empty()) out += ns;
  if (!ns.empty() && !name.empty()) out += "/";
  return out + name;
}

std::vector<std::string> FakeClient::actionNames() const {
  std::vector<std::string> out;
  for (const Action& action : actions_) out.push_back(action.str());
  return out;
}

std::optional<Error> FakeClient::record(Action action) {
  std::optional<Error> error;
  if (inject) error = inject(action);
  if (recordActions) actions_.push_back(std::move(action));
  return error;
}

ObjectPtr FakeClient::store(const Resource& resource, json::object document, WatchEvent::Type type) {
  metadataOf(document)["resourceVersion"] = std::to_string(++version_);
  ObjectPtr object = Object::make(std::move(document));
  objects_[resource][{std::string(object->ns()), std::string(object->name())}] = object;
  publish(resource, type, object);
  return object;
}

void FakeClient::publish(const Resource& resource, WatchEvent::Type type, ObjectPtr object) {
  WatchEvent event{type, std::move(object)};
  log_.push_back({version_, resource, event});
  for (auto& weak : feeds_) {
    auto feed = weak.lock();
    if (feed && feed->resource == resource && selected(*event.object, feed->options)) feed->queue.push(event);
  }
  if (held_) {
    heldEvents_.emplace_back(resource, event);
    return;
  }
  auto cache = caches_.find(resource);
  if (cache == caches_.end()) return;
  cache->second->raiseRevision(event.object->resourceVersion());
  if (type == WatchEvent::Type::kDeleted) {
    cache->second->remove(event.object->ns(), event.object->name());
  } else {
    cache->second->put(event.object);
  }
}

void FakeClient::releaseCaches() {
  held_ = false;
  for (auto& [resource, event] : std::exchange(heldEvents_, {})) {
    auto cache = caches_.find(resource);
    if (cache == caches_.end()) continue;
    cache->second->raiseRevision(event.object->resourceVersion());
    if (event.type == WatchEvent::Type::kDeleted) {
      cache->second->remove(event.object->ns(), event.object->name());
    } else {
      cache->second->put(event.object);
    }
  }
}

void FakeClient::erase(const Resource& resource, const ObjectPtr& object) {
  objects_[resource].erase({std::string(object->ns()), std::string(object->name())});
  json::object last = copyOf(object);
  metadataOf(last)["resourceVersion"] = std::to_string(++version_);
  publish(resource, WatchEvent::Type::kDeleted, Object::make(std::move(last)));
}

ObjectPtr FakeClient::seed(const Resource& resource, json::object document) {
  if (!document.contains("apiVersion")) document["apiVersion"] = resource.apiVersion();
  if (!document.contains("kind")) document["kind"] = kindOf(resource);
  json::object& metadata = metadataOf(document);
  if (!metadata.contains("uid")) metadata["uid"] = fmt::format("uid-{}", ++uids_);
  if (!metadata.contains("creationTimestamp")) metadata["creationTimestamp"] = formatTime(loop_.wallNow());
  if (!metadata.contains("generation")) metadata["generation"] = 1;
  if (resource.namespaced && !metadata.contains("namespace")) metadata["namespace"] = "default";
  return store(resource, std::move(document), WatchEvent::Type::kAdded);
}

ObjectPtr FakeClient::seed(const Resource& resource, std::string_view jsonText) {
  return seed(resource, json::parse(jsonText).as_object());
}

ObjectPtr FakeClient::find(const Resource& resource, std::string_view ns, std::string_view name) const {
  auto kind = objects_.find(resource);
  if (kind == objects_.end()) return nullptr;
  auto place = kind->second.find({std::string(ns), std::string(name)});
  return place == kind->second.end() ? nullptr : place->second;
}

std::vector<ObjectPtr> FakeClient::all(const Resource& resource, std::string_view ns) const {
  std::vector<ObjectPtr> out;
  auto kind = objects_.find(resource);
  if (kind == objects_.end()) return out;
  for (const auto& [key, object] : kind->second) {
    if (ns.empty() || key.first == ns) out.push_back(object);
  }
  return out;
}

ObjectPtr FakeClient::change(const Resource& resource, std::string_view ns, std::string_view name,
                             const std::function<void(json::object&)>& edit) {
  ObjectPtr before = find(resource, ns, name);
  CHECK(before != nullptr, "no {} {}/{}", resource.plural, ns, name);
  json::object after = copyOf(before);
  edit(after);
  Result<ObjectPtr> result = write(resource, before, std::move(after));
  return result.ok() ? *result : nullptr;
}

void FakeClient::drop(const Resource& resource, std::string_view ns, std::string_view name) {
  if (ObjectPtr object = find(resource, ns, name)) erase(resource, object);
}

Cache& FakeClient::of(const Resource& resource) {
  auto& cache = caches_[resource];
  if (!cache) {
    cache = std::make_unique<MemoryCache>(loop_);
    for (const ObjectPtr& object : all(resource)) cache->put(object);
    cache->setSynced();
  }
  return *cache;
}

void FakeClient::breakWatches() {
  for (auto& weak : std::exchange(feeds_, {})) {
    if (auto feed = weak.lock()) {
      feed->broken = true;
      feed->queue.close();
    }
  }
}

void FakeClient::expireWatches() {
  oldest_ = version_ + 1;
  ++version_;
  log_.clear();
  for (auto& weak : feeds_) {
    if (auto feed = weak.lock()) feed->expired = true;
  }
  breakWatches();
}

size_t FakeClient::openWatches() const {
  size_t count = 0;
  for (const auto& weak : feeds_) {
    auto feed = weak.lock();
    if (feed && !feed->queue.closed()) ++count;
  }
  return count;
}

Task<Result<ObjectPtr>> FakeClient::get(const Resource& resource, std::string ns, std::string name) {
  ObjectPtr object = find(resource, ns, name);
  if (!object) co_return Error(Code::kNotFound, describe(resource, name) + " not found");
  co_return object;
}

Task<Result<List>> FakeClient::list(const Resource& resource, ListOptions options) {
  if (injectRead) {
    if (auto error = injectRead("list", resource)) co_return std::move(*error);
  }
  List out;
  for (const ObjectPtr& object : all(resource)) {
    if (selected(*object, options)) out.items.push_back(object);
  }
  out.resourceVersion = std::to_string(version_);
  co_return out;
}

Task<Result<std::unique_ptr<Watcher>>> FakeClient::watch(const Resource& resource, ListOptions options,
                                                         std::string resourceVersion) {
  if (injectRead) {
    if (auto error = injectRead("watch", resource)) co_return std::move(*error);
  }
  const uint64_t from = parseUint(resourceVersion).value_or(0);
  if (from < oldest_) co_return Error(Code::kExpired, fmt::format("too old resource version: {}", from));
  auto feed = std::make_shared<Feed>(loop_);
  feed->resource = resource;
  feed->options = std::move(options);
  for (const LogEntry& entry : log_) {
    if (entry.version > from && entry.resource == resource && selected(*entry.event.object, feed->options)) {
      feed->queue.push(entry.event);
    }
  }
  std::erase_if(feeds_, [](const auto& weak) { return weak.expired(); });
  feeds_.push_back(feed);
  co_return std::make_unique<FakeWatcher>(std::move(feed));
}

Task<Result<ObjectPtr>> FakeClient::create(const Resource& resource, std::string ns, json::object body,
                                           std::string name, std::string subresource) {
  Action action{"create", resource, ns, name, subresource, body, {}};
  if (auto error = record(std::move(action))) co_return std::move(*error);
  if (subresource == "binding") {
    ObjectPtr pod = find(resource, ns, name);
    if (!pod) co_return Error(Code::kNotFound, describe(resource, name) + " not found");
    if (pod->deleting() || !text(pod->root(), {"spec", "nodeName"}).empty()) {
      co_return Error(Code::kConflict, fmt::format("pod {} is already assigned to node \"{}\"", name,
                                                   text(pod->root(), {"spec", "nodeName"})));
    }
    json::object bound = copyOf(pod);
    objectAt(bound, "spec")["nodeName"] = text(body, {"target", "name"});
    objectAt(bound, "status")["conditions"] = json::array{json::object{{"type", "PodScheduled"}, {"status", "True"}}};
    co_return store(resource, std::move(bound), WatchEvent::Type::kModified);
  }
  if (!subresource.empty()) co_return Error(Code::kUnimplemented, "the fake has no " + subresource);
  json::object& metadata = metadataOf(body);
  if (text(metadata, "name").empty()) {
    metadata["name"] = fmt::format("{}{:05x}", text(metadata, "generateName"), ++names_);
  }
  if (resource.namespaced) metadata["namespace"] = ns;
  const std::string own(text(metadata, "name"));
  if (find(resource, ns, own)) co_return Error(Code::kAlreadyExists, describe(resource, own) + " already exists");
  metadata.erase("resourceVersion");
  metadata["uid"] = fmt::format("uid-{}", ++uids_);
  metadata["creationTimestamp"] = formatTime(loop_.wallNow());
  metadata["generation"] = 1;
  if (resource == object::resources::kNamespaces) {
    objectAt(body, "spec")["finalizers"] = json::array{"kubernetes"};
    objectAt(body, "status")["phase"] = "Active";
  }
  if (resource == object::resources::kPods) {
    json::object& status = objectAt(body, "status");
    if (!status.contains("phase")) status["phase"] = "Pending";
  }
  co_return seed(resource, std::move(body));
}

Result<ObjectPtr> FakeClient::write(const Resource& resource, const ObjectPtr& before, json::object after) {
  json::object& metadata = metadataOf(after);
  for (std::string_view own : {"uid", "name", "namespace", "creationTimestamp", "deletionTimestamp"}) {
    if (const json::value* value = before->metadata().if_contains(own)) {
      metadata[own] = *value;
    } else {
      metadata.erase(own);
    }
  }
  const json::value* oldSpec = before->root().if_contains("spec");
  const json::value* newSpec = after.if_contains("spec");
  const bool sameSpec = (oldSpec == nullptr) == (newSpec == nullptr) && (oldSpec == nullptr || *oldSpec == *newSpec);
  metadata["generation"] = number(before->root(), {"metadata", "generation"}, 1) + (sameSpec ? 0 : 1);
  metadata["resourceVersion"] = text(before->metadata(), "resourceVersion");
  if (after == before->root()) return before;  // nothing changed: no new version
  const bool held = !array(metadata, {"finalizers"}).empty() || !array(after, {"spec", "finalizers"}).empty();
  if (before->deleting() && !held && resource != object::resources::kPods) {
    ObjectPtr last = Object::make(std::move(after));
    erase(resource, last);
    return last;
  }
  return store(resource, std::move(after), WatchEvent::Type::kModified);
}

Result<ObjectPtr> FakeClient::apply(const Resource& resource, const ObjectPtr& before, std::string_view subresource,
                                    json::object after) {
  const std::string_view version = text(after, {"metadata", "resourceVersion"});
  const std::string_view uid = text(after, {"metadata", "uid"});
  if ((!version.empty() && version != text(before->metadata(), "resourceVersion")) ||
      (!uid.empty() && uid != before->uid())) {
    return Error(Code::kConflict, fmt::format("Operation cannot be fulfilled on {}: the object has been modified",
                                              describe(resource, before->name())));
  }
  if (subresource.empty()) {
    if (const json::value* status = before->root().if_contains("status")) after["status"] = *status;
    return write(resource, before, std::move(after));
  }
  json::object merged = copyOf(before);
  if (subresource == "status") {
    merged["status"] = after["status"];
    if (after.contains("metadata")) {
      for (std::string_view own : {"labels", "annotations", "finalizers"}) {
        if (const json::value* value = metadataOf(after).if_contains(own)) metadataOf(merged)[own] = *value;
      }
    }
  } else if (subresource == "finalize") {
    objectAt(merged, "spec")["finalizers"] = array(after, {"spec", "finalizers"});
  } else {
    return Error(Code::kUnimplemented, fmt::format("the fake has no {}", subresource));
  }
  return write(resource, before, std::move(merged));
}

Task<Result<ObjectPtr>> FakeClient::update(const Resource& resource, std::string ns, std::string name,
                                           std::string subresource, json::object body) {
  Action action{"update", resource, ns, name, subresource, body, {}};
  if (auto error = record(std::move(action))) co_return std::move(*error);
  ObjectPtr before = find(resource, ns, name);
  if (!before) co_return Error(Code::kNotFound, describe(resource, name) + " not found");
  co_return apply(resource, before, subresource, std::move(body));
}

Task<Result<ObjectPtr>> FakeClient::patch(const Resource& resource, std::string ns, std::string name,
                                          std::string subresource, PatchType type, json::value body) {
  Action action{"patch", resource, ns, name, subresource, body, {}};
  if (auto error = record(std::move(action))) co_return std::move(*error);
  ObjectPtr before = find(resource, ns, name);
  if (!before) co_return Error(Code::kNotFound, describe(resource, name) + " not found");
  if (type != PatchType::kMerge && type != PatchType::kStrategicMerge) {
    co_return Error(Code::kUnimplemented, "the fake only merges");
  }
  json::value after = before->root();
  const object::KindInfo* kind = object::Kinds::builtin().find(resource);
  if (type == PatchType::kStrategicMerge && kind != nullptr && body.is_object()) {
    CO_ASSIGN_OR_RETURN(after, object::applyStrategicPatch(*kind->type, before->root(), body.get_object()));
  } else {
    mergePatch(after, body);
  }
  co_return apply(resource, before, subresource, std::move(after.get_object()));
}

Task<Result<>> FakeClient::remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) {
  Action action{"delete", resource, ns, name, "", nullptr, options};
  if (auto error = record(std::move(action))) co_return std::move(*error);
  ObjectPtr object = find(resource, ns, name);
  if (!object) co_return Error(Code::kNotFound, describe(resource, name) + " not found");
  if ((!options.uid.empty() && options.uid != object->uid()) ||
      (!options.resourceVersion.empty() && options.resourceVersion != text(object->metadata(), "resourceVersion"))) {
    co_return Error(Code::kConflict, "the precondition does not hold");
  }
  json::object after = copyOf(object);
  json::object& metadata = metadataOf(after);
  if (options.propagationPolicy == "Foreground" && !object->deleting()) {
    arrayAt(metadata, "finalizers").push_back("foregroundDeletion");
  }
  if (options.propagationPolicy == "Orphan" && !object->deleting()) {
    arrayAt(metadata, "finalizers").push_back("orphan");
  }
  const bool finalizers = !array(metadata, {"finalizers"}).empty() || !array(after, {"spec", "finalizers"}).empty();
  bool graceful = false;
  int64_t grace = 0;
  if (resource == object::resources::kPods) {
    grace = options.gracePeriodSeconds.value_or(number(after, {"spec", "terminationGracePeriodSeconds"}, 30));
    const std::string_view phase = text(after, {"status", "phase"});
    const bool finished = phase == "Succeeded" || phase == "Failed";
    graceful = grace > 0 && !text(after, {"spec", "nodeName"}).empty() && !finished;
    metadata["deletionGracePeriodSeconds"] = graceful ? grace : 0;
  }
  if (!finalizers && !graceful) {
    erase(resource, object);
    co_return Result<>();
  }
  if (object->deleting() && (graceful || resource != object::resources::kPods)) co_return Result<>();
  if (!object->deleting())
    metadata["deletionTimestamp"] = formatTime(loop_.wallNow() + std::chrono::seconds(graceful ? grace : 0));
  if (resource == object::resources::kNamespaces) objectAt(after, "status")["phase"] = "Terminating";
  store(resource, std::move(after), WatchEvent::Type::kModified);
  co_return Result<>();
}

}  // namespace dhow::client
