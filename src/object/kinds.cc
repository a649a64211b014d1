#include "object/kinds.h"

#include <boost/json/parse.hpp>

#include "base/check.h"
#include "base/strings.h"

namespace dhow::object {

extern const std::string_view kSchemaText;

namespace {

namespace json = boost::json;

std::string text(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  if (!value) return {};
  if (value->is_string()) return std::string(value->get_string());
  if (value->is_int64()) return std::to_string(value->get_int64());
  return {};
}

bool flag(const json::object& object, std::string_view key, bool fallback = false) {
  const json::value* value = object.if_contains(key);
  return value && value->is_bool() ? value->get_bool() : fallback;
}

std::vector<std::string> texts(const json::object& object, std::string_view key) {
  std::vector<std::string> out;
  const json::value* value = object.if_contains(key);
  if (!value || !value->is_array()) return out;
  for (const json::value& item : value->get_array())
    if (item.is_string()) out.emplace_back(item.get_string());
  return out;
}

Base baseOf(std::string_view name) {
  constexpr std::pair<std::string_view, Base> kNames[] = {{"string", Base::kString},
                                                          {"int32", Base::kInt32},
                                                          {"int64", Base::kInt64},
                                                          {"bool", Base::kBool},
                                                          {"double", Base::kDouble},
                                                          {"bytes", Base::kBytes},
                                                          {"time", Base::kTime},
                                                          {"microTime", Base::kMicroTime},
                                                          {"quantity", Base::kQuantity},
                                                          {"intOrString", Base::kIntOrString},
                                                          {"fieldsV1", Base::kFieldsV1},
                                                          {"raw", Base::kRaw},
                                                          {"any", Base::kAny}};
  for (const auto& [text, base] : kNames)
    if (text == name) return base;
  return Base::kObject;
}

std::string openApiName(const std::string& name) {
  std::string_view prefix = name.starts_with("meta.")            ? "io.k8s.apimachinery.pkg.apis."
                            : name.starts_with("apiextensions.") ? "io.k8s.apiextensions-apiserver.pkg.apis."
                                                                 : "io.k8s.api.";
  return std::string(prefix) + name;
}

bool contains(const std::vector<std::string>& list, std::string_view item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

}  // namespace

class SchemaLoader {
 public:
  explicit SchemaLoader(Kinds& kinds) : kinds_(kinds) {}

  void load(const json::object& root) {
    const json::object& types = root.at("types").get_object();
    for (const auto& member : types) {
      Type& type = kinds_.types_[std::string(member.key())];
      type.name = member.key();
      type.shortName = type.name.substr(type.name.rfind('.') + 1);
      type.openApiName = openApiName(type.name);
    }
    for (const auto& member : types)
      fill(kinds_.types_.find(std::string_view(member.key()))->second, member.value().get_object());
    for (const json::value& kind : root.at("kinds").get_array()) addKind(kind.get_object());
  }

 private:
  void fill(Type& type, const json::object& facts) {
    type.doc = text(facts, "doc");
    type.atomic = flag(facts, "atomic");
    type.rules = texts(facts, "rules");
    type.defaults = texts(facts, "defaults");
    const json::array& fields = facts.at("fields").get_array();
    type.fields.reserve(fields.size());
    for (const json::value& value : fields) {
      const json::array& parts = value.get_array();
      type.fields.push_back(
          makeField(std::string(parts[0].get_string()), parts[1].get_string(), parts[2].get_object()));
    }
  }

  Shape shapeOf(std::string_view name) {
    Shape shape;
    bool list = name.starts_with("[]");
    if (list || name.starts_with("map[]")) {
      shape.base = list ? Base::kList : Base::kMap;
      Shape element = shapeOf(name.substr(list ? 2 : 5));
      kinds_.shapes_.push_back(element);
      shape.element = &kinds_.shapes_.back();
      return shape;
    }
    shape.base = baseOf(name);
    if (shape.base == Base::kObject) {
      shape.type = kinds_.type(name);
      CHECK(shape.type, "schema names unknown type {}", name);
    }
    return shape;
  }

  Field makeField(std::string name, std::string_view typeName, const json::object& facts) {
    Field field;
    field.name = std::move(name);
    field.shape = shapeOf(typeName);
    const json::value& id = facts.at("id");
    if (id.is_string()) {
      // "1/25": field 25 of the message in field 1.
      auto parts = splitOnce(id.get_string(), '/');
      CHECK(parts, "field {} has a bad id", field.name);
      field.number = static_cast<uint16_t>(parseUint(parts->first).value_or(0));
      field.innerNumber = static_cast<uint16_t>(parseUint(parts->second).value_or(0));
    } else {
      field.number = static_cast<uint16_t>(id.get_int64());
    }
    field.required = facts.contains("required");
    field.enforced = flag(facts, "required");
    field.pointer = flag(facts, "pointer");
    field.atomic = flag(facts, "atomic");
    field.keys = texts(facts, "keys");
    if (!field.keys.empty()) field.list = ListKind::kMap;
    if (text(facts, "list") == "set") field.list = ListKind::kSet;
    std::string patch = text(facts, "patch");
    field.patchMerge = patch.starts_with("merge");
    field.patchRetainKeys = patch.ends_with("retainKeys");
    field.mergeKey = text(facts, "mergeKey");
    field.doc = text(facts, "doc");
    addRules(field, facts);
    return field;
  }

  void addRules(Field& field, const json::object& facts) {
    constexpr std::string_view kRuleKeys[] = {"default", "defaultFrom", "enum", "format", "min", "max", "immutable"};
    if (std::none_of(std::begin(kRuleKeys), std::end(kRuleKeys),
                     [&](std::string_view key) { return facts.contains(key); }))
      return;
    field.rules = std::make_unique<FieldRules>();
    FieldRules& rules = *field.rules;
    if (const json::value* value = facts.if_contains("default")) rules.fallback = *value;
    if (const json::value* when = facts.if_contains("when"))
      for (const auto& member : when->get_object()) {
        std::vector<std::string> values;
        for (const json::value& value : member.value().get_array()) values.emplace_back(value.get_string());
        rules.when.emplace_back(member.key(), std::move(values));
      }
    rules.defaultFrom = text(facts, "defaultFrom");
    rules.enums = texts(facts, "enum");
    rules.format = text(facts, "format");
    if (const json::value* value = facts.if_contains("min")) rules.min = value->get_int64();
    if (const json::value* value = facts.if_contains("max")) rules.max = value->get_int64();
    rules.immutable = flag(facts, "immutable");
  }

  void addKind(const json::object& facts) {
    KindInfo kind;
    kind.group = text(facts, "group");
    kind.version = text(facts, "version");
    kind.kind = text(facts, "kind");
    kind.plural = text(facts, "plural");
    kind.singular = text(facts, "singular");
    kind.shortNames = texts(facts, "shortNames");
    kind.categories = texts(facts, "categories");
    kind.verbs = texts(facts, "verbs");
    kind.namespaced = text(facts, "scope") != "Cluster";
    kind.stored = flag(facts, "stored", true);
    kind.nameFormat = text(facts, "name");
    if (kind.nameFormat.empty()) kind.nameFormat = "dns1123Subdomain";
    if (const json::value* as = facts.if_contains("storedAs")) {
      kind.storedAsKind = text(as->get_object(), "kind");
      const std::string group = text(as->get_object(), "group");
      kind.storedAsApiVersion = (group.empty() ? "" : group + "/") + text(as->get_object(), "version");
      kind.convert = text(as->get_object(), "convert");
    }
    if (const json::value* subs = facts.if_contains("subresources"))
      for (const auto& member : subs->get_object())
        kind.subresources.push_back(subresource(kind, member.key(), member.value().get_object()));
    if (const json::value* columns = facts.if_contains("columns"))
      for (const json::value& value : columns->get_array()) kind.columns.push_back(column(value.get_object()));
    for (const std::string& entry : texts(facts, "fieldSelectors")) {
      auto parts = splitOnce(entry, '=');
      if (parts)
        kind.selectable.push_back({std::string(parts->first), split(parts->second, '|')});
      else
        kind.selectable.push_back({entry, {entry}});
    }
    std::string typeName = text(facts, "package") + "." + kind.version + "." + kind.kind;
    Type& type = kinds_.types_.find(typeName)->second;
    type.isKind = true;
    kind.type = &type;
    kinds_.kinds_.push_back(std::move(kind));
  }

  static Subresource subresource(const KindInfo& parent, std::string_view name, const json::object& facts) {
    Subresource out;
    out.name = name;
    out.kind = text(facts, "kind");
    out.group = facts.contains("group") ? text(facts, "group") : parent.group;
    out.version = facts.contains("version") ? text(facts, "version") : parent.version;
    if (out.kind.empty()) out.kind = parent.kind;
    out.verbs = texts(facts, "verbs");
    out.specReplicas = text(facts, "specReplicas");
    out.statusReplicas = text(facts, "statusReplicas");
    out.selector = text(facts, "selector");
    return out;
  }

  static Column column(const json::object& facts) {
    Column out;
    out.name = text(facts, "name");
    if (facts.contains("type")) out.type = text(facts, "type");
    out.format = text(facts, "format");
    if (const json::value* value = facts.if_contains("priority")) out.priority = static_cast<int>(value->get_int64());
    out.path = text(facts, "path");
    out.missing = text(facts, "missing");
    out.function = text(facts, "function");
    return out;
  }

  Kinds& kinds_;
};

const Field* Type::field(std::string_view fieldName) const {
  for (const Field& field : fields)
    if (field.name == fieldName) return &field;
  return nullptr;
}

std::string goTypeName(const Shape& shape) {
  switch (shape.base) {
    case Base::kString:
    case Base::kFieldsV1:
    case Base::kRaw:
    case Base::kAny: return "string";
    case Base::kInt32: return "int32";
    case Base::kInt64: return "int64";
    case Base::kBool: return "bool";
    case Base::kDouble: return "float64";
    case Base::kBytes: return "[]uint8";
    case Base::kTime: return "v1.Time";
    case Base::kMicroTime: return "v1.MicroTime";
    case Base::kQuantity: return "resource.Quantity";
    case Base::kIntOrString: return "intstr.IntOrString";
    case Base::kObject: return "v1." + shape.type->shortName;
    case Base::kList: return "[]" + goTypeName(*shape.element);
    case Base::kMap: return "map[string]" + goTypeName(*shape.element);
  }
  return "";
}

bool Subresource::has(std::string_view verb) const {
  return contains(verbs, verb);
}
bool KindInfo::has(std::string_view verb) const {
  return contains(verbs, verb);
}

const Subresource* KindInfo::subresource(std::string_view name) const {
  for (const Subresource& sub : subresources)
    if (sub.name == name) return &sub;
  return nullptr;
}

Kinds::Kinds() {
  json::parse_options options;
  options.max_depth = 64;
  boost::system::error_code ec;
  json::value root = json::parse(kSchemaText, ec, {}, options);
  CHECK(!ec, "embedded schema: {}", ec.message());
  SchemaLoader(*this).load(root.get_object());
}

Kinds::~Kinds() = default;

const Kinds& Kinds::builtin() {
  static const Kinds kinds;
  return kinds;
}

const KindInfo* Kinds::find(std::string_view group, std::string_view version, std::string_view plural) const {
  if (plural.empty()) return nullptr;
  for (const KindInfo& kind : kinds_)
    if (kind.plural == plural && kind.group == group && kind.version == version) return &kind;
  return nullptr;
}

const KindInfo* Kinds::findKind(std::string_view apiVersion, std::string_view kind) const {
  auto parts = splitOnce(apiVersion, '/');
  std::string_view group = parts ? parts->first : "";
  std::string_view version = parts ? parts->second : apiVersion;
  for (const KindInfo& info : kinds_)
    if (info.kind == kind && info.version == version && info.group == group) return &info;
  return nullptr;
}

const Type* Kinds::type(std::string_view name) const {
  auto it = types_.find(name);
  return it == types_.end() ? nullptr : &it->second;
}

}  // namespace dhow::object
