// RFC 6902 and RFC 7386.
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "object/patch.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr size_t kMaxOperations = 10'000;
constexpr size_t kMaxCopied = 1'000'000;  // values that all copy operations together may add

size_t weight(const json::value& value) {
  size_t out = 1;
  if (value.is_string()) out += value.get_string().size() / 32;
  if (value.is_array())
    for (const json::value& item : value.get_array()) out += weight(item);
  if (value.is_object())
    for (const auto& member : value.get_object()) out += weight(member.value());
  return out;
}

Error rejected(std::string_view why) {
  return Error(Code::kInvalid, "the server rejected our request due to an error in our request: " + std::string(why));
}

Result<std::vector<std::string>> parsePointer(std::string_view pointer) {
  std::vector<std::string> out;
  if (pointer.empty()) return out;
  if (pointer[0] != '/') return Error(Code::kBadRequest, "invalid JSON pointer \"" + std::string(pointer) + "\"");
  for (const std::string& raw : split(pointer.substr(1), '/')) {
    std::string token;
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '~') {
        token += raw[i];
      } else if (i + 1 < raw.size() && (raw[i + 1] == '0' || raw[i + 1] == '1')) {
        token += raw[++i] == '0' ? '~' : '/';
      } else {
        return Error(Code::kBadRequest, "invalid JSON pointer \"" + std::string(pointer) + "\"");
      }
    }
    out.push_back(std::move(token));
  }
  return out;
}

std::optional<size_t> index(const std::string& token, size_t size) {
  if (token.empty() || token.size() > 9 || token.find_first_not_of("0123456789") != std::string::npos)
    return std::nullopt;
  if (token.size() > 1 && token[0] == '0') return std::nullopt;
  size_t i = std::stoul(token);
  return i < size ? std::optional(i) : std::nullopt;
}

json::value* step(json::value& at, const std::string& token) {
  if (at.is_object()) return at.get_object().if_contains(token);
  if (!at.is_array()) return nullptr;
  auto i = index(token, at.get_array().size());
  return i ? &at.get_array()[*i] : nullptr;
}

class JsonPatch {
 public:
  explicit JsonPatch(json::value document) : document_(std::move(document)) {}

  Result<> run(const json::object& operation) {
    ASSIGN_OR_RETURN(std::string op, member(operation, "op"));
    ASSIGN_OR_RETURN(std::string path, member(operation, "path"));
    ASSIGN_OR_RETURN(auto target, parsePointer(path));
    if (op == "remove") return remove(target, path);
    if (op == "add" || op == "replace" || op == "test") {
      const json::value* value = operation.if_contains("value");
      if (!value) return Error(Code::kBadRequest, op + " operation misses its value");
      if (op == "add") return add(target, *value, path);
      if (op == "replace") return replace(target, *value, path);
      return test(target, *value, path);
    }
    if (op == "move" || op == "copy") {
      ASSIGN_OR_RETURN(std::string from, member(operation, "from"));
      ASSIGN_OR_RETURN(auto source, parsePointer(from));
      json::value* found = find(source, source.size());
      if (!found) return rejected(op + " operation does not apply: doc is missing from path: " + from);
      copied_ += weight(*found);
      if (copied_ > kMaxCopied) return Error(Code::kTooLarge, "the copies of the JSON patch are too large");
      json::value copy = *found;
      if (op == "move") {
        if (path.starts_with(from + "/")) return Error(Code::kBadRequest, "cannot move a value into itself");
        RETURN_IF_ERROR(remove(source, from));
      }
      return add(target, copy, path);
    }
    return Error(Code::kBadRequest, "unexpected kind: " + op);
  }

  json::value take() { return std::move(document_); }

 private:
  static Result<std::string> member(const json::object& operation, std::string_view key) {
    const json::value* value = operation.if_contains(key);
    if (!value || !value->is_string())
      return Error(Code::kBadRequest, "a JSON patch operation misses its " + std::string(key));
    return std::string(value->get_string());
  }

  json::value* find(const std::vector<std::string>& path, size_t depth) {
    json::value* at = &document_;
    for (size_t i = 0; at && i < depth; ++i) at = step(*at, path[i]);
    return at;
  }

  Result<> add(const std::vector<std::string>& path, const json::value& value, std::string_view text) {
    if (path.empty()) {
      document_ = value;
      return {};
    }
    json::value* parent = find(path, path.size() - 1);
    if (parent && parent->is_object()) {
      parent->get_object()[path.back()] = value;
      return {};
    }
    if (!parent || !parent->is_array())
      return rejected("add operation does not apply: doc is missing path: \"" + std::string(text) + "\"");
    json::array& array = parent->get_array();
    if (path.back() == "-") {
      array.push_back(value);
      return {};
    }
    auto i = index(path.back(), array.size() + 1);
    if (!i) return rejected("add operation does not apply: doc is missing path: \"" + std::string(text) + "\"");
    array.insert(array.begin() + static_cast<std::ptrdiff_t>(*i), value);
    return {};
  }

  Result<> remove(const std::vector<std::string>& path, std::string_view text) {
    json::value* parent = path.empty() ? nullptr : find(path, path.size() - 1);
    if (parent && parent->is_object() && parent->get_object().contains(path.back())) {
      parent->get_object().stable_erase(parent->get_object().find(path.back()));
      return {};
    }
    if (parent && parent->is_array()) {
      if (auto i = index(path.back(), parent->get_array().size())) {
        parent->get_array().erase(parent->get_array().begin() + static_cast<std::ptrdiff_t>(*i));
        return {};
      }
    }
    return rejected("remove operation does not apply: doc is missing path: \"" + std::string(text) + "\"");
  }

  Result<> replace(const std::vector<std::string>& path, const json::value& value, std::string_view text) {
    json::value* found = find(path, path.size());
    if (!found) return rejected("replace operation does not apply: doc is missing path: \"" + std::string(text) + "\"");
    json::value copy = value;
    *found = std::move(copy);
    return {};
  }

  Result<> test(const std::vector<std::string>& path, const json::value& value, std::string_view text) {
    json::value* found = find(path, path.size());
    bool equal = found ? *found == value : value.is_null();
    return equal ? Result<>() : rejected("testing value " + std::string(text) + " failed");
  }

  json::value document_;
  size_t copied_ = 0;
};

}  // namespace

Result<json::value> applyJsonPatch(json::value document, const json::value& patch) {
  if (!patch.is_array()) return Error(Code::kBadRequest, "a JSON patch is a list of operations");
  if (patch.get_array().size() > kMaxOperations) {
    return Error(Code::kTooLarge, fmt::format("The allowed maximum operations in a JSON patch is {}, got {}",
                                              kMaxOperations, patch.get_array().size()));
  }
  JsonPatch work(std::move(document));
  for (const json::value& operation : patch.get_array()) {
    if (!operation.is_object()) return Error(Code::kBadRequest, "a JSON patch operation is not an object");
    RETURN_IF_ERROR(work.run(operation.get_object()));
  }
  return work.take();
}

json::value applyMergePatch(json::value document, const json::value& patch) {
  if (!patch.is_object()) return patch;
  json::object target;
  if (document.is_object()) target = std::move(document.get_object());
  for (const auto& member : patch.get_object()) {
    auto it = target.find(member.key());
    if (member.value().is_null()) {
      if (it != target.end()) target.stable_erase(it);
    } else if (it != target.end()) {
      it->value() = applyMergePatch(std::move(it->value()), member.value());
    } else {
      target.emplace(member.key(), applyMergePatch(nullptr, member.value()));
    }
  }
  return target;
}

}  // namespace dhow::object
