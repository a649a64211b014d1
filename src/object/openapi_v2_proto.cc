// The OpenAPI v2 document as protobuf, by the messages of gnostic (openapiv2/OpenAPIv2.proto), which is the form that
// older clients ask for. Repeated names and values stand for maps; values of any form are YAML, of which JSON is a
// part.
#include <boost/json/serialize.hpp>

#include <bit>
#include <span>

#include "openapi_v2.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

enum class Form : uint8_t {
  kText,
  kBool,
  kInt,
  kDouble,
  kTexts,
  kAnys,
  kTypes,       // TypeItem: one text or several
  kMessage,     // one message
  kMessages,    // a list of messages
  kWrapped,     // a message whose field 1 is the message
  kNamed,       // a message whose field 1 is a list of NamedX
  kCodes,       // Responses: each name stands for ResponseValue{response}
  kPaths,       // Paths: NamedPathItem in field 2
  kParameters,  // ParametersItem, by where the parameter is
};

struct Message;

struct Member {
  std::string_view name;
  uint32_t number;
  Form form;
  const Message* message = nullptr;
};

struct Message {
  std::span<const Member> members;
  uint32_t extensions;  // the field of members named x-...
};

extern const Message kSchema;

constexpr Member kSchemaMembers[] = {
    {"$ref", 1, Form::kText},
    {"format", 2, Form::kText},
    {"title", 3, Form::kText},
    {"description", 4, Form::kText},
    {"maximum", 7, Form::kDouble},
    {"minimum", 9, Form::kDouble},
    {"maxLength", 11, Form::kInt},
    {"minLength", 12, Form::kInt},
    {"pattern", 13, Form::kText},
    {"maxItems", 14, Form::kInt},
    {"minItems", 15, Form::kInt},
    {"uniqueItems", 16, Form::kBool},
    {"required", 19, Form::kTexts},
    {"enum", 20, Form::kAnys},
    {"additionalProperties", 21, Form::kWrapped, &kSchema},
    {"type", 22, Form::kTypes},
    {"items", 23, Form::kWrapped, &kSchema},
    {"allOf", 24, Form::kMessages, &kSchema},
    {"properties", 25, Form::kNamed, &kSchema},
    {"default", 5, Form::kAnys},
};
constexpr Message kSchema{kSchemaMembers, 31};

constexpr Member kInfoMembers[] = {
    {"title", 1, Form::kText}, {"version", 2, Form::kText}, {"description", 3, Form::kText}};
constexpr Message kInfo{kInfoMembers, 7};

constexpr Member kBodyMembers[] = {{"description", 1, Form::kText},
                                   {"name", 2, Form::kText},
                                   {"in", 3, Form::kText},
                                   {"required", 4, Form::kBool},
                                   {"schema", 5, Form::kMessage, &kSchema}};
constexpr Message kBody{kBodyMembers, 6};

constexpr Member kQueryMembers[] = {
    {"required", 1, Form::kBool}, {"in", 2, Form::kText},     {"description", 3, Form::kText}, {"name", 4, Form::kText},
    {"type", 6, Form::kText},     {"format", 7, Form::kText}, {"uniqueItems", 20, Form::kBool}};
constexpr Message kQuery{kQueryMembers, 23};

constexpr Member kPathMembers[] = {
    {"required", 1, Form::kBool}, {"in", 2, Form::kText},     {"description", 3, Form::kText}, {"name", 4, Form::kText},
    {"type", 5, Form::kText},     {"format", 6, Form::kText}, {"uniqueItems", 19, Form::kBool}};
constexpr Message kPath{kPathMembers, 22};

constexpr Member kResponseMembers[] = {{"description", 1, Form::kText}, {"schema", 2, Form::kWrapped, &kSchema}};
constexpr Message kResponse{kResponseMembers, 5};

constexpr Member kOperationMembers[] = {{"tags", 1, Form::kTexts},
                                        {"description", 3, Form::kText},
                                        {"operationId", 5, Form::kText},
                                        {"produces", 6, Form::kTexts},
                                        {"consumes", 7, Form::kTexts},
                                        {"parameters", 8, Form::kParameters},
                                        {"responses", 9, Form::kCodes, &kResponse},
                                        {"schemes", 10, Form::kTexts}};
constexpr Message kOperation{kOperationMembers, 13};

constexpr Member kPathItemMembers[] = {
    {"get", 2, Form::kMessage, &kOperation},   {"put", 3, Form::kMessage, &kOperation},
    {"post", 4, Form::kMessage, &kOperation},  {"delete", 5, Form::kMessage, &kOperation},
    {"patch", 8, Form::kMessage, &kOperation}, {"parameters", 9, Form::kParameters}};
constexpr Message kPathItem{kPathItemMembers, 10};

constexpr Member kDocumentMembers[] = {{"swagger", 1, Form::kText},
                                       {"info", 2, Form::kMessage, &kInfo},
                                       {"paths", 8, Form::kPaths, &kPathItem},
                                       {"definitions", 9, Form::kNamed, &kSchema}};
constexpr Message kDocument{kDocumentMembers, 16};

void varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void bytes(std::string& out, uint32_t number, std::string_view value) {
  varint(out, uint64_t(number) << 3 | 2);
  varint(out, value.size());
  out += value;
}

void scalar(std::string& out, uint32_t number, uint64_t value) {
  varint(out, uint64_t(number) << 3);
  varint(out, value);
}

std::string any(const json::value& value) {
  std::string out;
  bytes(out, 2, json::serialize(value));
  return out;
}

std::string named(std::string_view name, std::string_view value) {
  std::string out;
  bytes(out, 1, name);
  bytes(out, 2, value);
  return out;
}

std::string one(uint32_t number, std::string_view value) {
  std::string out;
  bytes(out, number, value);
  return out;
}

std::string encode(const Message& message, const json::object& object);

std::string parameter(const json::object& object) {
  const json::value& in = object.at("in");
  if (in == "body") return one(1, one(1, encode(kBody, object)));
  bool path = in == "path";
  return one(1, one(2, one(path ? 4 : 3, encode(path ? kPath : kQuery, object))));
}

void member(const Member& m, const json::value& value, std::string& out) {
  switch (m.form) {
    case Form::kText: bytes(out, m.number, value.as_string()); return;
    case Form::kBool:
      if (value.as_bool()) scalar(out, m.number, 1);
      return;
    case Form::kInt: scalar(out, m.number, static_cast<uint64_t>(value.as_int64())); return;
    case Form::kDouble: {
      varint(out, uint64_t(m.number) << 3 | 1);
      auto bits = std::bit_cast<uint64_t>(value.to_number<double>());
      for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(bits >> (8 * i)));
      return;
    }
    case Form::kTexts:
      for (const json::value& item : value.as_array()) bytes(out, m.number, item.as_string());
      return;
    case Form::kAnys:
      if (!value.is_array() || m.name == "default") return bytes(out, m.number, any(value));
      for (const json::value& item : value.get_array()) bytes(out, m.number, any(item));
      return;
    case Form::kTypes: bytes(out, m.number, one(1, value.as_string())); return;
    case Form::kMessage: bytes(out, m.number, encode(*m.message, value.as_object())); return;
    case Form::kMessages:
      for (const json::value& item : value.as_array()) bytes(out, m.number, encode(*m.message, item.as_object()));
      return;
    case Form::kWrapped: bytes(out, m.number, one(1, encode(*m.message, value.as_object()))); return;
    case Form::kNamed:
    case Form::kCodes:
    case Form::kPaths: {
      std::string map;
      for (const auto& entry : value.as_object()) {
        std::string body = encode(*m.message, entry.value().as_object());
        if (m.form == Form::kCodes) body = one(1, body);
        bytes(map, m.form == Form::kPaths ? 2 : 1, named(entry.key(), body));
      }
      return bytes(out, m.number, map);
    }
    case Form::kParameters:
      for (const json::value& item : value.as_array()) bytes(out, m.number, parameter(item.as_object()));
      return;
  }
}

std::string encode(const Message& message, const json::object& object) {
  std::string out;
  for (const auto& entry : object) {
    if (entry.key().starts_with("x-")) {
      bytes(out, message.extensions, named(entry.key(), any(entry.value())));
      continue;
    }
    for (const Member& m : message.members)
      if (m.name == entry.key()) member(m, entry.value(), out);
  }
  return out;
}

}  // namespace

std::string openApiV2Protobuf(const json::object& document) {
  return encode(kDocument, document);
}

}  // namespace dhow::object
