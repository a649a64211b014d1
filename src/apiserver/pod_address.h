// A pod as far as others need it to tell its packets: name, labels, addresses, named ports; nothing of what it runs. A
// node reads all pods so (Accept: application/json;as=PodAddress;g=dhow.io;v=v1), and pays a tenth of a pod for each.
#pragma once

#include <string>

#include "object/object.h"

namespace dhow::apiserver {

// Encoded, as a v1 Pod with few fields.
std::string renderPodAddress(const object::Object& pod);

}  // namespace dhow::apiserver
