// What a kind is to the API: its group, version, names, scope and behaviour. Built from api/ by the generator; custom
// resources will make the same at run time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dhow::object {

// Group, version and plural name, as in a URL. The core group is "".
struct Resource {
  std::string group;
  std::string version;
  std::string plural;
  bool namespaced = true;

  std::string apiVersion() const { return group.empty() ? version : group + "/" + version; }
  bool operator==(const Resource&) const = default;
  auto operator<=>(const Resource&) const = default;
};

}  // namespace dhow::object

// resources::kPods and the like, one for each file of api/.
#include "object/resource_names.h"  // IWYU pragma: export
