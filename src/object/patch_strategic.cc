// Kubernetes' strategic merge patch.
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "object/patch.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr std::string_view kDirective = "$patch";
constexpr std::string_view kRetainKeys = "$retainKeys";
constexpr std::string_view kSetOrder = "$setElementOrder/";
constexpr std::string_view kDeletePrimitive = "$deleteFromPrimitiveList/";
constexpr int kMaxDepth = 128;

Error bad(std::string why) {
  return Error(Code::kBadRequest, "invalid strategic merge patch: " + std::move(why));
}

bool isDirective(std::string_view key) {
  return key == kDirective || key == kRetainKeys || key.starts_with(kSetOrder) || key.starts_with(kDeletePrimitive);
}

std::string_view directiveOf(const json::value& value) {
  const json::object* object = value.if_object();
  const json::value* directive = object ? object->if_contains(kDirective) : nullptr;
  return directive && directive->is_string() ? std::string_view(directive->get_string()) : std::string_view();
}

// An element's identity within its list: the merge key's value, or the element itself where there is no key.
const json::value* identity(const json::value& item, const std::string& mergeKey) {
  if (mergeKey.empty()) return &item;
  return item.is_object() ? item.get_object().if_contains(mergeKey) : nullptr;
}

std::ptrdiff_t indexOf(const json::array& list, const json::value& item, const std::string& mergeKey) {
  const json::value* wanted = identity(item, mergeKey);
  if (!wanted) return -1;
  for (size_t i = 0; i < list.size(); ++i) {
    const json::value* found = identity(list[i], mergeKey);
    if (found && *found == *wanted) return static_cast<std::ptrdiff_t>(i);
  }
  return -1;
}

// Items that `order` names come in its order; the others keep their place relative to them in `before`.
json::array reorder(json::array merged, const json::array& order, const json::array& before,
                    const std::string& mergeKey) {
  std::vector<json::value> named, others;
  for (json::value& item : merged) (indexOf(order, item, mergeKey) >= 0 ? named : others).push_back(std::move(item));
  std::vector<std::pair<std::ptrdiff_t, size_t>> places;
  for (size_t n = 0; n < named.size(); ++n) places.emplace_back(indexOf(order, named[n], mergeKey), n);
  std::sort(places.begin(), places.end());
  std::vector<json::value> sorted;
  for (const auto& place : places) sorted.push_back(std::move(named[place.second]));
  named = std::move(sorted);
  json::array out;
  size_t i = 0, j = 0;
  while (i < others.size() || j < named.size()) {
    bool takeOther = j >= named.size();
    if (!takeOther && i < others.size()) {
      std::ptrdiff_t left = indexOf(before, others[i], mergeKey), right = indexOf(before, named[j], mergeKey);
      takeOther = left >= 0 && right >= 0 && left < right;
    }
    out.push_back(std::move(takeOther ? others[i++] : named[j++]));
  }
  return out;
}

class Merger {
 public:
  // `type` is null where the schema ends (maps of free form).
  Result<json::object> object(const Type* type, json::object target, const json::object& patch, int depth) {
    if (depth > kMaxDepth) return bad("nested too deeply");
    if (const json::value* directive = patch.if_contains(kDirective)) {
      std::string_view word = directive->is_string() ? std::string_view(directive->get_string()) : "";
      if (word == "delete") return json::object();
      if (word == "replace") return object(type, {}, without(patch), depth + 1);
      if (word != "merge") return bad("unrecognized type: " + json::serialize(*directive));
    }
    RETURN_IF_ERROR(retainKeys(target, patch));
    json::object before;  // lists as they were, for their order
    for (const auto& member : patch)
      if (member.key().starts_with(kSetOrder)) {
        std::string name(member.key().substr(kSetOrder.size()));
        if (const json::value* list = target.if_contains(name)) before[name] = *list;
      }
    for (const auto& member : patch) {
      if (member.key().starts_with(kDeletePrimitive))
        RETURN_IF_ERROR(deletePrimitives(target, member.key(), member.value()));
    }
    for (const auto& member : patch) {
      if (isDirective(member.key())) continue;
      RETURN_IF_ERROR(this->member(type, target, member.key(), member.value(), depth));
    }
    for (const auto& member : patch)
      if (member.key().starts_with(kSetOrder))
        RETURN_IF_ERROR(setOrder(type, target, member.key(), member.value(), before));
    return target;
  }

 private:
  static json::object without(const json::object& patch) {
    json::object out = patch;
    out.erase(kDirective);
    return out;
  }

  static Result<> retainKeys(json::object& target, const json::object& patch) {
    const json::value* keep = patch.if_contains(kRetainKeys);
    if (!keep) return {};
    if (!keep->is_array()) return bad("$retainKeys is not a list");
    std::vector<std::string> drop;
    for (const auto& member : target) {
      json::value key(member.key());
      if (std::find(keep->get_array().begin(), keep->get_array().end(), key) == keep->get_array().end())
        drop.emplace_back(member.key());
    }
    for (const std::string& key : drop) target.stable_erase(target.find(key));
    return {};
  }

  static Result<> deletePrimitives(json::object& target, std::string_view key, const json::value& values) {
    if (!values.is_array()) return bad(std::string(key) + " is not a list");
    json::value* list = target.if_contains(key.substr(kDeletePrimitive.size()));
    if (!list || !list->is_array()) return {};
    json::array kept;
    for (json::value& item : list->get_array()) {
      if (std::find(values.get_array().begin(), values.get_array().end(), item) == values.get_array().end())
        kept.push_back(std::move(item));
    }
    *list = std::move(kept);
    return {};
  }

  static Result<> setOrder(const Type* type, json::object& target, std::string_view key, const json::value& order,
                           const json::object& before) {
    if (!order.is_array()) return bad(std::string(key) + " is not a list");
    std::string_view name = key.substr(kSetOrder.size());
    json::value* list = target.if_contains(name);
    if (!list || !list->is_array()) return {};
    const Field* field = type ? type->field(name) : nullptr;
    const json::value* old = before.if_contains(name);
    static const json::array kNone;
    *list = reorder(std::move(list->get_array()), order.get_array(), old && old->is_array() ? old->get_array() : kNone,
                    field ? field->mergeKey : std::string());
    return {};
  }

  Result<> member(const Type* type, json::object& target, std::string_view key, const json::value& patch, int depth) {
    auto it = target.find(key);
    if (patch.is_null()) {
      if (it != target.end()) target.stable_erase(it);
      return {};
    }
    const Field* field = type ? type->field(key) : nullptr;
    if (patch.is_object()) {
      if (directiveOf(patch) == "delete") {
        if (it != target.end()) target.stable_erase(it);
        return {};
      }
      json::object present;
      if (it != target.end() && it->value().is_object()) present = std::move(it->value().get_object());
      const Type* inner = field ? field->shape.type : nullptr;
      const Shape* element = field && field->shape.base == Base::kMap ? field->shape.element : nullptr;
      Result<json::object> merged = element ? mapOf(*element, std::move(present), patch.get_object(), depth + 1)
                                            : object(inner, std::move(present), patch.get_object(), depth + 1);
      if (!merged.ok()) return std::move(merged).error();
      target[key] = std::move(*merged);
      return {};
    }
    if (patch.is_array()) {
      json::array present;
      bool merge = field && field->patchMerge;
      if (merge && it != target.end() && it->value().is_array()) present = std::move(it->value().get_array());
      ASSIGN_OR_RETURN(json::array merged, list(field, merge, std::move(present), patch.get_array(), depth + 1));
      target[key] = std::move(merged);
      return {};
    }
    target[key] = patch;
    return {};
  }

  Result<json::object> mapOf(const Shape& element, json::object target, const json::object& patch, int depth) {
    if (element.base != Base::kObject) return object(nullptr, std::move(target), patch, depth);
    for (const auto& member : patch) {
      if (member.value().is_null()) {
        target.erase(member.key());
      } else if (member.value().is_object()) {
        json::object present;
        if (json::value* old = target.if_contains(member.key()); old && old->is_object()) present = old->get_object();
        ASSIGN_OR_RETURN(json::object merged,
                         object(element.type, std::move(present), member.value().get_object(), depth + 1));
        target[member.key()] = std::move(merged);
      }
    }
    return target;
  }

  Result<json::array> list(const Field* field, bool merge, json::array target, const json::array& patch, int depth) {
    const Type* element = field && field->shape.element ? field->shape.element->type : nullptr;
    for (const json::value& item : patch)
      if (directiveOf(item) == "replace") {
        merge = false;
        target.clear();
      }
    const std::string key = merge && field ? field->mergeKey : std::string();
    for (const json::value& item : patch) {
      std::string_view directive = directiveOf(item);
      if (directive == "replace") continue;
      if (!item.is_object()) {
        if (!merge || indexOf(target, item, "") < 0) target.push_back(item);
        continue;
      }
      if (merge && !key.empty() && !item.get_object().contains(key)) {
        return bad("map: " + json::serialize(item) + " does not contain declared merge key: " + key);
      }
      std::ptrdiff_t at = merge && !key.empty() ? indexOf(target, item, key) : -1;
      if (directive == "delete") {
        for (; at >= 0; at = indexOf(target, item, key)) target.erase(target.begin() + at);
        continue;
      }
      json::object present;
      if (at >= 0 && target[static_cast<size_t>(at)].is_object())
        present = std::move(target[static_cast<size_t>(at)].get_object());
      ASSIGN_OR_RETURN(json::object merged, object(element, std::move(present), item.get_object(), depth + 1));
      if (at >= 0)
        target[static_cast<size_t>(at)] = std::move(merged);
      else
        target.push_back(std::move(merged));
    }
    return target;
  }
};

}  // namespace

Result<json::object> applyStrategicPatch(const Type& type, json::object document, const json::object& patch) {
  return Merger().object(&type, std::move(document), patch, 0);
}

}  // namespace dhow::object
