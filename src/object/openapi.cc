#include "object/openapi.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <functional>
#include <set>

#include "base/digest.h"
#include "base/strings.h"
#include "openapi_v2.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

constexpr std::string_view kQuantity = "io.k8s.apimachinery.pkg.api.resource.Quantity";
constexpr std::string_view kIntOrString = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
constexpr std::string_view kTime = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
constexpr std::string_view kMicroTime = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";
constexpr std::string_view kFieldsV1 = "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1";
constexpr std::string_view kRaw = "io.k8s.apimachinery.pkg.runtime.RawExtension";
constexpr std::string_view kListMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
constexpr std::string_view kDeleteOptions = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
constexpr std::string_view kStatus = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
constexpr std::string_view kPatch = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

// Collects the schemas that a document needs and writes them in the form of either version.
class Schemas {
 public:
  Schemas(const Kinds& kinds, bool v3)
      : kinds_(kinds), v3_(v3), prefix_(v3 ? "#/components/schemas/" : "#/definitions/") {}

  json::object ref(std::string_view name) const { return json::object{{"$ref", prefix_ + std::string(name)}}; }

  void need(const Type& type) {
    if (!done_.insert(type.openApiName).second) return;
    out_[type.openApiName] = object(type);
  }

  void needNamed(std::string_view name) {
    for (const auto& [key, type] : kinds_.types())
      if (type.openApiName == name) need(type);
  }

  void needList(const KindInfo& kind) {
    need(*kind.type);
    needNamed(kListMeta);
    std::string name = kind.type->openApiName + "List";
    if (!done_.insert(name).second) return;
    out_[name] = json::object{
        {"description", kind.kind + "List is a list of " + kind.kind + "."},
        {"type", "object"},
        {"required", json::array{"items"}},
        {"properties",
         json::object{
             {"apiVersion", json::object{{"type", "string"}}},
             {"kind", json::object{{"type", "string"}}},
             {"metadata",
              v3_ ? json::object{{"allOf", json::array{ref(kListMeta)}}, {"default", json::object()}} : ref(kListMeta)},
             {"items", json::object{{"type", "array"}, {"items", ref(kind.type->openApiName)}}}}},
        {"x-kubernetes-group-version-kind", gvk(kind.group, kind.version, kind.kind + "List")}};
  }

  void needPatch() {
    if (done_.insert(std::string(kPatch)).second) {
      out_[kPatch] =
          json::object{{"description", "A patch in one of the forms that the content type names."}, {"type", "object"}};
    }
  }

  static json::array gvk(std::string_view group, std::string_view version, std::string_view kind) {
    return json::array{json::object{{"group", group}, {"kind", kind}, {"version", version}}};
  }

  json::object take() { return std::move(out_); }

 private:
  json::object object(const Type& type) {
    json::object out;
    if (!type.doc.empty()) out["description"] = type.doc;
    out["type"] = "object";
    json::object properties;
    json::array required;
    if (type.isKind) {
      properties["apiVersion"] = json::object{{"description", "Group and version of the kind."}, {"type", "string"}};
      properties["kind"] = json::object{{"description", "Name of the kind."}, {"type", "string"}};
    }
    for (const Field& field : type.fields) {
      properties[field.name] = property(field);
      if (field.required) required.push_back(json::string(field.name));
    }
    out["properties"] = std::move(properties);
    if (!required.empty()) out["required"] = std::move(required);
    if (type.atomic) out["x-kubernetes-map-type"] = "atomic";
    for (const KindInfo& kind : kinds_.all())
      if (kind.type == &type) out["x-kubernetes-group-version-kind"] = gvk(kind.group, kind.version, kind.kind);
    return out;
  }

  json::object property(const Field& field) {
    json::object out = shape(field.shape);
    bool isRef = out.contains("$ref");
    bool annotated = !field.doc.empty() || (field.rules && field.rules->fallback) || field.atomic;
    if (isRef && annotated && v3_) out = json::object{{"allOf", json::array{std::move(out)}}};
    if (!field.doc.empty()) out["description"] = field.doc;
    if (field.rules && field.rules->fallback && !(isRef && !v3_)) out["default"] = *field.rules->fallback;
    if (field.rules && !field.rules->enums.empty()) out["enum"] = enums(field);
    if (field.atomic) out["x-kubernetes-map-type"] = "atomic";
    if (field.shape.base == Base::kList) listFacts(field, out);
    std::string strategy = field.patchMerge        ? field.patchRetainKeys ? "merge,retainKeys" : "merge"
                           : field.patchRetainKeys ? "retainKeys"
                                                   : "";
    if (!strategy.empty()) out["x-kubernetes-patch-strategy"] = strategy;
    if (!field.mergeKey.empty()) out["x-kubernetes-patch-merge-key"] = field.mergeKey;
    return out;
  }

  static json::array enums(const Field& field) {
    json::array out;
    for (const std::string& item : field.rules->enums) out.push_back(json::string(item));
    return out;
  }

  static void listFacts(const Field& field, json::object& out) {
    if (field.list == ListKind::kAtomic) out["x-kubernetes-list-type"] = "atomic";
    if (field.list == ListKind::kSet) out["x-kubernetes-list-type"] = "set";
    if (field.list != ListKind::kMap) return;
    out["x-kubernetes-list-type"] = "map";
    json::array keys;
    for (const std::string& key : field.keys) keys.push_back(json::string(key));
    out["x-kubernetes-list-map-keys"] = std::move(keys);
  }

  json::object well(std::string_view name, json::object schema) {
    if (done_.insert(std::string(name)).second) out_[name] = std::move(schema);
    return ref(name);
  }

  json::object shape(const Shape& s) {
    switch (s.base) {
      case Base::kString: return {{"type", "string"}};
      case Base::kInt32: return {{"type", "integer"}, {"format", "int32"}};
      case Base::kInt64: return {{"type", "integer"}, {"format", "int64"}};
      case Base::kBool: return {{"type", "boolean"}};
      case Base::kDouble: return {{"type", "number"}, {"format", "double"}};
      case Base::kBytes: return {{"type", "string"}, {"format", "byte"}};
      case Base::kTime: return well(kTime, {{"type", "string"}, {"format", "date-time"}});
      case Base::kMicroTime: return well(kMicroTime, {{"type", "string"}, {"format", "date-time"}});
      case Base::kQuantity: {
        json::object schema{{"description", "A number with a unit, as in 500m, 2 or 128Mi."}};
        if (v3_)
          schema["oneOf"] = json::array{json::object{{"type", "string"}}, json::object{{"type", "number"}}};
        else
          schema["type"] = "string";
        return well(kQuantity, std::move(schema));
      }
      case Base::kIntOrString: {
        json::object schema{{"description", "A number, or a text such as a name or a percentage."},
                            {"format", "int-or-string"}};
        if (v3_)
          schema["oneOf"] = json::array{json::object{{"type", "integer"}}, json::object{{"type", "string"}}};
        else
          schema["type"] = "string";
        return well(kIntOrString, std::move(schema));
      }
      case Base::kFieldsV1: return well(kFieldsV1, {{"type", "object"}});
      case Base::kRaw: return well(kRaw, {{"type", "object"}});
      case Base::kAny: return {{"type", "object"}, {"x-kubernetes-preserve-unknown-fields", true}};
      case Base::kObject: need(*s.type); return ref(s.type->openApiName);
      case Base::kList: return {{"type", "array"}, {"items", shape(*s.element)}};
      case Base::kMap: return {{"type", "object"}, {"additionalProperties", shape(*s.element)}};
    }
    return {};
  }

  const Kinds& kinds_;
  bool v3_;
  std::string prefix_;
  std::set<std::string> done_;
  json::object out_;
};

class Paths {
 public:
  Paths(Schemas& schemas, bool v3) : schemas_(schemas), v3_(v3) {}

  void add(const KindInfo& kind, json::object& out) {
    schemas_.need(*kind.type);
    if (kind.has("list")) schemas_.needList(kind);
    std::string base = kind.group.empty() ? "/api/" + kind.version : "/apis/" + kind.group + "/" + kind.version;
    std::string space = kind.namespaced ? "/namespaces/{namespace}" : "";
    std::string collection = base + space + "/" + kind.plural;
    json::object all = parameters(kind.namespaced, false);
    if (kind.has("list")) all["get"] = operation(kind, kind, "list", "get", collection);
    if (kind.has("create")) all["post"] = operation(kind, kind, "post", "post", collection);
    if (kind.has("deletecollection")) all["delete"] = operation(kind, kind, "deletecollection", "delete", collection);
    out[collection] = std::move(all);
    if (kind.namespaced && kind.has("list")) {
      json::object across = parameters(false, false);
      across["get"] = operation(kind, kind, "list", "get", base + "/" + kind.plural);
      out[base + "/" + kind.plural] = std::move(across);
    }
    if (!kind.has("get")) return;
    std::string one = collection + "/{name}";
    json::object item = parameters(kind.namespaced, true);
    for (auto [verb, method] : {std::pair{"get", "get"}, {"update", "put"}, {"patch", "patch"}, {"delete", "delete"}})
      if (kind.has(verb)) item[method] = operation(kind, kind, verb, method, one);
    out[one] = std::move(item);
    for (const Subresource& sub : kind.subresources) subresource(kind, sub, one + "/" + sub.name, out);
  }

 private:
  void subresource(const KindInfo& kind, const Subresource& sub, const std::string& path, json::object& out) {
    KindInfo body;
    body.group = sub.group;
    body.version = sub.version;
    body.kind = sub.kind;
    const KindInfo* known = kinds().findKind(body.apiVersion(), sub.kind);
    json::object item = parameters(kind.namespaced, true);
    bool connect = !known;
    for (auto [verb, method] :
         {std::pair{"get", "get"}, {"create", "post"}, {"update", "put"}, {"patch", "patch"}, {"delete", "delete"}})
      if (sub.has(verb))
        item[method] = operation(kind, known ? *known : body, connect ? "connect" : verb, method, path);
    out[path] = std::move(item);
  }

  static const Kinds& kinds() { return Kinds::builtin(); }

  json::object parameter(std::string_view name, std::string_view in, std::string_view type,
                         std::string_view doc) const {
    json::object out{{"name", name}, {"in", in}, {"description", doc}};
    if (in == "path") out["required"] = true;
    if (v3_)
      out["schema"] = json::object{{"type", type}, {"uniqueItems", true}};
    else
      out["type"] = type, out["uniqueItems"] = true;
    return out;
  }

  json::object parameters(bool namespaced, bool named) const {
    json::array list;
    if (named) list.push_back(parameter("name", "path", "string", "name of the object"));
    if (namespaced) list.push_back(parameter("namespace", "path", "string", "namespace of the object"));
    list.push_back(parameter("pretty", "query", "string", "print the output with line breaks"));
    return {{"parameters", std::move(list)}};
  }

  json::array queryOf(std::string_view action) const {
    json::array out;
    auto add = [&](std::string_view name, std::string_view type, std::string_view doc) {
      out.push_back(parameter(name, "query", type, doc));
    };
    bool write = action == "post" || action == "create" || action == "update" || action == "patch";
    if (write || action == "delete" || action == "deletecollection")
      add("dryRun", "string", "All: do everything but store the outcome");
    if (write) {
      add("fieldManager", "string", "who makes this change");
      add("fieldValidation", "string", "what to do with unknown or repeated fields: Ignore, Warn or Strict");
    }
    if (action == "patch") add("force", "boolean", "take over fields that others own (apply patches only)");
    if (action == "list" || action == "deletecollection") {
      add("labelSelector", "string", "only objects with these labels");
      add("fieldSelector", "string", "only objects with these field values");
      add("limit", "integer", "at most so many objects");
      add("continue", "string", "token of the list that is continued");
      add("resourceVersion", "string", "the state to read");
      add("resourceVersionMatch", "string", "how resourceVersion is meant");
      add("timeoutSeconds", "integer", "end of the request");
    }
    if (action == "list") {
      add("watch", "boolean", "stream the changes");
      add("allowWatchBookmarks", "boolean", "send bookmark events");
      add("sendInitialEvents", "boolean", "start the watch with the present objects");
    }
    if (action == "delete" || action == "deletecollection") {
      add("gracePeriodSeconds", "integer", "seconds until the object is removed by force");
      add("propagationPolicy", "string", "Orphan, Background or Foreground");
    }
    return out;
  }

  json::object operation(const KindInfo& owner, const KindInfo& body, std::string_view action, std::string_view method,
                         const std::string& path) {
    bool collection = action == "list" || action == "deletecollection";
    std::string bodyName;
    if (body.type) {
      schemas_.need(*body.type);
      bodyName = body.type->openApiName;
    }
    std::string answer = action == "list" ? bodyName + "List" : bodyName;
    if (method == "delete") {
      schemas_.needNamed(kStatus);
      answer = kStatus;
    }
    json::object out{{"tags", json::array{owner.group.empty() ? "core_" + owner.version
                                                              : toLower(owner.group.substr(0, owner.group.find('.'))) +
                                                                    "_" + owner.version}},
                     {"operationId", operationId(action, path)},
                     {"description", fmt::format("{} {}", action, collection ? owner.plural : body.kind)}};
    json::array query = queryOf(action);
    requestBody(out, query, method, action, bodyName);
    if (!query.empty()) out["parameters"] = std::move(query);
    out["responses"] = responses(answer);
    if (!v3_) {
      out["produces"] = json::array{"application/json"};
      out["consumes"] = method == "patch" ? patchTypes() : json::array{"*/*"};
      out["schemes"] = json::array{"https"};
    }
    out["x-kubernetes-action"] = action == "update" ? "put" : action == "create" ? "post" : action;
    out["x-kubernetes-group-version-kind"] = Schemas::gvk(body.group, body.version, body.kind)[0];
    return out;
  }

  static std::string operationId(std::string_view action, const std::string& path) {
    std::string out(action);
    bool upper = true;
    for (char c : path) {
      bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
      if (letter) out += upper && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
      upper = !letter;
    }
    return out;
  }

  static json::array patchTypes() {
    return {"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
            "application/apply-patch+yaml"};
  }

  void requestBody(json::object& out, json::array& query, std::string_view method, std::string_view action,
                   const std::string& bodyName) {
    std::string name = bodyName;
    json::array types{"*/*"};
    if (method == "patch") {
      schemas_.needPatch();
      name = kPatch;
      types = patchTypes();
    } else if (method == "delete") {
      schemas_.needNamed(kDeleteOptions);
      name = kDeleteOptions;
    } else if (method == "get" || action == "connect") {
      return;
    }
    if (name.empty()) return;
    if (!v3_) {
      json::object body{{"name", "body"}, {"in", "body"}, {"schema", schemas_.ref(name)}};
      if (method != "delete") body["required"] = true;
      query.push_back(std::move(body));
      return;
    }
    json::object content;
    for (const json::value& type : types) content[type.get_string()] = json::object{{"schema", schemas_.ref(name)}};
    json::object body{{"content", std::move(content)}};
    if (method != "delete") body["required"] = true;
    out["requestBody"] = std::move(body);
  }

  json::object responses(const std::string& name) const {
    json::object ok{{"description", "OK"}};
    if (!name.empty() && v3_)
      ok["content"] = json::object{{"application/json", json::object{{"schema", schemas_.ref(name)}}}};
    if (!name.empty() && !v3_) ok["schema"] = schemas_.ref(name);
    return {{"200", std::move(ok)}, {"401", json::object{{"description", "Unauthorized"}}}};
  }

  Schemas& schemas_;
  bool v3_;
};

std::string groupPath(std::string_view group, std::string_view version) {
  return group.empty() ? "api/" + std::string(version) : "apis/" + std::string(group) + "/" + std::string(version);
}

json::object openApiV2(const Kinds& kinds) {
  Schemas schemas(kinds, false);
  Paths paths(schemas, false);
  json::object pathItems;
  for (const KindInfo& kind : kinds.all()) {
    schemas.need(*kind.type);
    if (!kind.plural.empty()) paths.add(kind, pathItems);
  }
  return json::object{{"swagger", "2.0"},
                      {"info", json::object{{"title", "Kubernetes"}, {"version", "v1.35.0"}}},
                      {"paths", std::move(pathItems)},
                      {"definitions", schemas.take()}};
}

}  // namespace

std::optional<std::string> openApiV3Document(const Kinds& kinds, std::string_view group, std::string_view version) {
  Schemas schemas(kinds, true);
  Paths paths(schemas, true);
  json::object pathItems;
  bool known = false;
  for (const KindInfo& kind : kinds.all()) {
    if (kind.group != group || kind.version != version) continue;
    if (kind.type->name.starts_with("meta.")) continue;
    known = true;
    schemas.need(*kind.type);
    if (!kind.plural.empty()) paths.add(kind, pathItems);
  }
  if (!known) return std::nullopt;
  return json::serialize(json::object{{"openapi", "3.0.0"},
                                      {"info", json::object{{"title", "Kubernetes"}, {"version", "v1.35.0"}}},
                                      {"paths", std::move(pathItems)},
                                      {"components", json::object{{"schemas", schemas.take()}}}});
}

std::string openApiV3Index(const Kinds& kinds) {
  std::set<std::pair<std::string, std::string>> versions;
  for (const KindInfo& kind : kinds.all()) versions.insert({kind.group, kind.version});
  json::object paths;
  for (const auto& [group, version] : versions) {
    auto document = openApiV3Document(kinds, group, version);
    if (!document) continue;
    std::string path = groupPath(group, version);
    paths[path] = json::object{
        {"serverRelativeURL", "/openapi/v3/" + path + "?hash=" + toLower(sha256Hex(*document)).substr(0, 40)}};
  }
  return json::serialize(json::object{{"paths", std::move(paths)}});
}

std::string openApiV2Document(const Kinds& kinds) {
  return json::serialize(openApiV2(kinds));
}

std::string openApiV2ProtobufDocument(const Kinds& kinds) {
  return openApiV2Protobuf(openApiV2(kinds));
}

}  // namespace dhow::object
