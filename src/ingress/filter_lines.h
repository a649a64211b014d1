// What makes HAProxy ask the filter (edge_filter.h), as lines of backends. Private to this folder.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "waf_policy.h"

namespace dhow::ingress {

// Of Config::files; where one of them is, the filter runs.
constexpr const char* kFilterFile = "spoe.conf";         // it is asked about whole requests
constexpr const char* kUsersFile = "spoe_users.conf";    // it is asked about users
constexpr const char* kErrorsFile = "spoe_errors.conf";  // it asks others for errors
constexpr const char* kFilterBackend = "edge_filter";
constexpr const char* kPolicyPrefix = "waf_";   // of files with rules
constexpr const char* kUsersPrefix = "users_";  // of files with users (passwords.h)

// With the filter a whole request is kept before it goes on: its body, head and URI have to fit into a buffer.
constexpr size_t kFilterBody = 64 << 10, kFilterHead = 16 << 10, kFilterUri = 8 << 10;
constexpr size_t kFilterBuffer = kFilterBody + kFilterHead + kFilterUri + (8 << 10);

using Files = std::map<std::string, std::string>;

inline bool asksFilter(const Files& files) {
  return files.contains(kFilterFile) || files.contains(kUsersFile) || files.contains(kErrorsFile);
}
// What the filter reads itself, without root's rights.
inline bool isForFilter(std::string_view file) {
  return file.starts_with(kPolicyPrefix) || file.starts_with(kUsersPrefix);
}

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

// Lets in who shows a user and password of the list (a file of Config::files); `realm` as the line has it.
void usersLines(std::vector<std::string>& out, const std::string& list, const std::string& realm, Files& files);

// Who answers instead of a backend whose answer has one of these codes (error_backend.h).
struct ErrorBackend {
  std::vector<int> codes;
  std::string address;                     // "address:port" of the service that is asked
  std::string ns, ingress, service, port;  // what it is told: for whom
};
void customErrorLines(std::vector<std::string>& out, const ErrorBackend& errors, Files& files);

// The section through which HAProxy reaches the filter.
std::string filterBackend(const std::string& socket);

}  // namespace dhow::ingress
