#include "object/decode.h"

#include "base/strings.h"
#include "base/yaml.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr std::string_view kProtobuf = "application/vnd.kubernetes.protobuf";

std::string textOf(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

Error cannotHandle(const KindInfo& kind, std::string_view why) {
  return Error(Code::kBadRequest, fmt::format("{} in version \"{}\" cannot be handled as a {}: {}", kind.kind,
                                              kind.version, kind.kind, why));
}

Result<> strictError(const KindInfo& kind, const std::vector<std::string>& problems) {
  if (problems.empty()) return {};
  return cannotHandle(kind, "strict decoding error: " + join(problems, ", "));
}

}  // namespace

Result<FieldValidation> parseFieldValidation(std::string_view text) {
  if (text.empty() || text == "Warn") return FieldValidation::kWarn;
  if (text == "Strict") return FieldValidation::kStrict;
  if (text == "Ignore") return FieldValidation::kIgnore;
  return Error(
      Code::kBadRequest,
      fmt::format("fieldValidation: Unsupported value: \"{}\": supported values: \"Ignore\", \"Strict\", \"Warn\"",
                  text));
}

Result<Decoded> decodeBody(const Kinds& kinds, std::string_view body, std::string_view contentType,
                           const DecodeOptions& options) {
  std::string media = toLower(trim(contentType.substr(0, contentType.find(';'))));
  Decoded out;
  std::vector<std::string> duplicates;
  json::value value;
  bool collect = options.validation != FieldValidation::kIgnore;
  if (media == kProtobuf) {
    ASSIGN_OR_RETURN(value, decodeProtobuf(kinds, body, options.expected));
  } else if (media.empty() || media == "application/json" || media == "text/json") {
    auto parsed = parseJson(body, collect ? &duplicates : nullptr);
    if (!parsed.ok()) return std::move(parsed).error().wrap("couldn't get version/kind; json parse error");
    value = std::move(*parsed);
  } else if (media == "application/yaml" || media == "text/yaml" || media == "application/x-yaml" ||
             media == "application/apply-patch+yaml") {
    ASSIGN_OR_RETURN(value, parseYaml(body, &duplicates));
  } else {
    return Error(Code::kUnsupportedMediaType,
                 "the body of the request was in an unknown format - accepted media types include: application/json, "
                 "application/yaml, "
                 "application/vnd.kubernetes.protobuf");
  }
  if (!value.is_object())
    return Error(Code::kBadRequest, "couldn't get version/kind; json parse error: the body is not an object");
  out.document = std::move(value.get_object());

  std::string apiVersion = textOf(out.document, "apiVersion");
  std::string kindName = textOf(out.document, "kind");
  if (options.expected) {
    if (apiVersion.empty()) apiVersion = options.expected->apiVersion();
    if (kindName.empty()) kindName = options.expected->kind;
    if (apiVersion != options.expected->apiVersion()) {
      return Error(Code::kBadRequest,
                   fmt::format("the API version in the data ({}) does not match the expected API version ({})",
                               apiVersion, options.expected->apiVersion()));
    }
    if (kindName != options.expected->kind) {
      return Error(
          Code::kBadRequest,
          fmt::format("{} in version \"{}\" cannot be handled as a {}: the kind in the data ({}) does not match "
                      "the expected kind ({})",
                      kindName, options.expected->version, options.expected->kind, kindName, options.expected->kind));
    }
    out.kind = options.expected;
  } else {
    if (kindName.empty())
      return Error(Code::kBadRequest, "Object 'Kind' is missing in '" + std::string(body.substr(0, 200)) + "'");
    out.kind = kinds.findKind(apiVersion, kindName);
    if (!out.kind)
      return Error(Code::kBadRequest,
                   fmt::format("no kind \"{}\" is registered for version \"{}\"", kindName, apiVersion));
  }
  out.document["apiVersion"] = apiVersion;
  out.document["kind"] = kindName;

  std::vector<std::string> problems;
  for (const std::string& path : duplicates) problems.push_back("duplicate field \"" + path + "\"");
  RETURN_IF_ERROR(conform(
      *out.kind, out.document,
      options.validation == FieldValidation::kIgnore ? FieldValidation::kIgnore : FieldValidation::kWarn, problems));
  if (options.validation == FieldValidation::kStrict) RETURN_IF_ERROR(strictError(*out.kind, problems));
  if (options.validation == FieldValidation::kWarn) out.warnings = std::move(problems);
  return out;
}

}  // namespace dhow::object
