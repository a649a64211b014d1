// The content of api/, read and checked.
#pragma once

#include <boost/json/object.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace dhow::apigen {

namespace json = boost::json;

struct Field {
  std::string name;
  std::string type;  // with full names: "[]core.v1.Container"
  json::object facts;
};

struct Type {
  std::string package;  // "core"
  std::string version;
  std::string name;
  bool isKind = false;
  json::object facts;
  std::vector<Field> fields;
  std::string fullName() const { return package + "." + version + "." + name; }
};

struct Kind {
  std::string package, group, version, name;
  json::object facts;
};

struct Model {
  std::map<std::string, Type> types;  // by full name
  std::vector<Kind> kinds;
};

Result<Model> readModel(const std::filesystem::path& folder);

// "[]map[]core.v1.X" -> "core.v1.X".
std::string leafOf(std::string_view type);
bool isBuiltin(std::string_view type);

}  // namespace dhow::apigen
