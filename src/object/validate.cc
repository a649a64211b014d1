#include "object/validate.h"

#include <boost/json/serialize.hpp>

#include "base/check.h"
#include "base/strings.h"
#include "object/names.h"
#include "rules.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

std::string shown(const json::value& value) {
  if (value.is_string()) return "\"" + std::string(value.get_string()) + "\"";
  if (value.is_null()) return "null";
  return json::serialize(value);
}

}  // namespace

void Problems::add(std::string_view reason, std::string field, std::string message) {
  if (causes_.size() < 200) causes_.push_back({std::string(reason), std::move(message), std::move(field)});
}

void Problems::required(std::string field, std::string_view detail) {
  add("FieldValueRequired", std::move(field),
      detail.empty() ? "Required value" : "Required value: " + std::string(detail));
}

void Problems::invalid(std::string field, const json::value& value, std::string_view detail) {
  add("FieldValueInvalid", std::move(field),
      "Invalid value: " + shown(value) + (detail.empty() ? "" : ": " + std::string(detail)));
}

void Problems::notSupported(std::string field, const json::value& value, const std::vector<std::string>& supported) {
  std::vector<std::string> sorted = supported;
  std::sort(sorted.begin(), sorted.end());
  std::string list;
  for (const std::string& item : sorted) list += (list.empty() ? "\"" : ", \"") + item + "\"";
  add("FieldValueNotSupported", std::move(field), "Unsupported value: " + shown(value) + ": supported values: " + list);
}

void Problems::duplicate(std::string field, const json::value& value) {
  add("FieldValueDuplicate", std::move(field), "Duplicate value: " + shown(value));
}

void Problems::forbidden(std::string field, std::string_view detail) {
  add("FieldValueForbidden", std::move(field), "Forbidden: " + std::string(detail));
}

void Problems::tooLong(std::string field, size_t limit) {
  add("FieldValueTooLong", std::move(field), fmt::format("Too long: may not be more than {} bytes", limit));
}

void Problems::notFound(std::string field, const json::value& value) {
  add("FieldValueNotFound", std::move(field), "Not found: " + shown(value));
}

Result<> Problems::result(const KindInfo& kind, std::string_view name) const {
  if (causes_.empty()) return {};
  std::string list;
  for (const ErrorCause& cause : causes_) list += (list.empty() ? "" : ", ") + cause.field + ": " + cause.message;
  if (causes_.size() > 1) list = "[" + list + "]";
  std::string subject = kind.group.empty() ? kind.kind : kind.kind + "." + kind.group;
  return Error(Code::kInvalid, fmt::format("{} \"{}\" is invalid: {}", subject, name, list)).withCauses(causes_);
}

namespace rules {

std::string check(std::string_view format, const json::value& value) {
  std::string_view text = value.is_string() ? std::string_view(value.get_string()) : std::string_view();
  int64_t number = value.is_int64() ? value.get_int64() : 0;
  if (format == "dns1123Label") return checkDns1123Label(text);
  if (format == "dns1123Subdomain" || format == "nodeName") return checkDns1123Subdomain(text);
  if (format == "dns1035Label") return checkDns1035Label(text);
  if (format == "pathSegment") return checkPathSegment(text);
  if (format == "qualifiedName") return checkQualifiedName(text);
  if (format == "labelValue") return checkLabelValue(text);
  if (format == "envName") return checkEnvName(text);
  if (format == "portName") return checkPortName(text);
  if (format == "ip") return checkIp(text);
  if (format == "port") return checkPort(number);
  if (format == "optionalPort") return number == 0 ? "" : checkPort(number);
  if (format == "portOrName") return value.is_int64() ? checkPort(number) : checkPortName(text);
  if (format == "localPath") {
    if (text.starts_with('/')) return "must be a relative path";
    for (const std::string& part : split(text, '/'))
      if (part == "..") return "must not contain '..'";
    return text.starts_with("..") ? "must not start with '..'" : "";
  }
  if (format == "countOrPercent") {
    if (value.is_int64()) return number < 0 ? "must be greater than or equal to 0" : "";
    std::string_view digits = text.ends_with('%') ? text.substr(0, text.size() - 1) : "";
    bool good = !digits.empty() && digits.find_first_not_of("0123456789") == std::string_view::npos;
    return good ? ""
                : "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', "
                  "regex used for validation is '[0-9]+%')";
  }
  CHECK(false, "api/ names an unknown format {}", format);
}

void checkLabels(const json::value& labels, const std::string& path, Problems& problems) {
  if (!labels.is_object()) return;
  for (const auto& member : labels.get_object()) {
    if (std::string problem = checkQualifiedName(member.key()); !problem.empty())
      problems.invalid(path, json::value(member.key()), problem);
    if (!member.value().is_string()) continue;
    if (std::string problem = checkLabelValue(member.value().get_string()); !problem.empty()) {
      problems.invalid(path, member.value(), problem);
    }
  }
}

}  // namespace rules

namespace {

class Walker {
 public:
  Walker(rules::Context& context) : context_(context) {}

  void object(const Type& type, const json::object& document, const json::object* before) {
    for (const Field& field : type.fields) {
      if (type.isKind && field.name == "metadata") continue;  // has rules of its own
      if (type.isKind && (field.name == "status") != ofStatus()) continue;
      const json::value* value = document.if_contains(field.name);
      const json::value* old = before ? before->if_contains(field.name) : nullptr;
      size_t mark = context_.path.size();
      if (!context_.path.empty()) context_.path += '.';
      context_.path += field.name;
      member(field, value, old, before != nullptr && context_.update);
      context_.path.resize(mark);
    }
    for (const std::string& name : type.rules) {
      rules::Function function = rules::find(name);
      CHECK(function, "api/ names an unknown validation function {}", name);
      function(document, before, context_);
    }
  }

 private:
  // Both change the status: "approval" is that of a CertificateSigningRequest.
  bool ofStatus() const { return context_.subresource == "status" || context_.subresource == "approval"; }

  static bool missing(const json::value* value) {
    if (!value || value->is_null()) return true;
    if (value->is_string()) return value->get_string().empty();
    if (value->is_array()) return value->get_array().empty();
    return false;
  }

  void member(const Field& field, const json::value* value, const json::value* old, bool update) {
    if (missing(value)) {
      bool number =
          field.shape.base == Base::kInt32 || field.shape.base == Base::kInt64 || field.shape.base == Base::kBool;
      if (field.enforced && !number) context_.problems.required(context_.path);
      if (field.rules && field.rules->immutable && update && !missing(old))
        context_.problems.invalid(context_.path, json::value(""), "field is immutable");
      if (missing(value) && (!value || !value->is_string())) return;
    }
    if (field.rules && value) check(field, *value, old, update);
    if (value && !value->is_null()) inner(field, *value, old);
  }

  void check(const Field& field, const json::value& value, const json::value* old, bool update) {
    const FieldRules& r = *field.rules;
    if (r.immutable && update && old && !(*old == value)) {
      context_.problems.invalid(context_.path, value, "field is immutable");
      return;
    }
    if (value.is_string() && value.get_string().empty()) return;
    if (!r.enums.empty() && value.is_string() &&
        std::find(r.enums.begin(), r.enums.end(), std::string_view(value.get_string())) == r.enums.end()) {
      context_.problems.notSupported(context_.path, value, r.enums);
      return;
    }
    if (value.is_int64() && r.min && value.get_int64() < *r.min) {
      std::string detail = r.max         ? fmt::format("must be between {} and {}, inclusive", *r.min, *r.max)
                           : *r.min == 0 ? "must be greater than or equal to 0"
                                         : fmt::format("must be greater than or equal to {}", *r.min);
      context_.problems.invalid(context_.path, value, detail);
    } else if (value.is_int64() && r.max && value.get_int64() > *r.max) {
      context_.problems.invalid(context_.path, value,
                                fmt::format("must be between {} and {}, inclusive", r.min.value_or(0), *r.max));
    }
    if (r.format == "labels") {
      rules::checkLabels(value, context_.path, context_.problems);
    } else if (!r.format.empty()) {
      if (std::string problem = rules::check(r.format, value); !problem.empty())
        context_.problems.invalid(context_.path, value, problem);
    }
  }

  void inner(const Field& field, const json::value& value, const json::value* old) {
    const Shape& shape = field.shape;
    if (shape.base == Base::kObject && value.is_object()) {
      object(*shape.type, value.get_object(), old ? old->if_object() : nullptr);
    } else if (shape.base == Base::kList && value.is_array()) {
      list(field, value.get_array(), old ? old->if_array() : nullptr);
    } else if (shape.base == Base::kMap && shape.element->base == Base::kObject && value.is_object()) {
      for (const auto& member : value.get_object()) {
        if (!member.value().is_object()) continue;
        size_t mark = context_.path.size();
        context_.path += "[" + std::string(member.key()) + "]";
        object(*shape.element->type, member.value().get_object(), nullptr);
        context_.path.resize(mark);
      }
    }
  }

  void list(const Field& field, const json::array& items, const json::array* before) {
    duplicates(field, items);
    if (field.shape.element->base != Base::kObject) return;
    for (size_t i = 0; i < items.size(); ++i) {
      if (!items[i].is_object()) continue;
      size_t mark = context_.path.size();
      context_.path += "[" + std::to_string(i) + "]";
      const json::object* old = before && i < before->size() ? (*before)[i].if_object() : nullptr;
      object(*field.shape.element->type, items[i].get_object(), old);
      context_.path.resize(mark);
    }
  }

  // One key that names its elements must not repeat; lists with several keys have rules of their own.
  void duplicates(const Field& field, const json::array& items) {
    if (field.list == ListKind::kSet) {
      for (size_t i = 0; i < items.size(); ++i)
        for (size_t j = 0; j < i && items.size() < 2000; ++j)
          if (items[i] == items[j]) {
            context_.problems.duplicate(context_.path + "[" + std::to_string(i) + "]", items[i]);
            break;
          }
      return;
    }
    if (field.list != ListKind::kMap || field.keys.size() != 1) return;
    const std::string& key = field.keys[0];
    // Environment variables may repeat: the last one counts, as in Kubernetes. A node has an address of a type for each
    // family, though the published key is the type.
    if (field.name == "env" || field.name == "imagePullSecrets" || field.name == "addresses") return;
    std::vector<std::string> seen;
    for (size_t i = 0; i < items.size(); ++i) {
      const json::value* value = items[i].is_object() ? items[i].get_object().if_contains(key) : nullptr;
      if (!value) continue;
      std::string text = json::serialize(*value);
      if (std::find(seen.begin(), seen.end(), text) != seen.end()) {
        bool mount = key == "mountPath";
        if (mount)
          context_.problems.invalid(context_.path + "[" + std::to_string(i) + "]." + key, *value, "must be unique");
        else
          context_.problems.duplicate(context_.path + "[" + std::to_string(i) + "]." + key, *value);
      }
      seen.push_back(std::move(text));
    }
  }

  rules::Context& context_;
};

}  // namespace

Result<> validate(const KindInfo& kind, const json::object& document, const ValidateOptions& options) {
  Problems problems;
  rules::Context context{.problems = problems,
                         .kind = kind,
                         .root = document,
                         .before = options.before,
                         .subresource = options.subresource,
                         .update = options.before != nullptr,
                         .path = {}};
  static const json::object kNone;
  const json::value* metadata = document.if_contains("metadata");
  const json::object& meta = metadata && metadata->is_object() ? metadata->get_object() : kNone;
  if (kind.type->field("metadata") && kind.stored) rules::metadata(kind, meta, options.before, problems);
  Walker(context).object(*kind.type, document, options.before);
  const json::value* name = meta.if_contains("name");
  if (!name) name = meta.if_contains("generateName");
  return problems.result(kind, name && name->is_string() ? std::string_view(name->get_string()) : "");
}

}  // namespace dhow::object
