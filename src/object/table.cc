#include "object/table.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "base/check.h"
#include "base/strings.h"
#include "columns.h"

namespace dhow::object {
namespace {

namespace json = boost::json;

// ".status.phase" -> the value, or null.
const json::value* follow(const json::object& root, std::string_view path) {
  const json::object* current = &root;
  const json::value* value = nullptr;
  for (const std::string& step : split(path.substr(path.starts_with('.') ? 1 : 0), '.')) {
    value = current ? current->if_contains(step) : nullptr;
    if (!value || value->is_null()) return nullptr;
    current = value->if_object();
  }
  return value;
}

json::value missingCell(const Column& column) {
  if (column.type == "integer" || column.missing == "0") return parseInt(column.missing).value_or(0);
  return json::value(column.missing);
}

json::value cell(const Column& column, columns::Function function, const Object& object, const TableOptions& options) {
  if (column.function == columns::kPodSessions && options.podSessions) return json::value(options.podSessions(object));
  if (function) return function(object, options.now);
  const json::value* value = follow(object.root(), column.path);
  if (!value || (value->is_string() && value->get_string().empty())) return missingCell(column);
  return *value;
}

// A kind without columns of its own shows its name and age of creation.
std::vector<Column> columnsOf(const KindInfo& kind) {
  if (!kind.columns.empty()) return kind.columns;
  Column name, created;
  name.name = "Name", name.format = "name", name.path = ".metadata.name";
  created.name = "Created At", created.format = "date-time", created.path = ".metadata.creationTimestamp";
  return {name, created};
}

std::string header(const std::vector<Column>& columns) {
  json::array out;
  for (const Column& column : columns) {
    out.push_back(json::object{{"name", column.name},
                               {"type", column.type},
                               {"format", column.format},
                               {"description", ""},
                               {"priority", column.priority}});
  }
  return json::serialize(out);
}

}  // namespace

std::string renderMetadata(const Object& object) {
  return R"({"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":)" +
         json::serialize(object.metadata()) + "}";
}

std::string renderTable(const KindInfo& kind, std::span<const ObjectPtr> objects, const TableOptions& options) {
  std::vector<Column> columns = columnsOf(kind);
  std::vector<columns::Function> functions;
  for (const Column& column : columns) {
    functions.push_back(column.function.empty() ? nullptr : columns::find(column.function));
    CHECK(column.function.empty() || functions.back(), "api/ names an unknown column function {}", column.function);
  }
  json::object metadata{{"resourceVersion", options.resourceVersion}};
  if (!options.continueToken.empty()) metadata["continue"] = options.continueToken;
  if (options.remaining) metadata["remainingItemCount"] = *options.remaining;
  std::string out = R"({"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":)" + json::serialize(metadata) +
                    R"(,"columnDefinitions":)" + (options.header ? header(columns) : "[]") + R"(,"rows":[)";
  bool first = true;
  for (const ObjectPtr& object : objects) {
    json::array cells;
    for (size_t i = 0; i < columns.size(); ++i) cells.push_back(cell(columns[i], functions[i], *object, options));
    if (!first) out += ',';
    first = false;
    out += R"({"cells":)" + json::serialize(cells);
    if (options.include == IncludeObject::kObject)
      out += R"(,"object":)" + object->bytes();
    else if (options.include == IncludeObject::kMetadata)
      out += R"(,"object":)" + renderMetadata(*object);
    out += '}';
  }
  return out + "]}";
}

std::string humanDuration(std::chrono::nanoseconds duration) {
  int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(duration).count();
  if (seconds < -1) return "<invalid>";
  if (seconds < 0) return "0s";
  auto two = [](int64_t big, char bigUnit, int64_t small, char smallUnit) {
    return small == 0 ? fmt::format("{}{}", big, bigUnit) : fmt::format("{}{}{}{}", big, bigUnit, small, smallUnit);
  };
  if (seconds < 120) return fmt::format("{}s", seconds);
  int64_t minutes = seconds / 60;
  if (minutes < 10) return two(minutes, 'm', seconds % 60, 's');
  if (minutes < 180) return fmt::format("{}m", minutes);
  int64_t hours = minutes / 60;
  if (hours < 8) return two(hours, 'h', minutes % 60, 'm');
  if (hours < 48) return fmt::format("{}h", hours);
  int64_t days = hours / 24;
  if (hours < 24 * 8) return two(days, 'd', hours % 24, 'h');
  if (days < 365 * 2) return fmt::format("{}d", days);
  if (days < 365 * 8) return two(days / 365, 'y', days % 365, 'd');
  return fmt::format("{}y", days / 365);
}

}  // namespace dhow::object
