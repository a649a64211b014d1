#include "object/apply.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "field_set.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr size_t kMaxUpdateManagers = 10;
constexpr std::string_view kAncient = "ancient-changes";

std::string text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

struct Entry {
  std::string manager, operation, apiVersion, subresource, time;
  FieldSet fields;
  // As stored, as long as nothing had to be changed: most writes touch the fields of few managers.
  std::optional<json::object> raw = std::nullopt;

  FieldSet& set() {
    if (raw) {
      fields = FieldSet::decode(*raw);
      raw.reset();
    }
    return fields;
  }
  bool empty() const { return raw ? raw->empty() : fields.empty(); }

  bool is(const Entry& other) const {
    return manager == other.manager && operation == other.operation && apiVersion == other.apiVersion &&
           subresource == other.subresource;
  }
  std::string shown() const {
    std::string out = "\"" + manager + "\"";
    if (!subresource.empty()) out += " with subresource \"" + subresource + "\"";
    if (operation == "Update") out += " using " + apiVersion;
    return out;
  }
};
using Entries = std::vector<Entry>;

const json::array* managedFields(const json::object& document) {
  const json::value* metadata = document.if_contains("metadata");
  const json::value* fields =
      metadata && metadata->is_object() ? metadata->get_object().if_contains("managedFields") : nullptr;
  return fields ? fields->if_array() : nullptr;
}

Entries readEntries(const json::array* list) {
  Entries out;
  if (!list) return out;
  for (const json::value& value : *list) {
    const json::object* object = value.if_object();
    if (!object || object->empty()) continue;
    Entry entry{text(*object, "manager"),     text(*object, "operation"), text(*object, "apiVersion"),
                text(*object, "subresource"), text(*object, "time"),      {}};
    if (const json::value* fields = object->if_contains("fieldsV1"); fields && fields->is_object())
      entry.raw = fields->get_object();
    out.push_back(std::move(entry));
  }
  return out;
}

void writeEntries(json::object& document, Entries entries) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.operation, a.time, a.manager, a.apiVersion, a.subresource) <
           std::tie(b.operation, b.time, b.manager, b.apiVersion, b.subresource);
  });
  json::value& metadata = document["metadata"];
  if (!metadata.is_object()) metadata = json::object();
  if (entries.empty()) {
    metadata.get_object().erase("managedFields");
    return;
  }
  json::array list;
  for (Entry& entry : entries) {
    json::object out{{"manager", entry.manager}, {"operation", entry.operation}, {"apiVersion", entry.apiVersion}};
    if (!entry.time.empty()) out["time"] = entry.time;
    out["fieldsType"] = "FieldsV1";
    out["fieldsV1"] = entry.raw ? std::move(*entry.raw) : entry.fields.encode();
    if (!entry.subresource.empty()) out["subresource"] = entry.subresource;
    list.push_back(std::move(out));
  }
  metadata.get_object()["managedFields"] = std::move(list);
}

// Fields that nobody owns: the server's own, and what the (sub)resource does not write.
void removeUnowned(FieldSet& set, std::string_view subresource) {
  set.children.erase("f:apiVersion");
  set.children.erase("f:kind");
  auto metadata = set.children.find("f:metadata");
  if (metadata != set.children.end()) {
    for (std::string_view name :
         {"f:name", "f:namespace", "f:creationTimestamp", "f:selfLink", "f:uid", "f:generation", "f:managedFields",
          "f:resourceVersion", "f:deletionTimestamp", "f:deletionGracePeriodSeconds", "f:generateName"}) {
      auto it = metadata->second.children.find(name);
      if (it != metadata->second.children.end()) metadata->second.children.erase(it);
    }
    metadata->second.member = false;
    if (metadata->second.empty()) set.children.erase(metadata);
  }
  if (subresource.empty()) set.children.erase("f:status");
  if (subresource == "status" || subresource == "approval") {
    FieldSet kept;
    if (auto it = set.children.find("f:status"); it != set.children.end()) kept.children.insert(*it);
    set = std::move(kept);
  }
}

Difference ownedDifference(const KindInfo& kind, const json::object& before, const json::object& after,
                           std::string_view subresource) {
  Difference out = compare(kind.type, before, after);
  for (FieldSet* set : {&out.added, &out.modified, &out.removed}) removeUnowned(*set, subresource);
  return out;
}

struct Conflict {
  std::string manager, path;
};

Error conflictError(const std::vector<Conflict>& conflicts) {
  std::vector<ErrorCause> causes;
  for (const Conflict& c : conflicts) causes.push_back({"FieldManagerConflict", "conflict with " + c.manager, c.path});
  std::string message;
  if (conflicts.size() == 1) {
    message =
        fmt::format("Apply failed with 1 conflict: conflict with {}: {}", conflicts[0].manager, conflicts[0].path);
  } else {
    std::map<std::string, std::vector<std::string>> byManager;
    for (const Conflict& c : conflicts) byManager[c.manager].push_back(c.path);
    std::string list;
    for (const auto& [manager, paths] : byManager) {
      list += fmt::format("{}conflicts with {}:", list.empty() ? "" : "\n", manager);
      for (const std::string& path : paths) list += "\n- " + path;
    }
    message = fmt::format("Apply failed with {} conflicts: {}", conflicts.size(), list);
  }
  return Error(Code::kConflict, message).withCauses(std::move(causes));
}

// Whether the stored set has a step of `set`, down to the members.
bool touches(const json::object& stored, const FieldSet& set) {
  for (const auto& [step, child] : set.children) {
    const json::value* below = stored.if_contains(step);
    if (!below || !below->is_object()) continue;
    if (child.member || touches(below->get_object(), child)) return true;
  }
  return false;
}

// Takes what changed from the other managers. Gives the conflicts.
std::vector<Conflict> takeFromOthers(Entries& entries, const Entry& self, const Difference& difference) {
  FieldSet changed = difference.modified;
  changed.add(difference.added);
  std::vector<Conflict> out;
  for (Entry& entry : entries) {
    if (entry.is(self)) continue;
    if (entry.raw && !touches(*entry.raw, changed) && !touches(*entry.raw, difference.removed)) continue;
    FieldSet lost = entry.set().intersect(changed);
    std::vector<std::string> paths;
    lost.paths(paths);
    for (std::string& path : paths) out.push_back({entry.shown(), std::move(path)});
    entry.fields.subtract(lost);
    entry.fields.subtract(difference.removed);
  }
  return out;
}

void dropEmpty(Entries& entries) {
  std::erase_if(entries, [](const Entry& entry) { return entry.empty(); });
}

Entry* findEntry(Entries& entries, const Entry& self) {
  for (Entry& entry : entries)
    if (entry.is(self)) return &entry;
  return nullptr;
}

// Too many updaters: the oldest become one.
void limitUpdaters(Entries& entries) {
  std::vector<Entry*> updaters;
  for (Entry& entry : entries)
    if (entry.operation == "Update" && entry.subresource.empty()) updaters.push_back(&entry);
  if (updaters.size() <= kMaxUpdateManagers) return;
  std::sort(updaters.begin(), updaters.end(), [](const Entry* a, const Entry* b) { return a->time < b->time; });
  size_t merge = updaters.size() - kMaxUpdateManagers + 1;
  Entry ancient{std::string(kAncient), "Update", updaters[merge - 1]->apiVersion, "", updaters[merge - 1]->time, {}};
  for (size_t i = 0; i < merge; ++i) {
    ancient.fields.add(updaters[i]->set());
    updaters[i]->fields = {};
  }
  dropEmpty(entries);
  entries.push_back(std::move(ancient));
}

const json::object& emptyDocument() {
  static const json::object empty;
  return empty;
}

}  // namespace

Result<json::object> applyConfig(const KindInfo& kind, const json::object* live, json::object config,
                                 const ApplyOptions& options) {
  if (const json::array* given = managedFields(config); given && !given->empty()) {
    return Error(Code::kBadRequest, "metadata.managedFields must be nil");
  }
  if (json::value* metadata = config.if_contains("metadata"); metadata && metadata->is_object())
    metadata->get_object().erase("managedFields");
  Entry self{options.manager.name,    "Apply", kind.apiVersion(), options.manager.subresource,
             formatTime(options.now), {}};
  Entries entries = readEntries(live ? managedFields(*live) : nullptr);
  FieldSet set = fieldsOf(kind.type, config);
  removeUnowned(set, self.subresource);

  FieldSet last;
  Entry* present = findEntry(entries, self);
  if (present) last = present->set();
  bool sameSet = present && present->fields == set;
  if (present) {
    present->fields = set;
  } else {
    self.fields = set;
    entries.push_back(self);
  }

  // resourceVersion, uid and the like in the config are preconditions, checked by the caller.
  json::object merged = live ? mergeTyped(kind.type, *live, config) : std::move(config);
  if (!last.empty()) {
    FieldSet keep;
    for (Entry& entry : entries) keep.add(entry.set());
    prune(kind.type, merged, last, keep);
  }
  Difference difference = ownedDifference(kind, live ? *live : emptyDocument(), merged, self.subresource);
  std::vector<Conflict> conflicts = takeFromOthers(entries, self, difference);
  if (!conflicts.empty() && !options.force) return conflictError(conflicts);
  if (sameSet && difference.empty()) {
    // Nothing changed: the entry keeps its time.
    return merged;
  }
  if (Entry* mine = findEntry(entries, self); mine && (!sameSet || !difference.empty()))
    mine->time = formatTime(options.now);
  dropEmpty(entries);
  writeEntries(merged, std::move(entries));
  return merged;
}

void trackUpdate(const KindInfo& kind, const json::object* before, json::object& after, const Manager& manager,
                 WallTime now) {
  const json::array* given = managedFields(after);
  const json::array* old = before ? managedFields(*before) : nullptr;
  // A single empty entry clears all ownership; a list of entries replaces it; none at all keeps it.
  bool cleared = given && given->size() == 1 && (*given)[0].is_object() && (*given)[0].get_object().empty();
  Entries entries = cleared ? Entries() : readEntries(given && !given->empty() ? given : old);
  if (!before && !cleared) entries.clear();
  bool edited = cleared || (given && !given->empty() && (!old || !(*given == *old)));

  Difference difference = ownedDifference(kind, before ? *before : emptyDocument(), after, manager.subresource);
  if (difference.empty()) {
    if (edited && before) {
      dropEmpty(entries);
      writeEntries(after, std::move(entries));
    } else if (old) {
      after["metadata"].get_object()["managedFields"] = *old;
    }
    return;
  }
  Entry self{manager.name, "Update", kind.apiVersion(), manager.subresource, formatTime(now), {}};
  takeFromOthers(entries, self, difference);
  if (!findEntry(entries, self)) entries.push_back(self);
  Entry* mine = findEntry(entries, self);
  FieldSet former = mine->set();
  mine->fields.subtract(difference.removed);
  mine->fields.add(difference.modified);
  mine->fields.add(difference.added);
  if (!(former == mine->fields)) mine->time = self.time;
  dropEmpty(entries);
  limitUpdaters(entries);
  writeEntries(after, std::move(entries));
}

namespace {

json::object withoutTimes(const json::object& metadata) {
  json::object out = metadata;
  out.erase("resourceVersion");
  if (json::value* list = out.if_contains("managedFields"); list && list->is_array())
    for (json::value& entry : list->get_array())
      if (entry.is_object()) entry.get_object().erase("time");
  return out;
}

}  // namespace

bool sameContent(const json::object& before, const json::object& after) {
  if (before.size() != after.size()) return false;
  const json::object *metadata = nullptr, *otherMetadata = nullptr;
  for (const auto& member : before) {
    const json::value* other = after.if_contains(member.key());
    if (!other) return false;
    if (member.key() == "metadata" && member.value().is_object() && other->is_object()) {
      metadata = &member.value().get_object();
      otherMetadata = &other->get_object();
    } else if (!(member.value() == *other)) {
      return false;
    }
  }
  // Last: it is the one part that has to be copied.
  return metadata == nullptr || withoutTimes(*metadata) == withoutTimes(*otherMetadata);
}

std::string managerFromUserAgent(std::string_view userAgent) {
  std::string_view name = userAgent.substr(0, userAgent.find('/'));
  return std::string(name.substr(0, 128));
}

}  // namespace dhow::object
