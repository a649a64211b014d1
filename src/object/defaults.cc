#include "object/defaults.h"

#include <boost/json/array.hpp>

#include "base/check.h"
#include "base/strings.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

std::string_view text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string_view(value->get_string()) : std::string_view();
}

json::object* child(json::object& object, std::string_view key) {
  json::value* value = object.if_contains(key);
  return value ? value->if_object() : nullptr;
}

template <class Visit>
void eachObject(json::object& object, std::string_view list, Visit visit) {
  json::value* value = object.if_contains(list);
  if (!value || !value->is_array()) return;
  for (json::value& item : value->get_array())
    if (item.is_object()) visit(item.get_object());
}

template <class Visit>
void eachContainer(json::object& spec, Visit visit) {
  for (std::string_view list : {"initContainers", "containers"}) eachObject(spec, list, visit);
}

// What is limited and not requested is requested at its limit.
void requestsFromLimits(json::object& container) {
  json::object* resources = child(container, "resources");
  json::object* limits = resources ? child(*resources, "limits") : nullptr;
  if (!limits || limits->empty()) return;
  json::object copy = *limits;
  if (!resources->contains("requests")) resources->emplace("requests", json::object());
  json::object* requests = child(*resources, "requests");
  if (!requests) return;
  for (const auto& member : copy)
    if (!requests->contains(member.key())) requests->emplace(member.key(), member.value());
}

void podDefaults(json::object& pod) {
  json::object* spec = child(pod, "spec");
  if (!spec) return;
  if (!spec->contains("enableServiceLinks")) spec->emplace("enableServiceLinks", true);
  eachContainer(*spec, requestsFromLimits);
  const json::value* hostNetwork = spec->if_contains("hostNetwork");
  if (!hostNetwork || !hostNetwork->is_bool() || !hostNetwork->get_bool()) return;
  eachContainer(*spec, [](json::object& container) {
    eachObject(container, "ports", [](json::object& port) {
      const json::value* number = port.if_contains("containerPort");
      const json::value* host = port.if_contains("hostPort");
      if (number && (!host || (host->is_int64() && host->get_int64() == 0))) port["hostPort"] = json::value(*number);
    });
  });
}

// The older name of the field is kept equal to the newer one.
void podSpecDefaults(json::object& spec) {
  std::string name(text(spec, "serviceAccountName"));
  if (name.empty()) name = text(spec, "serviceAccount");
  if (name.empty()) return;
  spec["serviceAccountName"] = name;
  spec["serviceAccount"] = name;
}

// A tag "latest", said or implied, can move: pull it each time.
void containerDefaults(json::object& container) {
  if (!text(container, "imagePullPolicy").empty()) return;
  std::string_view image = text(container, "image");
  if (image.empty()) return;
  bool digest = image.find('@') != std::string_view::npos;
  std::string_view last = image.substr(image.rfind('/') == std::string_view::npos ? 0 : image.rfind('/') + 1);
  size_t colon = last.find(':');
  bool latest = !digest && (colon == std::string_view::npos || last.substr(colon + 1) == "latest");
  container["imagePullPolicy"] = latest ? "Always" : "IfNotPresent";
}

void volumeDefaults(json::object& volume) {
  for (const auto& member : volume)
    if (member.key() != "name") return;
  volume["emptyDir"] = json::object();
}

void namespaceDefaults(json::object& ns) {
  json::object* metadata = child(ns, "metadata");
  std::string name(metadata ? text(*metadata, "name") : "");
  if (name.empty()) return;
  if (!metadata->contains("labels")) metadata->emplace("labels", json::object());
  if (json::object* labels = child(*metadata, "labels")) (*labels)["kubernetes.io/metadata.name"] = name;
}

void nodeStatusDefaults(json::object& status) {
  const json::value* capacity = status.if_contains("capacity");
  if (capacity && !status.contains("allocatable")) {
    json::value copy = *capacity;
    status["allocatable"] = std::move(copy);
  }
}

// stringData is a way to write data, never read back.
void secretDefaults(json::object& secret) {
  json::object* plain = child(secret, "stringData");
  if (!plain) return;
  json::object texts = *plain;
  secret.erase("stringData");
  if (texts.empty()) return;
  if (!child(secret, "data")) secret["data"] = json::object();
  for (const auto& member : texts)
    if (member.value().is_string()) secret["data"].get_object()[member.key()] = toBase64(member.value().get_string());
}

// A policy that does not say what it limits limits what comes in, and what goes out when it has rules for that.
void networkPolicyDefaults(json::object& policy) {
  if (!child(policy, "spec")) policy["spec"] = json::object();
  json::object* spec = child(policy, "spec");
  if (!child(*spec, "podSelector")) (*spec)["podSelector"] = json::object();
  const json::value* types = spec->if_contains("policyTypes");
  if (types && types->is_array() && !types->get_array().empty()) return;
  const json::value* egress = spec->if_contains("egress");
  json::array all{"Ingress"};
  if (egress && egress->is_array() && !egress->get_array().empty()) all.emplace_back("Egress");
  (*spec)["policyTypes"] = std::move(all);
}

constexpr std::string_view kRbac = "rbac.authorization.k8s.io";

void roleRefDefaults(json::object& ref) {
  if (text(ref, "apiGroup").empty()) ref["apiGroup"] = kRbac;
}

void subjectDefaults(json::object& subject) {
  std::string_view kind = text(subject, "kind");
  if (text(subject, "apiGroup").empty() && (kind == "User" || kind == "Group")) subject["apiGroup"] = kRbac;
}

using Function = void (*)(json::object&);
constexpr std::pair<std::string_view, Function> kFunctions[] = {{"pod", podDefaults},
                                                                {"podSpec", podSpecDefaults},
                                                                {"container", containerDefaults},
                                                                {"volume", volumeDefaults},
                                                                {"namespace", namespaceDefaults},
                                                                {"nodeStatus", nodeStatusDefaults},
                                                                {"roleRef", roleRefDefaults},
                                                                {"subject", subjectDefaults},
                                                                {"secret", secretDefaults},
                                                                {"networkPolicy", networkPolicyDefaults}};

// Where zero and absence are the same, as on the wire.
bool isZero(const json::value& value) {
  return (value.is_string() && value.get_string().empty()) || (value.is_int64() && value.get_int64() == 0);
}

bool applies(const FieldRules& rules, const json::object& document) {
  for (const auto& [sibling, values] : rules.when) {
    std::string_view value = text(document, sibling);
    if (std::find(values.begin(), values.end(), value) == values.end()) return false;
  }
  return true;
}

void fillValue(const Shape& shape, json::value& value);

void fill(const Type& type, json::object& document) {
  for (const Field& field : type.fields) {
    json::value* value = document.if_contains(field.name);
    if (field.rules) {
      const FieldRules& rules = *field.rules;
      bool missing = !value || value->is_null() || (!field.pointer && isZero(*value));
      if (missing && rules.fallback && applies(rules, document)) {
        if (!(value && value->is_string() && *rules.fallback == *value)) document[field.name] = *rules.fallback;
      } else if (missing && !rules.defaultFrom.empty()) {
        if (const json::value* from = document.if_contains(rules.defaultFrom)) {
          json::value copy = *from;
          document[field.name] = std::move(copy);
        }
      }
      value = document.if_contains(field.name);
    }
    if (value) fillValue(field.shape, *value);
  }
  for (const std::string& name : type.defaults) {
    auto it = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                           [&](const auto& entry) { return entry.first == name; });
    CHECK(it != std::end(kFunctions), "api/ names an unknown defaulting function {}", name);
    it->second(document);
  }
}

void fillValue(const Shape& shape, json::value& value) {
  if (shape.base == Base::kObject && value.is_object()) {
    fill(*shape.type, value.get_object());
  } else if (shape.base == Base::kList && value.is_array()) {
    if (shape.element->base != Base::kObject) return;
    for (json::value& item : value.get_array()) fillValue(*shape.element, item);
  } else if (shape.base == Base::kMap && value.is_object()) {
    if (shape.element->base != Base::kObject) return;
    for (auto& member : value.get_object()) fillValue(*shape.element, member.value());
  }
}

}  // namespace

void applyDefaults(const KindInfo& kind, json::object& document) {
  // Some defaults live in a part that may be missing altogether.
  for (std::string_view part : {"spec", "status"}) {
    const Field* field = kind.type->field(part);
    if (!field || field->shape.base != Base::kObject || document.contains(part) || !kind.stored) continue;
    bool any = std::any_of(field->shape.type->fields.begin(), field->shape.type->fields.end(),
                           [](const Field& f) { return f.rules && f.rules->fallback && f.rules->when.empty(); });
    if (any) document[part] = json::object();
  }
  fill(*kind.type, document);
}

}  // namespace dhow::object
