// Who asks, and what for.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace dhow::apiserver {

struct Caller {
  std::string user;
  std::string uid;
  std::vector<std::string> groups;
  std::map<std::string, std::vector<std::string>> extra;

  bool in(std::string_view group) const {
    for (const auto& one : groups) {
      if (one == group) return true;
    }
    return false;
  }
  // The node's name when the caller is one, else empty.
  std::string_view node() const {
    constexpr std::string_view prefix = "system:node:";
    return user.starts_with(prefix) && in("system:nodes") ? std::string_view(user).substr(prefix.size())
                                                          : std::string_view();
  }
};

inline constexpr std::string_view kSystemMasters = "system:masters";
inline constexpr std::string_view kAuthenticated = "system:authenticated";

// A component of the server itself.
inline Caller systemCaller(std::string user = "system:apiserver") {
  return {std::move(user), "", {std::string(kSystemMasters), std::string(kAuthenticated)}, {}};
}

}  // namespace dhow::apiserver
