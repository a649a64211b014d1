#include "platform/contexts.h"

#include <unistd.h>

#include <boost/json/serialize.hpp>

#include <cerrno>

#include "base/fd.h"
#include "base/files.h"
#include "base/yaml.h"

namespace dhow::platform {

namespace json = boost::json;

namespace {

constexpr std::string_view kLists[] = {"clusters", "users", "contexts"};
constexpr std::string_view kInner[] = {"cluster", "user", "context"};
// The entries of ours carry an extension of this name, which kubectl keeps.
constexpr std::string_view kMark = "dhow.io/cluster";

Result<UniqueFd> lockContexts() {
  RETURN_IF_ERROR(makeDirs(kRunDir, 0711));
  return lockFile(std::string(kRunDir) + "/contexts.lock", true);
}

Result<json::object> readConfig(const std::string& path) {
  ASSIGN_OR_RETURN(auto text, readFile(path, 16 << 20));
  auto parsed = parseYaml(text);
  if (!parsed.ok()) return std::move(parsed).error().wrap("read " + path);
  if (parsed->is_null()) return json::object();
  if (!parsed->is_object()) return Error(Code::kDataLoss, "read " + path + ": not a kubeconfig");
  return std::move(parsed->get_object());
}

json::array& listIn(json::object& config, std::string_view name) {
  auto& list = config[name];
  if (!list.is_array()) list = json::array();
  return list.get_array();
}

std::string nameOf(const json::value& entry) {
  const auto* name = entry.is_object() ? entry.get_object().if_contains("name") : nullptr;
  return name && name->is_string() ? std::string(name->get_string()) : std::string();
}

json::object* innerOf(json::value& entry, std::string_view inner) {
  auto* found = entry.is_object() ? entry.get_object().if_contains(inner) : nullptr;
  return found ? found->if_object() : nullptr;
}

bool isOurs(json::value& entry, std::string_view inner, const std::string& root) {
  auto* body = innerOf(entry, inner);
  auto* extensions = body ? body->if_contains("extensions") : nullptr;
  if (!extensions || !extensions->is_array()) return false;
  for (const auto& one : extensions->get_array()) {
    if (nameOf(one) != kMark) continue;
    const auto* extension = one.get_object().if_contains("extension");
    const auto* object = extension ? extension->if_object() : nullptr;
    const auto* where = object ? object->if_contains("root") : nullptr;
    if (where && where->is_string() && where->get_string() == root) return true;
  }
  return false;
}

void mark(json::value& entry, std::string_view inner, const std::string& root) {
  auto* body = innerOf(entry, inner);
  if (!body) return;
  json::array extensions;
  extensions.push_back(json::object{{"name", kMark}, {"extension", json::object{{"root", root}}}});
  (*body)["extensions"] = std::move(extensions);
}

bool hasContext(json::object& config, std::string_view name) {
  for (const auto& entry : listIn(config, "contexts")) {
    if (nameOf(entry) == name) return true;
  }
  return false;
}

// Takes out what is ours; whether there was anything.
bool takeOut(json::object& config, const std::string& root) {
  bool found = false;
  for (size_t i = 0; i < std::size(kLists); ++i) {
    json::array kept;
    for (auto& entry : listIn(config, kLists[i])) {
      if (isOurs(entry, kInner[i], root))
        found = true;
      else
        kept.push_back(std::move(entry));
    }
    config[kLists[i]] = std::move(kept);
  }
  return found;
}

Result<> save(const std::string& path, const json::object& config) {
  return writeFileDurably(path, json::serialize(config) + "\n", 0600);
}

}  // namespace

std::string sharedKubeconfig(const std::string& dataDir) {
  return dataDir + "/kubeconfig";
}

namespace {

Result<> putContext(const ClusterConfig& config, bool evenNew) {
  ASSIGN_OR_RETURN(auto lock, lockContexts());
  const auto paths = config.paths();
  const auto path = sharedKubeconfig(paths.data);
  ASSIGN_OR_RETURN(auto own, readConfig(paths.kubeconfig()));
  json::object whole{{"apiVersion", "v1"}, {"kind", "Config"}};
  if (pathExists(path)) {
    ASSIGN_OR_RETURN(whole, readConfig(path));
  }
  const bool known = takeOut(whole, paths.root);
  if (!known && !evenNew) return {};
  for (std::string_view list : kLists) {
    for (const auto& wanted : listIn(own, list)) {
      for (const auto& entry : listIn(whole, list)) {
        if (nameOf(entry) == nameOf(wanted))
          return Error(Code::kAlreadyExists,
                       fmt::format("{} has an entry \"{}\" among its {} that is not of this cluster; rename it, and "
                                   "`dhow up` adds the cluster's",
                                   path, nameOf(wanted), list));
      }
    }
  }
  for (size_t i = 0; i < std::size(kLists); ++i) {
    for (auto& entry : listIn(own, kLists[i])) {
      mark(entry, kInner[i], paths.root);
      listIn(whole, kLists[i]).push_back(std::move(entry));
    }
  }
  auto& current = whole["current-context"];
  if (!known || !current.is_string() || !hasContext(whole, current.get_string())) current = config.request.name;
  return save(path, whole);
}

}  // namespace

Result<> addContext(const ClusterConfig& config) {
  return putContext(config, true);
}

Result<> refreshContext(const ClusterConfig& config) {
  return putContext(config, false);
}

Result<> removeContext(const ClusterPaths& paths) {
  ASSIGN_OR_RETURN(auto lock, lockContexts());
  const auto path = sharedKubeconfig(paths.data);
  if (!pathExists(path)) return {};
  ASSIGN_OR_RETURN(auto whole, readConfig(path));
  if (!takeOut(whole, paths.root)) return {};
  const auto* current = whole.if_contains("current-context");
  // No other becomes the current one by itself: what is typed next would reach another cluster than was meant.
  if (current && current->is_string() && !hasContext(whole, current->get_string())) whole["current-context"] = "";
  bool empty = true;
  for (std::string_view list : kLists) empty = empty && listIn(whole, list).empty();
  if (!empty) return save(path, whole);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return Error::fromErrno("remove " + path);
  return {};
}

}  // namespace dhow::platform
