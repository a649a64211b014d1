// What is kept in a sandbox's folder for a later daemon.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "sandbox.h"

namespace dhow::runtime {

namespace json = boost::json;

namespace {

json::object pairs(const std::vector<std::pair<std::string, std::string>>& from) {
  json::object out;
  for (const auto& [key, value] : from) out[key] = value;
  return out;
}

std::vector<std::pair<std::string, std::string>> pairsOf(const json::object& object, const char* key) {
  std::vector<std::pair<std::string, std::string>> out;
  auto* value = object.if_contains(key);
  if (!value || !value->is_object()) return out;
  for (const auto& [name, each] : value->get_object()) {
    if (each.is_string()) out.emplace_back(std::string(name), std::string(each.get_string()));
  }
  return out;
}

std::string stringOf(const json::object& object, const char* key) {
  auto* value = object.if_contains(key);
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

Result<json::object> load(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, readFile(path, 1 << 20));
  boost::system::error_code error;
  auto value = json::parse(text, error);
  if (error || !value.is_object()) return Error(Code::kDataLoss, path + " is damaged");
  return value.get_object();
}

// A socket address of "s" in `dir`, through a descriptor: it always fits.
Result<UniqueFd> addressOf(const std::string& dir, sockaddr_un& address) {
  UniqueFd folder(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return Error::fromErrno("open " + dir);
  address = {};
  address.sun_family = AF_UNIX;
  std::string path = "/proc/self/fd/" + std::to_string(folder.get()) + "/s";
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return folder;
}

}  // namespace

Result<UniqueFd> listenAt(const std::string& dir) {
  sockaddr_un address;
  ASSIGN_OR_RETURN(UniqueFd folder, addressOf(dir, address));
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return Error::fromErrno("socket");
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return Error::fromErrno("bind a socket in " + dir);
  if (::listen(socket.get(), 8) != 0) return Error::fromErrno("listen");
  return socket;
}

Result<UniqueFd> connectAt(const std::string& dir) {
  sockaddr_un address;
  ASSIGN_OR_RETURN(UniqueFd folder, addressOf(dir, address));
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return Error::fromErrno("socket");
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return Error::fromErrno("connect to the shim");
  return socket;
}

std::string containerFile(const std::string& dir, const std::string& id) {
  return dir + "/c-" + id + ".json";
}

Result<> saveSandbox(const std::string& dir, const SandboxRecord& record) {
  json::object object{{"id", record.id}, {"cgroup", record.cgroup}, {"sharedPid", record.sharedPid}};
  object["annotations"] = pairs(record.annotations);
  if (record.firstUser) object["firstUser"] = *record.firstUser;
  return writeFile(dir + "/sandbox.json", json::serialize(object), 0600);
}

Result<SandboxRecord> loadSandbox(const std::string& dir) {
  ASSIGN_OR_RETURN(json::object object, load(dir + "/sandbox.json"));
  SandboxRecord record;
  record.id = stringOf(object, "id");
  record.cgroup = stringOf(object, "cgroup");
  auto* shared = object.if_contains("sharedPid");
  record.sharedPid = shared && shared->is_bool() && shared->get_bool();
  record.annotations = pairsOf(object, "annotations");
  if (auto* first = object.if_contains("firstUser"); first && first->is_int64())
    record.firstUser = static_cast<uint32_t>(first->get_int64());
  return record;
}

Result<> saveContainer(const std::string& dir, const ContainerRecord& record) {
  json::object object{{"cgroup", record.cgroup}};
  object["annotations"] = pairs(record.status.annotations);
  return writeFile(containerFile(dir, record.status.id), json::serialize(object), 0600);
}

Result<> loadContainer(const std::string& dir, const std::string& id, ContainerRecord& record) {
  ASSIGN_OR_RETURN(json::object object, load(containerFile(dir, id)));
  record.status.id = id;
  record.cgroup = stringOf(object, "cgroup");
  record.status.annotations = pairsOf(object, "annotations");
  return {};
}

}  // namespace dhow::runtime
