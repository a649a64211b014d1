// What makes HAProxy ask the filter (edge_filter.h), as lines of backends. Private to this folder.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "waf_policy.h"

namespace dhow::ingress {

constexpr const char* kFilterFile = "spoe.conf";  // of Config::files; where it is, the filter runs
constexpr const char* kFilterBackend = "edge_filter";
constexpr const char* kPolicyPrefix = "waf_";  // of files with rules

// With the filter a whole request is kept before it goes on: its body, head and URI have to fit into a buffer.
constexpr size_t kFilterBody = 64 << 10, kFilterHead = 16 << 10, kFilterUri = 8 << 10;
constexpr size_t kFilterBuffer = kFilterBody + kFilterHead + kFilterUri + (8 << 10);

using Files = std::map<std::string, std::string>;

void wafLines(std::vector<std::string>& out, const WafPolicy& policy, Files& files);

struct Mirror {
  std::string address;         // "address:port" that the copy goes to
  std::string path;            // before the request's own path
  bool withUri = true;         // else `path` alone
  std::string host;            // empty: the request's own
  uint32_t share = 1, of = 1;  // how many of how many requests
  bool withBody = true;
};
void mirrorLines(std::vector<std::string>& out, const Mirror& mirror, Files& files);

// The section through which HAProxy reaches the filter.
std::string filterBackend(const std::string& socket);

}  // namespace dhow::ingress
