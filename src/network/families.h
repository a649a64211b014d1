// What a cluster has one of for each IP family: ranges, addresses.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace dhow {

// That of the first family first; what is empty is left out.
inline std::vector<std::string> inFamilyOrder(std::string v4, std::string v6, bool ipv6First) {
  if (ipv6First) std::swap(v4, v6);
  std::vector<std::string> out;
  if (!v4.empty()) out.push_back(std::move(v4));
  if (!v6.empty()) out.push_back(std::move(v6));
  return out;
}

}  // namespace dhow
