// Bringing a document to the form of its schema: types are checked, unknown fields and nulls removed, quantities and
// times written canonically.
#include <boost/json/serialize.hpp>

#include <limits>

#include "base/strings.h"
#include "base/time.h"
#include "object/decode.h"
#include "object/quantity.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

std::string_view jsonTypeName(const json::value& value) {
  switch (value.kind()) {
    case json::kind::string: return "string";
    case json::kind::bool_: return "bool";
    case json::kind::object: return "object";
    case json::kind::array: return "array";
    default: return "number";
  }
}

class Conformer {
 public:
  Conformer(const KindInfo& kind, bool report, std::vector<std::string>& unknown)
      : kind_(kind), report_(report), unknown_(unknown) {}

  Result<> object(const Type& type, json::object& document) {
    std::vector<std::string_view> drop;
    for (auto& member : document) {
      const Field* field = type.field(member.key());
      size_t mark = path_.size(), plainMark = plain_.size();
      push(member.key());
      if (!field) {
        bool identity = type.isKind && (member.key() == "apiVersion" || member.key() == "kind");
        if (identity && !member.value().is_string()) return mismatch(type, member.value(), "string");
        if (!identity) {
          if (report_ && unknown_.size() < 100) unknown_.push_back("unknown field \"" + path_ + "\"");
          drop.push_back(member.key());
        }
      } else if (member.value().is_null()) {
        if (field->shape.base != Base::kAny) drop.push_back(member.key());
      } else {
        owner_ = &type;
        RETURN_IF_ERROR(value(field->shape, member.value()));
        if (!field->required && isEmptyCollection(field->shape, member.value())) drop.push_back(member.key());
      }
      path_.resize(mark);
      plain_.resize(plainMark);
    }
    std::vector<std::string> keys(drop.begin(), drop.end());
    for (const std::string& key : keys) document.stable_erase(document.find(key));
    return {};
  }

 private:
  void push(std::string_view name) {
    if (!path_.empty()) path_ += '.', plain_ += '.';
    path_ += name;
    plain_ += name;
  }

  Result<> mismatch(const Type& owner, const json::value& value, std::string_view goType) {
    std::string shown(jsonTypeName(value));
    if (value.is_number() && (goType.starts_with("int") || goType == "float64")) shown += " " + json::serialize(value);
    return fail(fmt::format("json: cannot unmarshal {} into Go struct field {}.{} of type {}", shown, owner.shortName,
                            plain_, goType));
  }

  Result<> fail(std::string_view why) {
    return Error(Code::kBadRequest, fmt::format("{} in version \"{}\" cannot be handled as a {}: {}", kind_.kind,
                                                kind_.version, kind_.kind, why));
  }

  // Optional lists and maps without content are left out of what is stored and shown, as Go's omitempty does.
  static bool isEmptyCollection(const Shape& shape, const json::value& v) {
    return (shape.base == Base::kMap && v.get_object().empty()) || (shape.base == Base::kList && v.get_array().empty());
  }

  Result<> value(const Shape& shape, json::value& v) {
    switch (shape.base) {
      case Base::kAny: return {};
      case Base::kRaw:
      case Base::kFieldsV1: return v.is_object() ? Result<>() : mismatch(*owner_, v, goTypeName(shape));
      case Base::kString: return v.is_string() ? Result<>() : mismatch(*owner_, v, "string");
      case Base::kBool: return v.is_bool() ? Result<>() : mismatch(*owner_, v, "bool");
      case Base::kInt32:
      case Base::kInt64: return integer(shape, v);
      case Base::kDouble: return v.is_number() ? Result<>() : mismatch(*owner_, v, "float64");
      case Base::kBytes:
        if (!v.is_string()) return mismatch(*owner_, v, "[]uint8");
        if (!fromBase64(v.get_string())) return fail(plain_ + ": illegal base64 data");
        return {};
      case Base::kTime:
      case Base::kMicroTime: return time(shape, v);
      case Base::kQuantity: return quantity(v);
      case Base::kIntOrString:
        if (v.is_string()) return {};
        return integer({.base = Base::kInt32}, v);
      case Base::kObject:
        if (!v.is_object()) return mismatch(*owner_, v, goTypeName(shape));
        return object(*shape.type, v.get_object());
      case Base::kList: return list(shape, v);
      case Base::kMap: return map(shape, v);
    }
    return {};
  }

  Result<> integer(const Shape& shape, json::value& v) {
    bool good = v.is_int64();
    if (good && shape.base == Base::kInt32) {
      good =
          v.get_int64() >= std::numeric_limits<int32_t>::min() && v.get_int64() <= std::numeric_limits<int32_t>::max();
    }
    return good ? Result<>() : mismatch(*owner_, v, goTypeName(shape));
  }

  Result<> time(const Shape& shape, json::value& v) {
    if (!v.is_string()) return mismatch(*owner_, v, goTypeName(shape));
    auto parsed = parseTime(v.get_string());
    if (!parsed) {
      std::string text(v.get_string());
      return fail(fmt::format("parsing time \"{}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"{}\" as \"2006\"",
                              text, text));
    }
    // What is only the nearest to the text is not written in its place.
    if (*parsed == kEarliestTime || *parsed == kLatestTime) return {};
    std::string canonical = shape.base == Base::kTime ? formatTime(*parsed) : formatTimeMicro(*parsed);
    if (std::string_view(v.get_string()) != canonical) v = canonical;
    return {};
  }

  Result<> quantity(json::value& v) {
    std::string text;
    if (v.is_string())
      text = trim(v.get_string());
    else if (v.is_double())
      text = fmt::format("{}", v.get_double());
    else if (v.is_number())
      text = json::serialize(v);
    else
      return mismatch(*owner_, v, "resource.Quantity");
    auto parsed = Quantity::parse(text);
    if (!parsed.ok()) return fail(parsed.error().message());
    std::string canonical = parsed->text();
    if (!v.is_string() || std::string_view(v.get_string()) != canonical) v = canonical;
    return {};
  }

  Result<> list(const Shape& shape, json::value& v) {
    if (!v.is_array()) return mismatch(*owner_, v, goTypeName(shape));
    const Type* owner = owner_;
    size_t index = 0;
    for (json::value& item : v.get_array()) {
      size_t mark = path_.size();
      path_ += "[" + std::to_string(index++) + "]";
      if (item.is_null()) item = zero(*shape.element);
      owner_ = owner;
      RETURN_IF_ERROR(value(*shape.element, item));
      path_.resize(mark);
    }
    return {};
  }

  Result<> map(const Shape& shape, json::value& v) {
    if (!v.is_object()) return mismatch(*owner_, v, goTypeName(shape));
    const Type* owner = owner_;
    for (auto& member : v.get_object()) {
      // A time that is not set is null, wherever it stands.
      if (member.value().is_null() && shape.element->base == Base::kTime) continue;
      size_t mark = path_.size(), plainMark = plain_.size();
      path_ += "." + std::string(member.key());
      if (member.value().is_null()) member.value() = zero(*shape.element);
      owner_ = owner;
      RETURN_IF_ERROR(value(*shape.element, member.value()));
      path_.resize(mark);
      plain_.resize(plainMark);
    }
    return {};
  }

  // What Go leaves in a list or map for a JSON null.
  static json::value zero(const Shape& shape) {
    switch (shape.base) {
      case Base::kObject:
      case Base::kMap:
      case Base::kFieldsV1:
      case Base::kRaw: return json::object();
      case Base::kList: return json::array();
      case Base::kInt32:
      case Base::kInt64:
      case Base::kIntOrString: return 0;
      case Base::kBool: return false;
      case Base::kQuantity: return "0";
      case Base::kAny: return nullptr;
      default: return "";
    }
  }

  const KindInfo& kind_;
  bool report_;
  std::vector<std::string>& unknown_;
  const Type* owner_ = nullptr;
  std::string path_;   // with list indices, for unknown fields
  std::string plain_;  // without, as Go names the field
};

}  // namespace

Result<> conform(const KindInfo& kind, json::object& document, FieldValidation validation,
                 std::vector<std::string>& warnings) {
  std::vector<std::string> unknown;
  RETURN_IF_ERROR(Conformer(kind, validation != FieldValidation::kIgnore, unknown).object(*kind.type, document));
  if (validation == FieldValidation::kStrict && !unknown.empty()) {
    return Error(Code::kBadRequest,
                 fmt::format("{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}", kind.kind,
                             kind.version, kind.kind, join(unknown, ", ")));
  }
  warnings.insert(warnings.end(), unknown.begin(), unknown.end());
  return {};
}

}  // namespace dhow::object
