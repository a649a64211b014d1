#include "model.h"
#include "base/yaml.h"

#include <fstream>
#include <set>
#include <sstream>

#include <boost/json/serialize.hpp>

namespace dhow::apigen {
namespace {

namespace fs = std::filesystem;

std::string stringOf(const json::object& object, std::string_view key) {
  const json::value* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

Result<json::object> readFile(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  auto parsed = parseYaml(text.str());
  if (!parsed.ok()) return parsed.error().wrap(path.string());
  if (!parsed->is_object()) return Error(Code::kInvalid, path.string() + ": not a mapping");
  return std::move(parsed->get_object());
}

std::string qualify(std::string type, const std::string& package, const std::string& version) {
  std::string prefix;
  while (type.starts_with("[]") || type.starts_with("map[]")) {
    size_t length = type[0] == '[' ? 2 : 5;
    prefix += type.substr(0, length);
    type = type.substr(length);
  }
  if (!isBuiltin(type) && type.find('.') == std::string::npos) type = package + "." + version + "." + type;
  return prefix + type;
}

Result<Type> readType(const std::string& package, const std::string& version, std::string name,
                      const json::value& value) {
  Type type;
  type.package = package;
  type.version = version;
  type.name = std::move(name);
  if (!value.is_object()) return Error(Code::kInvalid, type.name + ": not a mapping");
  type.facts = value.get_object();
  const json::value* fields = type.facts.if_contains("fields");
  if (!fields || !fields->is_object()) return Error(Code::kInvalid, type.name + ": fields are missing");
  std::set<std::string> numbers;
  for (const auto& member : fields->get_object()) {
    Field field;
    field.name = member.key();
    std::string where = type.name + "." + field.name;
    if (!member.value().is_object()) return Error(Code::kInvalid, where + ": not a mapping");
    field.facts = member.value().get_object();
    std::string text = stringOf(field.facts, "type");
    if (text.empty()) return Error(Code::kInvalid, where + ": type is missing");
    field.type = qualify(text, package, version);
    const json::value* id = field.facts.if_contains("id");
    if (!id || !(id->is_int64() || id->is_string())) return Error(Code::kInvalid, where + ": id is missing");
    if (!numbers.insert(json::serialize(*id)).second) return Error(Code::kInvalid, where + ": id is used twice");
    type.fields.push_back(std::move(field));
  }
  type.facts.erase("fields");
  return type;
}

Result<> readFolder(Model& model, const fs::path& folder, const std::string& package, const std::string& version) {
  ASSIGN_OR_RETURN(json::object group, readFile(folder / "group.yaml"));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".yaml" && entry.path().filename() != "group.yaml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& path : files) {
    ASSIGN_OR_RETURN(json::object file, readFile(path));
    std::string kindName = stringOf(file, "kind");
    const json::value* types = file.if_contains("types");
    if (!types || !types->is_object()) return Error(Code::kInvalid, path.string() + ": types are missing");
    for (const auto& member : types->get_object()) {
      auto type = readType(package, version, std::string(member.key()), member.value());
      if (!type.ok()) return type.error().wrap(path.string());
      type->isKind = type->name == kindName;
      std::string name = type->fullName();
      if (!model.types.emplace(name, std::move(*type)).second)
        return Error(Code::kInvalid, path.string() + ": " + name + " is defined twice");
    }
    if (kindName.empty()) continue;
    file.erase("types");
    model.kinds.push_back({package, stringOf(group, "group"), version, kindName, std::move(file)});
  }
  return {};
}

}  // namespace

bool isBuiltin(std::string_view type) {
  static const std::set<std::string_view> kBuiltin = {"string",   "int32", "int64",     "bool",     "double",
                                                      "bytes",    "time",  "microTime", "quantity", "intOrString",
                                                      "fieldsV1", "raw",   "any"};
  return kBuiltin.contains(type);
}

std::string leafOf(std::string_view type) {
  while (type.starts_with("[]") || type.starts_with("map[]")) type.remove_prefix(type[0] == '[' ? 2 : 5);
  return std::string(type);
}

Result<Model> readModel(const fs::path& folder) {
  Model model;
  std::vector<std::pair<fs::path, std::pair<std::string, std::string>>> folders;
  for (const auto& package : fs::directory_iterator(folder)) {
    if (!package.is_directory()) continue;
    for (const auto& version : fs::directory_iterator(package.path()))
      if (version.is_directory())
        folders.push_back({version.path(), {package.path().filename().string(), version.path().filename().string()}});
  }
  std::sort(folders.begin(), folders.end());
  for (const auto& [path, names] : folders) RETURN_IF_ERROR(readFolder(model, path, names.first, names.second));
  for (const auto& [name, type] : model.types)
    for (const Field& field : type.fields) {
      std::string leaf = leafOf(field.type);
      if (!isBuiltin(leaf) && !model.types.contains(leaf)) {
        return Error(Code::kInvalid, name + "." + field.name + ": unknown type " + leaf);
      }
    }
  for (const Kind& kind : model.kinds)
    if (!model.types.contains(kind.package + "." + kind.version + "." + kind.name)) {
      return Error(Code::kInvalid, "kind " + kind.name + " has no type of its name");
    }
  return model;
}

}  // namespace dhow::apigen
