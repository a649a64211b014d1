#include "masters.h"

#include "base/files.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "network/ip.h"

namespace dhow::node {

namespace {
constexpr size_t kMaxFile = 64 << 10, kMaxMasters = 64;
}

std::vector<std::string> mastersOf(const Object& slice) {
  std::vector<std::string> out;
  if (client::serviceOf(slice) != "default/kubernetes") return out;
  const json::array& ports = array(slice.root(), {"ports"});
  const int64_t port = ports.empty() || !ports[0].is_object() ? 0 : number(ports[0].get_object(), {"port"}, 0);
  if (port < 1 || port > 65535) return out;
  for (const json::value& endpoint : array(slice.root(), {"endpoints"})) {
    if (!endpoint.is_object()) continue;
    for (const std::string& address : strings(array(endpoint.get_object(), {"addresses"}))) {
      if (IpAddress::parse(address).ok() && out.size() < kMaxMasters)
        out.push_back(fmt::format("https://{}:{}", urlHost(address), port));
    }
  }
  return out;
}

std::vector<std::string> loadMasters(const std::string& file) {
  std::vector<std::string> out;
  auto text = readFile(file, kMaxFile);
  if (!text.ok()) return out;
  for (auto& line : split(*text, '\n')) {
    if (line.starts_with("https://")) out.push_back(std::move(line));
  }
  return out;
}

Result<> saveMasters(const std::string& file, const std::vector<std::string>& masters) {
  return writeFileDurably(file, join(masters, "\n") + "\n");
}

std::vector<std::string> merged(std::vector<std::string> first, const std::vector<std::string>& others) {
  for (const auto& other : others) {
    if (std::find(first.begin(), first.end(), other) == first.end()) first.push_back(other);
  }
  return first;
}

}  // namespace dhow::node
