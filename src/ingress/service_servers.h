// The pods behind a service's port, as servers. Private to this folder.
#pragma once

#include <optional>

#include "ingress/annotations.h"
#include "ingress/compile.h"

namespace dhow::ingress {

struct ServicePort {
  std::string name;  // of slices' ports
  int64_t number = 0;
  std::string appProtocol, externalName;
};
// By name, or by number where the name is empty.
std::optional<ServicePort> findPort(const object::Object& service, std::string_view name, int64_t number);
// Of its TCP ports; 0 when it has none.
int64_t firstPort(const object::Object& service);
// The service's own endpoint (text.h); empty when it has none, or no such port.
std::string addressOf(const object::Object& service, int64_t port);
Annotations::Protocol protocolOf(std::string_view appProtocol);

}  // namespace dhow::ingress
