// Watches over HTTP: a line of JSON for each event, the object's bytes spliced in as they are.
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "front.h"

namespace dhow::apiserver {

namespace {

constexpr Duration kBookmarkEvery = std::chrono::seconds(60);
constexpr size_t kFlushBytes = 256 << 10;

std::string_view typeName(client::WatchEvent::Type type) {
  switch (type) {
    case client::WatchEvent::Type::kAdded: return "ADDED";
    case client::WatchEvent::Type::kModified: return "MODIFIED";
    case client::WatchEvent::Type::kDeleted: return "DELETED";
    case client::WatchEvent::Type::kBookmark: return "BOOKMARK";
  }
  return "BOOKMARK";
}

// Writes the events of one watch in the form that the client asked for.
class EventWriter {
 public:
  EventWriter(const KindInfo& kind, View view, object::TableOptions table, Loop& loop)
      : kind_(kind), view_(view), table_(std::move(table)), loop_(loop) {}

  void add(const client::WatchEvent& event, std::string& out) { line(typeName(event.type), event.object, out); }
  void bookmark(Revision revision, bool initialEnd, std::string& out) {
    json::object metadata{{"resourceVersion", std::to_string(revision)}, {"creationTimestamp", nullptr}};
    if (initialEnd) metadata["annotations"] = json::object{{"k8s.io/initial-events-end", "true"}};
    line("BOOKMARK",
         object::Object::make(
             {{"kind", kind_.kind}, {"apiVersion", kind_.apiVersion()}, {"metadata", std::move(metadata)}}),
         out);
  }
  void error(const Error& error, const Subject& subject, std::string& out) {
    out += fmt::format("{{\"type\":\"ERROR\",\"object\":{}}}\n", json::serialize(statusOf(error, subject)));
  }

 private:
  void line(std::string_view type, const ObjectPtr& object, std::string& out) {
    out.append("{\"type\":\"").append(type).append("\",\"object\":");
    if (view_ == View::kTable) {
      table_.now = loop_.wallNow();
      table_.resourceVersion = std::to_string(object->resourceVersion());
      out += object::renderTable(kind_, std::span(&object, 1), table_);
      table_.header = false;
    } else if (view_ == View::kPodAddress && type == "BOOKMARK") {
      out += object->bytes();
    } else {
      out += renderItem(view_, *object);
    }
    out += "}\n";
  }

  const KindInfo& kind_;
  View view_;
  object::TableOptions table_;
  Loop& loop_;
};

}  // namespace

Task<Result<>> Front::serveWatch(Call& call) {
  const auto& query = call.request.query;
  WatchQuery wanted;
  wanted.ns = call.info.plural == "namespaces" ? "" : call.info.ns;
  wanted.labelSelector = query.get("labelSelector");
  wanted.fieldSelector = query.get("fieldSelector");
  if (!call.info.name.empty()) {
    if (!wanted.fieldSelector.empty()) wanted.fieldSelector += ",";
    wanted.fieldSelector += "metadata.name=" + call.info.name;
  }
  wanted.resourceVersion = query.get("resourceVersion");
  bool bookmarks = truthy(query.get("allowWatchBookmarks"));
  wanted.sendInitialEvents = truthy(query.get("sendInitialEvents"));
  if (query.has("sendInitialEvents") && query.get("resourceVersionMatch") != "NotOlderThan") {
    co_return invalid(
        "ListOptions", "meta.k8s.io", "",
        {{"FieldValueForbidden", "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
          "resourceVersionMatch"}});
  }
  if (!query.has("sendInitialEvents") && query.has("resourceVersionMatch")) {
    co_return invalid("ListOptions", "meta.k8s.io", "",
                      {{"FieldValueForbidden",
                        "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                        "resourceVersionMatch"}});
  }
  // Without a wish: between half an hour and an hour, so that not all come back at once.
  Duration length = std::chrono::seconds(1800 + loop_.random() % 1800);
  if (auto seconds = query.get("timeoutSeconds"); !seconds.empty()) {
    auto number = parseInt(seconds);
    if (!number || *number < 0)
      co_return Error(Code::kBadRequest, fmt::format("timeoutSeconds \"{}\" is not a number", seconds));
    if (*number > 0) length = std::chrono::seconds(std::min<int64_t>(*number, 86400));
  }
  object::TableOptions table;
  auto include = query.get("includeObject");
  table.include = include == "Object" ? object::IncludeObject::kObject
                  : include == "None" ? object::IncludeObject::kNone
                                      : object::IncludeObject::kMetadata;
  if (call.kind->kind == "Pod") table.podSessions = [this](const object::Object& pod) { return sessions_.cell(pod); };
  EventWriter events(*call.kind, call.accepted.view, std::move(table), loop_);
  bool announceEnd = wanted.sendInitialEvents && bookmarks;
  auto opened = co_await registry_.watch(*call.kind, std::move(wanted));
  // An expired version is told inside the stream, where clients look for it.
  if (!opened.ok() && !opened.error().is(Code::kExpired)) co_return std::move(opened).error();
  http::Headers headers;
  headers.set("Content-Type",
              call.accepted.view == View::kTable ? "application/json;as=Table;v=v1;g=meta.k8s.io" : "application/json");
  headers.set("Cache-Control", "no-cache, private");
  CO_RETURN_IF_ERROR(co_await call.writer.start(200, std::move(headers)));
  call.status = 200;
  ++counts_[{"watch", 200}];
  std::string out;
  if (!opened.ok()) {
    events.error(opened.error(), call.subject, out);
    CO_RETURN_IF_ERROR(co_await call.writer.write(out));
    co_return co_await call.writer.finish();
  }
  std::shared_ptr<KindWatch> watch = std::move(*opened);
  call.writer.onClose([weak = std::weak_ptr(watch)] {
    if (auto open = weak.lock()) open->close();
  });
  uint64_t id = ++watchSequence_;
  openWatches_[id] = watch;
  ++watches_;
  TimePoint end = loop_.now() + length;
  TimePoint nextBookmark = loop_.now() + kBookmarkEvery;
  Result<> result;
  while (loop_.now() < end && !call.writer.closed()) {
    Duration limit = end - loop_.now();
    if (bookmarks)
      limit = std::min(limit, std::max<Duration>(nextBookmark - loop_.now(), std::chrono::milliseconds(1)));
    auto batch = co_await watch->next(limit);
    out.clear();
    if (!batch.ok()) {
      if (batch.error().is(Code::kExpired)) {
        events.error(batch.error(), call.subject, out);
        result = co_await call.writer.write(out);
      }
      break;
    }
    bool failed = false;
    for (size_t i = 0; i < batch->events.size() && !failed; ++i) {
      events.add(batch->events[i], out);
      if (out.size() < kFlushBytes) continue;
      result = co_await call.writer.write(out);
      failed = !result.ok();
      out.clear();
    }
    if (batch->initialEnd && announceEnd) events.bookmark(batch->revision, true, out);
    if (bookmarks && loop_.now() >= nextBookmark) {
      events.bookmark(batch->revision, false, out);
      nextBookmark = loop_.now() + kBookmarkEvery;
    }
    if (!out.empty() && !failed) {
      result = co_await call.writer.write(out);
      failed = !result.ok();
    }
    if (failed) break;
  }
  --watches_;
  openWatches_.erase(id);
  if (call.writer.closed()) co_return Result<>();
  co_return co_await call.writer.finish();
}

}  // namespace dhow::apiserver
