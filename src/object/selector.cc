#include "object/selector.h"

#include <boost/json/array.hpp>

#include <algorithm>

#include "base/strings.h"
#include "object/names.h"

namespace dhow::object {
namespace {

namespace json = boost::json;
using Op = LabelSelector::Op;

Error unparsable(std::string_view what) {
  return Error(Code::kBadRequest, "unable to parse requirement: " + std::string(what));
}

Result<> checkRequirement(const LabelSelector::Requirement& r) {
  if (std::string problem = checkQualifiedName(r.key); !problem.empty()) {
    return unparsable("<nil>: Invalid value: \"" + r.key + "\": " + problem);
  }
  for (const std::string& value : r.values)
    if (std::string problem = checkLabelValue(value); !problem.empty()) {
      return unparsable("values[0][" + r.key + "]: Invalid value: \"" + value + "\": " + problem);
    }
  if ((r.op == Op::kGreaterThan || r.op == Op::kLessThan) && !parseInt(r.values[0])) {
    return unparsable("values[0]: Invalid value: \"" + r.values[0] +
                      "\": for 'Gt', 'Lt' operators, the value must be an integer");
  }
  return {};
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<std::vector<LabelSelector::Requirement>> parse() {
    std::vector<LabelSelector::Requirement> out;
    skipSpace();
    while (at_ < text_.size()) {
      ASSIGN_OR_RETURN(LabelSelector::Requirement requirement, one());
      RETURN_IF_ERROR(checkRequirement(requirement));
      out.push_back(std::move(requirement));
      skipSpace();
      if (at_ == text_.size()) break;
      if (!take(',')) return unparsable("found '" + std::string(rest()) + "', expected: ',' or 'end of string'");
      skipSpace();
      if (at_ == text_.size()) return unparsable("found '', expected: identifier after ','");
    }
    return out;
  }

 private:
  static bool isSymbol(char c) {
    return c == '=' || c == '!' || c == '(' || c == ')' || c == ',' || c == '<' || c == '>';
  }
  static bool isSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
  void skipSpace() {
    while (at_ < text_.size() && isSpace(text_[at_])) ++at_;
  }
  bool take(char c) {
    skipSpace();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string word() {
    skipSpace();
    size_t start = at_;
    while (at_ < text_.size() && !isSymbol(text_[at_]) && !isSpace(text_[at_])) ++at_;
    return std::string(text_.substr(start, at_ - start));
  }
  std::string_view rest() const { return text_.substr(at_); }

  Result<LabelSelector::Requirement> one() {
    LabelSelector::Requirement out;
    if (take('!')) {
      out.op = Op::kDoesNotExist;
      out.key = word();
      return out;
    }
    out.key = word();
    if (out.key.empty())
      return unparsable("found '" + std::string(rest()) + "', expected: !, identifier, or 'end of string'");
    skipSpace();
    if (at_ == text_.size() || text_[at_] == ',') return out;
    if (take('!')) {
      if (!take('=')) return unparsable("found '!', expected: in, notin, =, ==, !=, gt, lt");
      out.op = Op::kNotIn;
      out.values.push_back(word());
      return out;
    }
    if (take('=')) {
      if (at_ < text_.size() && text_[at_] == '=') ++at_;
      out.op = Op::kIn;
      out.values.push_back(word());
      return out;
    }
    if (take('<') || take('>')) {
      out.op = text_[at_ - 1] == '<' ? Op::kLessThan : Op::kGreaterThan;
      out.values.push_back(word());
      return out;
    }
    std::string op = word();
    if (op != "in" && op != "notin") return unparsable("found '" + op + "', expected: in, notin, =, ==, !=, gt, lt");
    out.op = op == "in" ? Op::kIn : Op::kNotIn;
    return set(std::move(out));
  }

  Result<LabelSelector::Requirement> set(LabelSelector::Requirement out) {
    if (!take('(')) return unparsable("found '" + std::string(rest()) + "', expected: '('");
    do out.values.push_back(word());
    while (take(','));
    if (!take(')')) return unparsable("found '" + std::string(rest()) + "', expected: ',', ')' or identifier");
    std::sort(out.values.begin(), out.values.end());
    out.values.erase(std::unique(out.values.begin(), out.values.end()), out.values.end());
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

bool holds(const LabelSelector::Requirement& r, const json::object* labels) {
  const json::value* value = labels ? labels->if_contains(r.key) : nullptr;
  bool exists = value && value->is_string();
  std::string_view text = exists ? std::string_view(value->get_string()) : std::string_view();
  auto listed = [&] { return std::find(r.values.begin(), r.values.end(), text) != r.values.end(); };
  switch (r.op) {
    case Op::kIn: return exists && listed();
    case Op::kNotIn: return !exists || !listed();
    case Op::kExists: return exists;
    case Op::kDoesNotExist: return !exists;
    case Op::kGreaterThan:
    case Op::kLessThan: {
      auto left = parseInt(text);
      auto right = parseInt(r.values[0]);
      if (!exists || !left || !right) return false;
      return r.op == Op::kGreaterThan ? *left > *right : *left < *right;
    }
  }
  return false;
}

std::string_view stringAt(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

}  // namespace

Result<LabelSelector> LabelSelector::parse(std::string_view text) {
  LabelSelector out;
  ASSIGN_OR_RETURN(out.requirements_, Parser(text).parse());
  return out;
}

LabelSelector LabelSelector::fromMap(const json::object& labels) {
  LabelSelector out;
  for (const auto& member : labels)
    if (member.value().is_string()) {
      out.requirements_.push_back({std::string(member.key()), Op::kIn, {std::string(member.value().get_string())}});
    }
  return out;
}

LabelSelector LabelSelector::nothing() {
  LabelSelector out;
  out.nothing_ = true;
  return out;
}

Result<LabelSelector> LabelSelector::fromDocument(const json::value* document) {
  if (!document || document->is_null()) return nothing();
  const json::object* object = document->if_object();
  if (!object) return Error(Code::kBadRequest, "the label selector is not an object");
  LabelSelector out;
  if (const json::value* labels = object->if_contains("matchLabels"); labels && labels->is_object())
    out = fromMap(labels->get_object());
  const json::value* expressions = object->if_contains("matchExpressions");
  if (!expressions || !expressions->is_array()) return out;
  for (const json::value& value : expressions->get_array()) {
    if (!value.is_object()) return Error(Code::kBadRequest, "matchExpressions holds something that is not an object");
    Requirement requirement;
    requirement.key = stringAt(value.get_object(), "key");
    std::string_view op = stringAt(value.get_object(), "operator");
    if (op == "In")
      requirement.op = Op::kIn;
    else if (op == "NotIn")
      requirement.op = Op::kNotIn;
    else if (op == "Exists")
      requirement.op = Op::kExists;
    else if (op == "DoesNotExist")
      requirement.op = Op::kDoesNotExist;
    else
      return Error(Code::kBadRequest, "\"" + std::string(op) + "\" is not a valid label selector operator");
    const json::value* values = value.get_object().if_contains("values");
    if (values && values->is_array())
      for (const json::value& item : values->get_array())
        if (item.is_string()) requirement.values.emplace_back(item.get_string());
    out.requirements_.push_back(std::move(requirement));
  }
  return out;
}

bool LabelSelector::matches(const Object& object) const {
  const json::value* labels = object.metadata().if_contains("labels");
  return matchesLabels(labels ? labels->if_object() : nullptr);
}

bool LabelSelector::matchesLabels(const json::object* labels) const {
  if (nothing_) return false;
  return std::all_of(requirements_.begin(), requirements_.end(),
                     [&](const Requirement& r) { return holds(r, labels); });
}

std::string LabelSelector::text() const {
  std::vector<std::string> parts;
  for (const Requirement& r : requirements_) {
    switch (r.op) {
      case Op::kExists: parts.push_back(r.key); break;
      case Op::kDoesNotExist: parts.push_back("!" + r.key); break;
      case Op::kGreaterThan: parts.push_back(r.key + ">" + r.values[0]); break;
      case Op::kLessThan: parts.push_back(r.key + "<" + r.values[0]); break;
      case Op::kIn:
        parts.push_back(r.values.size() == 1 ? r.key + "=" + r.values[0] : r.key + " in (" + join(r.values, ",") + ")");
        break;
      case Op::kNotIn:
        parts.push_back(r.values.size() == 1 ? r.key + "!=" + r.values[0]
                                             : r.key + " notin (" + join(r.values, ",") + ")");
        break;
    }
  }
  return join(parts, ",");
}

namespace {

std::string valueAt(const Object& object, std::string_view path) {
  const json::object* current = &object.root();
  const json::value* value = nullptr;
  for (const std::string& step : split(path, '.')) {
    value = current ? current->if_contains(step) : nullptr;
    if (!value) return {};
    current = value->if_object();
  }
  if (value->is_string()) return std::string(value->get_string());
  if (value->is_bool()) return value->get_bool() ? "true" : "false";
  if (value->is_int64()) return std::to_string(value->get_int64());
  return {};
}

// The base type that a path leads to in the schema.
Base baseAt(const Type* type, std::string_view path) {
  Base base = Base::kAny;
  for (const std::string& step : split(path, '.')) {
    const Field* field = type ? type->field(step) : nullptr;
    if (!field) return Base::kAny;
    base = field->shape.base;
    type = field->shape.type;
  }
  return base;
}

Result<std::string> unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\') {
      if (++i == text.size() || (text[i] != '\\' && text[i] != ',' && text[i] != '=')) {
        return Error(Code::kBadRequest, "invalid field selector: invalid escape sequence");
      }
    }
    out += text[i];
  }
  return out;
}

}  // namespace

Result<FieldSelector> FieldSelector::parse(std::string_view text, const KindInfo& kind) {
  FieldSelector out;
  size_t start = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] == '\\') {
      ++i;
      continue;
    }
    if (i < text.size() && text[i] != ',') continue;
    std::string_view part = text.substr(start, i - start);
    start = i + 1;
    if (part.empty()) continue;
    size_t at = part.find('=');
    if (at == std::string_view::npos || at == 0) {
      return Error(Code::kBadRequest,
                   "invalid selector: '" + std::string(part) + "'; can't understand '" + std::string(part) + "'");
    }
    Requirement r;
    r.equal = part[at - 1] != '!';
    r.label = trim(part.substr(0, r.equal ? at : at - 1));
    if (r.equal && at + 1 < part.size() && part[at + 1] == '=') ++at;
    ASSIGN_OR_RETURN(r.value, unescape(part.substr(at + 1)));
    if (r.label == "metadata.name" || (r.label == "metadata.namespace" && kind.namespaced)) {
      r.paths = {r.label};
    } else {
      auto it = std::find_if(kind.selectable.begin(), kind.selectable.end(),
                             [&](const auto& f) { return f.label == r.label; });
      if (it == kind.selectable.end()) {
        return Error(Code::kBadRequest, "field label not supported: " + r.label);
      }
      r.paths = it->paths;
      r.boolean = baseAt(kind.type, r.paths[0]) == Base::kBool;
    }
    out.requirements_.push_back(std::move(r));
  }
  return out;
}

bool FieldSelector::matches(const Object& object) const {
  for (const Requirement& r : requirements_) {
    std::string value;
    for (const std::string& path : r.paths) {
      value = valueAt(object, path);
      if (!value.empty()) break;
    }
    if (value.empty() && r.boolean) value = "false";
    if ((value == r.value) != r.equal) return false;
  }
  return true;
}

std::string_view FieldSelector::exact(std::string_view label) const {
  for (const Requirement& r : requirements_)
    if (r.equal && r.label == label) return r.value;
  return {};
}

}  // namespace dhow::object
