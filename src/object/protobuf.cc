// Kubernetes protobuf to documents, by the field numbers of the schema. The envelope is "k8s\0" and runtime.Unknown
// (apimachinery pkg/runtime/generated.proto).
#include <boost/json/array.hpp>

#include <cstring>

#include "base/strings.h"
#include "base/time.h"
#include "object/decode.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr int kMaxDepth = 64;
constexpr size_t kMaxValues = 1'000'000;

Error damaged() {
  return Error(Code::kBadRequest, "the protobuf body is damaged");
}

struct Item {
  uint32_t number = 0;
  uint32_t wire = 0;
  uint64_t scalar = 0;
  std::string_view bytes;
};

class Wire {
 public:
  explicit Wire(std::string_view bytes) : bytes_(bytes) {}
  bool done() const { return at_ >= bytes_.size(); }

  Result<Item> next() {
    Item item;
    ASSIGN_OR_RETURN(uint64_t tag, varint());
    item.number = static_cast<uint32_t>(tag >> 3);
    item.wire = tag & 7;
    if (item.number == 0) return damaged();
    switch (item.wire) {
      case 0: {
        ASSIGN_OR_RETURN(item.scalar, varint());
        return item;
      }
      case 1: return fixed(item, 8);
      case 5: return fixed(item, 4);
      case 2: {
        ASSIGN_OR_RETURN(uint64_t length, varint());
        if (length > bytes_.size() - at_) return damaged();
        item.bytes = bytes_.substr(at_, length);
        at_ += length;
        return item;
      }
      default: return damaged();
    }
  }

 private:
  Result<Item> fixed(Item item, size_t size) {
    if (bytes_.size() - at_ < size) return damaged();
    std::memcpy(&item.scalar, bytes_.data() + at_, size);
    at_ += size;
    return item;
  }

  Result<uint64_t> varint() {
    uint64_t out = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (at_ >= bytes_.size()) return damaged();
      auto byte = static_cast<unsigned char>(bytes_[at_++]);
      out |= uint64_t(byte & 0x7f) << shift;
      if (!(byte & 0x80)) return out;
    }
    return damaged();
  }

  std::string_view bytes_;
  size_t at_ = 0;
};

struct Seconds {
  int64_t seconds = 0;
  int64_t nanos = 0;
};

Result<Seconds> seconds(std::string_view bytes) {
  Seconds out;
  Wire wire(bytes);
  while (!wire.done()) {
    ASSIGN_OR_RETURN(Item item, wire.next());
    if (item.number == 1) out.seconds = static_cast<int64_t>(item.scalar);
    if (item.number == 2) out.nanos = static_cast<int64_t>(item.scalar);
  }
  return out;
}

// The text of field `number` of a small message.
Result<std::string_view> textField(std::string_view bytes, uint32_t number) {
  std::string_view out;
  Wire wire(bytes);
  while (!wire.done()) {
    ASSIGN_OR_RETURN(Item item, wire.next());
    if (item.number == number && item.wire == 2) out = item.bytes;
  }
  return out;
}

bool isZero(const Shape& shape, const Item& item) {
  switch (shape.base) {
    case Base::kString:
    case Base::kBytes: return item.bytes.empty();
    case Base::kBool:
    case Base::kInt32:
    case Base::kInt64: return item.scalar == 0;
    default: return false;
  }
}

class Decoder {
 public:
  Result<json::object> message(const Type& type, std::string_view bytes, int depth) {
    json::object out;
    RETURN_IF_ERROR(into(type, bytes, 0, out, depth));
    return out;
  }

 private:
  static const Field* lookup(const Type& type, uint32_t number, uint32_t outer) {
    for (const Field& field : type.fields) {
      if (outer == 0 ? field.innerNumber == 0 && field.number == number
                     : field.number == outer && field.innerNumber == number)
        return &field;
    }
    return nullptr;
  }

  static bool holdsInline(const Type& type, uint32_t number) {
    return std::any_of(type.fields.begin(), type.fields.end(),
                       [&](const Field& f) { return f.innerNumber != 0 && f.number == number; });
  }

  Result<> into(const Type& type, std::string_view bytes, uint32_t outer, json::object& out, int depth) {
    if (depth > kMaxDepth) return Error(Code::kBadRequest, "the protobuf body is nested too deeply");
    Wire wire(bytes);
    while (!wire.done()) {
      ASSIGN_OR_RETURN(Item item, wire.next());
      if (++values_ > kMaxValues) return Error(Code::kTooLarge, "the protobuf body holds too many values");
      const Field* field = lookup(type, item.number, outer);
      if (field) {
        RETURN_IF_ERROR(add(*field, item, out, depth));
      } else if (outer == 0 && item.wire == 2 && holdsInline(type, item.number)) {
        RETURN_IF_ERROR(into(type, item.bytes, item.number, out, depth + 1));
      }
    }
    return {};
  }

  Result<> add(const Field& field, const Item& item, json::object& out, int depth) {
    if (field.shape.base == Base::kList) return addToList(field, item, out, depth);
    if (field.shape.base == Base::kMap) {
      json::value& slot = out[field.name];
      if (!slot.is_object()) slot = json::object();
      return addToMap(*field.shape.element, item, slot.get_object(), depth);
    }
    ASSIGN_OR_RETURN(json::value value, single(field.shape, item, depth));
    if (value.is_null()) return {};
    // Kubernetes writes the zero of fields that are not pointers too; in JSON they are left out.
    if (isZero(field.shape, item) && !field.required && !field.pointer) return {};
    if (value.is_object() && value.get_object().empty() &&
        (field.name == "status" || field.name == "metadata" || field.name == "spec" || field.name == "strategy"))
      return {};
    out[field.name] = std::move(value);
    return {};
  }

  Result<> addToList(const Field& field, const Item& item, json::object& out, int depth) {
    const Shape& element = *field.shape.element;
    json::value& slot = out[field.name];
    if (!slot.is_array()) slot = json::array();
    bool scalar = element.base == Base::kInt32 || element.base == Base::kInt64 || element.base == Base::kBool;
    if (scalar && item.wire == 2) return packed(element, item.bytes, slot.get_array());
    ASSIGN_OR_RETURN(json::value value, single(element, item, depth));
    slot.get_array().push_back(std::move(value));
    return {};
  }

  // A packed list is a row of varints: read it by putting a tag before each.
  Result<> packed(const Shape& element, std::string_view bytes, json::array& out) {
    size_t start = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (static_cast<unsigned char>(bytes[i]) & 0x80) continue;
      std::string one = "\x08" + std::string(bytes.substr(start, i + 1 - start));
      start = i + 1;
      ASSIGN_OR_RETURN(Item item, Wire(one).next());
      ASSIGN_OR_RETURN(json::value value, single(element, item, 0));
      out.push_back(std::move(value));
      if (++values_ > kMaxValues) return damaged();
    }
    return start == bytes.size() ? Result<>() : damaged();
  }

  Result<> addToMap(const Shape& element, const Item& item, json::object& out, int depth) {
    if (item.wire != 2) return damaged();
    std::string_view key;
    Item value;
    value.wire = 2;
    Wire wire(item.bytes);
    while (!wire.done()) {
      ASSIGN_OR_RETURN(Item part, wire.next());
      if (part.number == 1) key = part.bytes;
      if (part.number == 2) value = part;
    }
    // A list as the value of a map is a message with the list in field 1 (authentication ExtraValue).
    if (element.base == Base::kList) {
      json::array items;
      Wire inner(value.bytes);
      while (!inner.done()) {
        ASSIGN_OR_RETURN(Item one, inner.next());
        if (one.number != 1) continue;
        ASSIGN_OR_RETURN(json::value decoded, single(*element.element, one, depth + 1));
        items.push_back(std::move(decoded));
      }
      out[key] = std::move(items);
      return {};
    }
    ASSIGN_OR_RETURN(json::value decoded, single(element, value, depth + 1));
    out[key] = std::move(decoded);
    return {};
  }

  Result<json::value> single(const Shape& shape, const Item& item, int depth) {
    bool scalar = shape.base == Base::kInt32 || shape.base == Base::kInt64 || shape.base == Base::kBool ||
                  shape.base == Base::kDouble;
    if (!scalar && item.wire != 2) return damaged();
    switch (shape.base) {
      case Base::kString: return json::value(json::string(item.bytes));
      case Base::kBytes: return json::value(toBase64(item.bytes));
      case Base::kBool: return json::value(item.scalar != 0);
      case Base::kInt32: return json::value(int64_t(static_cast<int32_t>(item.scalar)));
      case Base::kInt64: return json::value(static_cast<int64_t>(item.scalar));
      case Base::kDouble: {
        double real = 0;
        std::memcpy(&real, &item.scalar, sizeof real);
        return json::value(real);
      }
      case Base::kTime:
      case Base::kMicroTime: return time(shape, item.bytes);
      case Base::kQuantity: {
        ASSIGN_OR_RETURN(std::string_view text, textField(item.bytes, 1));
        return json::value(json::string(text));
      }
      case Base::kIntOrString: return intOrString(item.bytes);
      case Base::kFieldsV1:
      case Base::kRaw: {
        ASSIGN_OR_RETURN(std::string_view text, textField(item.bytes, 1));
        if (text.empty()) return json::value(nullptr);
        return parseJson(text);
      }
      case Base::kAny: return json::value(nullptr);
      case Base::kObject: {
        ASSIGN_OR_RETURN(json::object object, message(*shape.type, item.bytes, depth + 1));
        return json::value(std::move(object));
      }
      case Base::kList:
      case Base::kMap: return damaged();
    }
    return damaged();
  }

  static Result<json::value> time(const Shape& shape, std::string_view bytes) {
    ASSIGN_OR_RETURN(Seconds parts, seconds(bytes));
    // The zero time of Go is "not set".
    constexpr int64_t kYear1 = -62135596800, kYear9999 = 253402300799;
    if ((parts.seconds == 0 && parts.nanos == 0) || parts.seconds <= kYear1) return json::value(nullptr);
    if (parts.seconds > kYear9999 || parts.nanos < 0 || parts.nanos > 999'999'999) return damaged();
    const WallTime at = wallTimeOf(parts.seconds, parts.nanos);
    return json::value(shape.base == Base::kTime ? formatTime(at) : formatTimeMicro(at));
  }

  static Result<json::value> intOrString(std::string_view bytes) {
    int64_t kind = 0, number = 0;
    std::string_view text;
    Wire wire(bytes);
    while (!wire.done()) {
      ASSIGN_OR_RETURN(Item item, wire.next());
      if (item.number == 1) kind = static_cast<int64_t>(item.scalar);
      if (item.number == 2) number = static_cast<int32_t>(item.scalar);
      if (item.number == 3) text = item.bytes;
    }
    return kind == 1 ? json::value(json::string(text)) : json::value(number);
  }

  size_t values_ = 0;
};

}  // namespace

Result<json::object> decodeProtobuf(const Kinds& kinds, std::string_view bytes, const KindInfo* expected) {
  constexpr std::string_view kMagic("k8s\0", 4);
  if (!bytes.starts_with(kMagic))
    return Error(Code::kBadRequest,
                 "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]");
  std::string_view apiVersion, kindName, raw, encoding, contentType;
  Wire wire(bytes.substr(kMagic.size()));
  while (!wire.done()) {
    ASSIGN_OR_RETURN(Item item, wire.next());
    if (item.wire != 2) return damaged();
    if (item.number == 1) {
      ASSIGN_OR_RETURN(apiVersion, textField(item.bytes, 1));
      ASSIGN_OR_RETURN(kindName, textField(item.bytes, 2));
    }
    if (item.number == 2) raw = item.bytes;
    if (item.number == 3) encoding = item.bytes;
    if (item.number == 4) contentType = item.bytes;
  }
  if (!encoding.empty()) return Error(Code::kBadRequest, "the protobuf body has an unknown encoding");
  if (contentType.find("json") != std::string_view::npos) {
    ASSIGN_OR_RETURN(json::value value, parseJson(raw));
    if (!value.is_object()) return Error(Code::kBadRequest, "the body is not an object");
    return std::move(value.get_object());
  }
  const KindInfo* kind = kindName.empty() ? expected : kinds.findKind(apiVersion, kindName);
  // DeleteOptions and the like carry the group of the resource that they are sent to.
  if (!kind && expected && expected->kind == kindName) kind = expected;
  if (!kind) kind = kinds.findKind("v1", kindName);
  if (!kind)
    return Error(Code::kBadRequest,
                 fmt::format("no kind \"{}\" is registered for version \"{}\"", kindName, apiVersion));
  ASSIGN_OR_RETURN(json::object document, Decoder().message(*kind->type, raw, 0));
  json::object out{{"apiVersion", apiVersion.empty() ? std::string_view(kind->apiVersion()) : apiVersion},
                   {"kind", kind->kind}};
  for (auto& member : document) out[member.key()] = std::move(member.value());
  return out;
}

}  // namespace dhow::object
