#include "emit.h"

#include <cctype>
#include <functional>
#include <set>

namespace dhow::apigen {
namespace {

const std::set<std::string_view> kKeywords = {"namespace", "operator",  "template", "continue", "default", "export",
                                              "static",    "protected", "private",  "public",   "class",   "delete",
                                              "new",       "this",      "raw",      "has",      "present"};

std::string capital(std::string text) {
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

class Views {
 public:
  explicit Views(const Model& model) : model_(model) {
    // The shared packages name their types first; who comes later with the same name gets a namespace of its own.
    for (const char* package : {"meta", "core"}) claim(package);
    for (const auto& [name, type] : model.types) claim(type.package);
  }

  std::map<std::string, std::string> emit() {
    std::map<std::string, std::string> files;
    std::string all = "// All typed views. Generated from api/.\n#pragma once\n\n";
    for (const std::string& package : packages()) {
      files["object/views/" + package + ".h"] = header(package);
      all += "#include \"object/views/" + package + ".h\"  // IWYU pragma: export\n";
    }
    files["object/views.h"] = all;
    files["object/resource_names.h"] = resources();
    return files;
  }

 private:
  void claim(const std::string& package) {
    if (!claimed_.insert(package).second) return;
    for (const auto& [name, type] : model_.types) {
      if (type.package != package) continue;
      bool fresh = owner_.emplace(type.name, package).second;
      cpp_[name] = fresh ? type.name : package + "::" + type.name;
    }
  }

  std::vector<std::string> packages() const {
    std::set<std::string> names;
    for (const auto& [name, type] : model_.types) names.insert(type.package);
    return {names.begin(), names.end()};
  }

  std::string header(const std::string& package) {
    std::set<std::string> includes;
    std::vector<const Type*> order;
    std::set<std::string> done;
    std::function<void(const Type&)> visit = [&](const Type& type) {
      if (!done.insert(type.fullName()).second) return;
      for (const Field& field : type.fields) {
        auto it = model_.types.find(leafOf(field.type));
        if (it == model_.types.end()) continue;
        if (it->second.package != package)
          includes.insert(it->second.package);
        else
          visit(it->second);
      }
      order.push_back(&type);
    };
    for (const auto& [name, type] : model_.types)
      if (type.package == package) visit(type);
    std::string out = "// Typed views of api/" + package + ". Generated.\n#pragma once\n\n#include \"object/view.h\"\n";
    for (const std::string& include : includes) out += "#include \"object/views/" + include + ".h\"\n";
    out += "\nnamespace dhow::api {\n\n";
    for (const Type* type : order) {
      bool nested = cpp_[type->fullName()].find("::") != std::string::npos;
      if (nested) out += "namespace " + package + " {\n";
      out += classOf(*type);
      if (nested) out += "}  // namespace " + package + "\n";
      out += "\n";
    }
    return out + "}  // namespace dhow::api\n";
  }

  std::string classOf(const Type& type) {
    std::string out;
    if (const json::value* doc = type.facts.if_contains("doc")) out += "// " + std::string(doc->get_string()) + "\n";
    out += "class " + type.name + " : public View {\n public:\n  using View::View;\n";
    if (type.isKind) {
      out += "  std::string_view apiVersion() const { return view::string(object_, \"apiVersion\"); }\n";
      out += "  std::string_view kind() const { return view::string(object_, \"kind\"); }\n";
    }
    for (const Field& field : type.fields) {
      if (type.isKind && (field.name == "kind" || field.name == "apiVersion")) continue;
      if (field.name[0] == '$') continue;
      out += accessor(field);
    }
    return out + "};\n";
  }

  std::string elementType(const std::string& type) {
    if (type == "string" || type == "bytes" || type == "time" || type == "microTime") return "std::string_view";
    if (type == "int32" || type == "int64") return "int64_t";
    if (type == "quantity") return "dhow::object::Quantity";
    auto it = cpp_.find(type);
    return it == cpp_.end() ? "const json::value*" : "api::" + it->second;
  }

  std::string accessor(const Field& field) {
    std::string name = kKeywords.contains(field.name) ? field.name + "_" : field.name;
    const std::string args = "(object_, \"" + field.name + "\")";
    std::string type, body;
    const std::string& t = field.type;
    if (t.starts_with("[]")) {
      type = "ListView<" + elementType(t.substr(2)) + ">";
      body = type + "(view::array" + args + ")";
    } else if (t.starts_with("map[]")) {
      type = "MapView<" + elementType(t.substr(5)) + ">";
      body = type + "(view::object" + args + ")";
    } else if (t == "string") {
      type = "std::string_view", body = "view::string" + args;
    } else if (t == "int32" || t == "int64") {
      type = "int64_t", body = "view::integer" + args;
    } else if (t == "bool") {
      type = "bool", body = "view::boolean" + args;
    } else if (t == "double") {
      type = "double", body = "view::real" + args;
    } else if (t == "bytes") {
      type = "std::string", body = "view::bytes" + args;
    } else if (t == "time" || t == "microTime") {
      type = "std::optional<WallTime>", body = "view::time" + args;
    } else if (t == "quantity") {
      type = "dhow::object::Quantity", body = "dhow::object::Quantity::from(view::at" + args + ")";
    } else if (t == "intOrString") {
      type = "dhow::object::IntOrString", body = "dhow::object::IntOrString(view::at" + args + ")";
    } else if (isBuiltin(t)) {
      type = "const json::value*", body = "view::at" + args;
    } else {
      type = "api::" + cpp_[t], body = type + "(view::object" + args + ")";
    }
    return "  " + type + " " + name + "() const { return " + body + "; }\n  bool has" + capital(field.name) +
           "() const { return has(\"" + field.name + "\"); }\n";
  }

  std::string resources() {
    std::string out =
        "// The built-in resources by name. Generated from api/.\n#pragma once\n\n#include \"object/resource.h\"\n\n"
        "namespace dhow::object::resources {\n";
    std::set<std::string> used;
    for (const Kind& kind : model_.kinds) {
      const json::value* plural = kind.facts.if_contains("plural");
      if (!plural) continue;
      std::string name(plural->get_string());
      std::string lower = kind.name;
      for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      size_t common = 0;
      while (common < lower.size() && common < name.size() && lower[common] == name[common]) ++common;
      std::string id = "k" + kind.name.substr(0, common) + name.substr(common);
      if (!used.insert(id).second) id = "k" + capital(kind.package) + id.substr(1), used.insert(id);
      const json::value* scope = kind.facts.if_contains("scope");
      bool namespaced = !scope || scope->get_string() != "Cluster";
      out += "inline const Resource " + id + "{\"" + kind.group + "\", \"" + kind.version + "\", \"" + name + "\", " +
             (namespaced ? "true" : "false") + "};\n";
    }
    return out + "}  // namespace dhow::object::resources\n";
  }

  const Model& model_;
  std::set<std::string> claimed_;
  std::map<std::string, std::string> owner_;
  std::map<std::string, std::string> cpp_;  // full name -> name within dhow::api
};

}  // namespace

std::map<std::string, std::string> emitViews(const Model& model) {
  return Views(model).emit();
}

}  // namespace dhow::apigen
