#include "node_lease.h"

#include "fields.h"

namespace dhow::client {

bool hasIdentity(const object::Object& pod) {
  const json::object* owner = controllerOf(pod);
  if (owner != nullptr && text(*owner, "kind") == "StatefulSet") return true;
  if (pod.annotation("dhow.io/exclusive") == "true") return true;
  for (const json::value& volume : array(pod.root(), {"spec", "volumes"})) {
    if (volume.is_object() && has(volume.get_object(), {"persistentVolumeClaim"})) return true;
  }
  return false;
}

}  // namespace dhow::client
