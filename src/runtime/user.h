// Names of users and groups, as an image's own /etc/passwd and /etc/group know them. Blocks (reads files).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "runtime/spec.h"

namespace dhow::runtime {

struct ResolvedUser {
  User user;
  std::string home = "/";  // of the passwd line; "/" when there is none
  std::string name;        // empty when there is no line
};

// `user`: "", "name", "uid", "name:group", "uid:gid", ... (Docker's Config.User); `groups` are names or
// numbers to add (--group-add). An unknown name is kNotFound: "unable to find user x: no matching entries in
// passwd file". Links in the image never lead outside it.
Result<ResolvedUser> resolveUser(const RootFs& root, std::string_view user, const std::vector<std::string>& groups);

}  // namespace dhow::runtime
