#include "field_set.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <set>

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr int kMaxDepth = 64;

std::string fieldStep(std::string_view name) {
  return "f:" + std::string(name);
}

bool isAtomic(const Field* field) {
  if (!field) return false;
  if (field->atomic) return true;
  switch (field->shape.base) {
    case Base::kObject: return field->shape.type->atomic;
    case Base::kMap: return false;
    case Base::kList: return field->list == ListKind::kAtomic;
    default: return true;
  }
}

// A value that is owned as one: a scalar, something atomic, or an empty object.
bool isLeaf(const Field* field, const json::value& value) {
  if (isAtomic(field)) return true;
  if (value.is_object()) return false;
  return !(value.is_array() && field && field->shape.base == Base::kList);
}

const Type* typeOf(const Field* field) {
  return field ? field->shape.type : nullptr;
}
const Type* elementType(const Field& field) {
  return field.shape.element ? field.shape.element->type : nullptr;
}
bool isMap(const Field* field) {
  return !field || field->shape.base == Base::kMap;
}

void collect(const Type* type, const json::object& document, FieldSet& out);

void collectValue(const Field* field, bool mapKey, const json::value& value, FieldSet& node) {
  if (isLeaf(field, value)) {
    node.member = true;
    return;
  }
  if (value.is_object()) {
    if (value.get_object().empty() || mapKey) node.member = true;
    collect(typeOf(field), value.get_object(), node);
    return;
  }
  for (const json::value& item : value.get_array()) {
    FieldSet& child = node.children[itemStep(*field, item)];
    child.member = true;
    if (field->list == ListKind::kMap && item.is_object()) collect(elementType(*field), item.get_object(), child);
  }
}

// Without a type, the keys are those of a map.
void collect(const Type* type, const json::object& document, FieldSet& out) {
  for (const auto& member : document) {
    const Field* field = type ? type->field(member.key()) : nullptr;
    collectValue(field, !field, member.value(), out.children[fieldStep(member.key())]);
  }
}

FieldSet wrap(const Field* field, bool mapKey, const json::value& value) {
  FieldSet out;
  collectValue(field, mapKey, value, out);
  if (isMap(field) && value.is_object()) out.member = true;
  return out;
}

void put(FieldSet& target, const std::string& step, FieldSet part) {
  if (!part.empty()) target.children[step].add(part);
}

void compareObjects(const Type* type, const json::object& before, const json::object& after, Difference& out);

void compareValues(const Field* field, const std::string& step, const json::value& before, const json::value& after,
                   Difference& out) {
  if (before == after) return;
  bool leaf = isLeaf(field, before) || isLeaf(field, after) || before.kind() != after.kind();
  if (leaf) {
    out.modified.children[step].member = true;
    return;
  }
  Difference inner;
  if (before.is_object()) {
    compareObjects(typeOf(field), before.get_object(), after.get_object(), inner);
  } else {
    std::map<std::string, std::vector<const json::value*>> old, fresh;
    for (const json::value& item : before.get_array()) old[itemStep(*field, item)].push_back(&item);
    for (const json::value& item : after.get_array()) fresh[itemStep(*field, item)].push_back(&item);
    auto whole = [&](const json::value& item) {
      FieldSet set;
      set.member = true;
      if (field->list == ListKind::kMap && item.is_object()) collect(elementType(*field), item.get_object(), set);
      return set;
    };
    for (const auto& [key, items] : fresh) {
      auto it = old.find(key);
      if (it == old.end()) {
        put(inner.added, key, whole(*items[0]));
      } else if (items.size() > 1 || it->second.size() > 1) {
        bool equal = items.size() == it->second.size() &&
                     std::equal(items.begin(), items.end(), it->second.begin(),
                                [](const json::value* a, const json::value* b) { return *a == *b; });
        if (!equal) inner.modified.children[key].member = true;
      } else if (items[0]->is_object() && it->second[0]->is_object()) {
        Difference part;
        compareObjects(elementType(*field), it->second[0]->get_object(), items[0]->get_object(), part);
        put(inner.added, key, std::move(part.added));
        put(inner.modified, key, std::move(part.modified));
        put(inner.removed, key, std::move(part.removed));
      }
    }
    for (const auto& [key, items] : old)
      if (!fresh.contains(key)) put(inner.removed, key, whole(*items[0]));
  }
  put(out.added, step, std::move(inner.added));
  put(out.modified, step, std::move(inner.modified));
  put(out.removed, step, std::move(inner.removed));
}

void compareObjects(const Type* type, const json::object& before, const json::object& after, Difference& out) {
  for (const auto& member : after) {
    const Field* field = type ? type->field(member.key()) : nullptr;
    std::string step = fieldStep(member.key());
    const json::value* old = before.if_contains(member.key());
    if (!old)
      put(out.added, step, wrap(field, !field, member.value()));
    else
      compareValues(field, step, *old, member.value(), out);
  }
  for (const auto& member : before) {
    if (after.contains(member.key())) continue;
    const Field* field = type ? type->field(member.key()) : nullptr;
    put(out.removed, fieldStep(member.key()), wrap(field, !field, member.value()));
  }
}

// Items of `config` come in its order; the others keep their place relative to them.
json::array mergeLists(const Field& field, json::array live, const json::array& config) {
  std::map<std::string, size_t> place;
  for (size_t i = 0; i < live.size(); ++i) place.emplace(itemStep(field, live[i]), i);
  std::vector<std::pair<std::ptrdiff_t, json::value>> named;
  std::set<size_t> taken;
  for (const json::value& item : config) {
    auto it = place.find(itemStep(field, item));
    if (it == place.end()) {
      named.emplace_back(-1, item);
      continue;
    }
    json::value merged = item;
    json::value& old = live[it->second];
    if (taken.insert(it->second).second && old.is_object() && item.is_object()) {
      merged = mergeTyped(elementType(field), std::move(old.get_object()), item.get_object());
    }
    named.emplace_back(static_cast<std::ptrdiff_t>(it->second), std::move(merged));
  }
  json::array out;
  size_t next = 0;
  auto takeLiveUpTo = [&](size_t end) {
    for (; next < end; ++next)
      if (!taken.contains(next)) out.push_back(std::move(live[next]));
  };
  for (auto& [at, item] : named) {
    if (at >= 0 && static_cast<size_t>(at) > next) takeLiveUpTo(static_cast<size_t>(at));
    out.push_back(std::move(item));
  }
  takeLiveUpTo(live.size());
  return out;
}

void pruneList(const Field& field, json::array& items, const FieldSet& last, const FieldSet& keep) {
  json::array out;
  static const FieldSet kNothing;
  for (json::value& item : items) {
    std::string step = itemStep(field, item);
    auto owned = last.children.find(step);
    auto kept = keep.children.find(step);
    bool keeps = kept != keep.children.end();
    if (owned != last.children.end()) {
      if (owned->second.member && !keeps) continue;
      if (item.is_object())
        prune(elementType(field), item.get_object(), owned->second, keeps ? kept->second : kNothing);
    }
    out.push_back(std::move(item));
  }
  items = std::move(out);
}

}  // namespace

void FieldSet::add(const FieldSet& other) {
  member |= other.member;
  for (const auto& [step, child] : other.children) children[step].add(child);
}

void FieldSet::subtract(const FieldSet& other) {
  if (other.member) member = false;
  for (const auto& [step, child] : other.children) {
    auto it = children.find(step);
    if (it == children.end()) continue;
    it->second.subtract(child);
    if (it->second.empty()) children.erase(it);
  }
}

FieldSet FieldSet::intersect(const FieldSet& other) const {
  FieldSet out;
  out.member = member && other.member;
  for (const auto& [step, child] : children) {
    auto it = other.children.find(step);
    if (it == other.children.end()) continue;
    FieldSet part = child.intersect(it->second);
    if (!part.empty()) out.children.emplace(step, std::move(part));
  }
  return out;
}

void FieldSet::paths(std::vector<std::string>& out, const std::string& prefix) const {
  if (member && !prefix.empty()) out.push_back(prefix);
  for (const auto& [step, child] : children) {
    std::string_view body = std::string_view(step).substr(2);
    std::string next = prefix;
    if (step[0] == 'f') {
      next += "." + std::string(body);
    } else if (step[0] == 'v') {
      next += "[=" + std::string(body) + "]";
    } else {
      boost::system::error_code ec;
      json::value keys = json::parse(body, ec);
      std::string text;
      if (!ec && keys.is_object())
        for (const auto& member : keys.get_object()) {
          text += (text.empty() ? "" : ",") + std::string(member.key()) + "=" + json::serialize(member.value());
        }
      next += "[" + text + "]";
    }
    child.paths(out, next);
  }
}

json::object FieldSet::encode() const {
  json::object out;
  if (member && !children.empty()) out["."] = json::object();
  for (const auto& [step, child] : children) out[step] = child.encode();
  return out;
}

FieldSet FieldSet::decode(const json::object& fieldsV1, int depth) {
  FieldSet out;
  out.member = depth > 0 && fieldsV1.empty();
  if (depth > kMaxDepth) return out;
  for (const auto& entry : fieldsV1) {
    if (entry.key() == ".") {
      out.member = true;
    } else if (entry.key().size() > 2 && entry.key()[1] == ':' && entry.value().is_object()) {
      out.children.emplace(std::string(entry.key()), decode(entry.value().get_object(), depth + 1));
    }
  }
  return out;
}

FieldSet fieldsOf(const Type* type, const json::object& document) {
  FieldSet out;
  collect(type, document, out);
  return out;
}

Difference compare(const Type* type, const json::object& before, const json::object& after) {
  Difference out;
  compareObjects(type, before, after, out);
  return out;
}

json::object mergeTyped(const Type* type, json::object live, const json::object& config) {
  for (const auto& member : config) {
    const Field* field = type ? type->field(member.key()) : nullptr;
    json::value* old = live.if_contains(member.key());
    if (old && !isAtomic(field) && old->is_object() && member.value().is_object()) {
      json::object merged = mergeTyped(typeOf(field), std::move(old->get_object()), member.value().get_object());
      *old = std::move(merged);
    } else if (old && field && !isAtomic(field) && old->is_array() && member.value().is_array()) {
      json::array merged = mergeLists(*field, std::move(old->get_array()), member.value().get_array());
      *old = std::move(merged);
    } else {
      live[member.key()] = member.value();
    }
  }
  return live;
}

void prune(const Type* type, json::object& document, const FieldSet& last, const FieldSet& keep) {
  static const FieldSet kNothing;
  for (const auto& [step, owned] : last.children) {
    if (step[0] != 'f') continue;
    std::string_view name = std::string_view(step).substr(2);
    json::value* value = document.if_contains(name);
    if (!value) continue;
    auto kept = keep.children.find(step);
    if (kept == keep.children.end()) {
      document.stable_erase(document.find(name));
      continue;
    }
    const Field* field = type ? type->field(name) : nullptr;
    if (isAtomic(field)) continue;
    if (value->is_object())
      prune(typeOf(field), value->get_object(), owned, kept->second);
    else if (value->is_array() && field)
      pruneList(*field, value->get_array(), owned, kept->second);
  }
}

std::string itemStep(const Field& list, const json::value& item) {
  if (list.list != ListKind::kMap) return "v:" + json::serialize(item);
  json::object keys;
  std::vector<std::string> names = list.keys;
  std::sort(names.begin(), names.end());
  const Type* type = elementType(list);
  for (const std::string& name : names) {
    const json::value* value = item.is_object() ? item.get_object().if_contains(name) : nullptr;
    if (value) {
      keys[name] = *value;
      continue;
    }
    // A key that is left out has its default.
    const Field* field = type ? type->field(name) : nullptr;
    if (field && field->rules && field->rules->fallback) keys[name] = *field->rules->fallback;
  }
  return "k:" + json::serialize(keys);
}

}  // namespace dhow::object
