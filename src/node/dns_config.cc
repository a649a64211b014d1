#include "dns_config.h"

#include <boost/json/parse.hpp>

#include "base/strings.h"
#include "json.h"
#include "object/names.h"

namespace dhow::node {

namespace {

constexpr size_t kMostServers = 8, kMostDomains = 256;

Result<json::value> parseValue(std::string_view key, const json::object& data) {
  std::string_view given = text(data, key);
  if (trim(given).empty()) return json::value();
  boost::system::error_code ec;
  json::value out = json::parse(given, ec);
  if (ec) return Error(Code::kInvalid, fmt::format("{} is not JSON: {}", key, ec.message()));
  return out;
}

Result<std::vector<DnsUpstream>> readServers(const std::string& what, const json::value& value) {
  const json::array* list = value.if_array();
  if (list == nullptr || list->empty() || list->size() > kMostServers)
    return Error(Code::kInvalid, fmt::format("{} must be a list of 1 to {} nameservers", what, kMostServers));
  std::vector<DnsUpstream> out;
  for (const json::value& entry : *list) {
    auto server = entry.is_string() ? DnsUpstream::parse(entry.get_string()) : std::nullopt;
    if (!server) {
      return Error(Code::kInvalid,
                   fmt::format("{}: {} must be an IP address, with a port or without", what, json::serialize(entry)));
    }
    out.push_back(*server);
  }
  return out;
}

}  // namespace

Result<DnsForwarding> readDnsConfig(const json::object& data, const std::vector<DnsUpstream>& own) {
  DnsForwarding out;
  out.upstreams = own;
  ASSIGN_OR_RETURN(const json::value upstreams, parseValue("upstreamNameservers", data));
  if (!upstreams.is_null()) {
    ASSIGN_OR_RETURN(out.upstreams, readServers("upstreamNameservers", upstreams));
  }
  ASSIGN_OR_RETURN(const json::value stubs, parseValue("stubDomains", data));
  if (stubs.is_null()) return out;
  const json::object* domains = stubs.if_object();
  if (domains == nullptr || domains->size() > kMostDomains)
    return Error(Code::kInvalid, fmt::format("stubDomains must be an object of at most {} domains", kMostDomains));
  for (const auto& [key, servers] : *domains) {
    std::string domain = toLower(std::string_view(key));
    if (domain.ends_with('.')) domain.pop_back();
    if (auto problem = dhow::object::checkDns1123Subdomain(domain); !problem.empty())
      return Error(Code::kInvalid, fmt::format("stubDomains: \"{}\": {}", std::string_view(key), problem));
    ASSIGN_OR_RETURN(out.stubDomains[domain], readServers(fmt::format("stubDomains of {}", domain), servers));
  }
  return out;
}

}  // namespace dhow::node
