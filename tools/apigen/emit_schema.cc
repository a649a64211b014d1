#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "emit.h"

namespace dhow::apigen {

// {"kinds": [{group, version, package, kind, ...facts}], "types": {"core.v1.Pod": {...facts, "fields": [[name, type,
// facts]]}}}
std::string emitSchema(const Model& model) {
  json::array kinds;
  for (const Kind& kind : model.kinds) {
    json::object out = kind.facts;
    out["kind"] = kind.name;
    out["group"] = kind.group;
    out["version"] = kind.version;
    out["package"] = kind.package;
    kinds.push_back(std::move(out));
  }
  json::object types;
  for (const auto& [name, type] : model.types) {
    json::object out = type.facts;
    json::array fields;
    for (const Field& field : type.fields) {
      json::object facts = field.facts;
      facts.erase("type");
      fields.push_back(json::array{field.name, field.type, std::move(facts)});
    }
    out["fields"] = std::move(fields);
    types[name] = std::move(out);
  }
  std::string text = json::serialize(json::object{{"kinds", std::move(kinds)}, {"types", std::move(types)}});
  std::string out =
      "// The schema of all built-in kinds. Generated from api/.\n#include <string_view>\n\nnamespace dhow::object {\n"
      "extern const std::string_view kSchemaText;\nconst std::string_view kSchemaText =";
  constexpr size_t kChunk = 8000;
  for (size_t i = 0; i < text.size(); i += kChunk) out += "\n    R\"~~~(" + text.substr(i, kChunk) + ")~~~\"";
  return out + ";\n}  // namespace dhow::object\n";
}

}  // namespace dhow::apigen
