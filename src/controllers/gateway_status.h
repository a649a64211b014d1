// The status that Gateways and what attaches to them should have, of how they were judged (ingress/gateway.h). Pure.
// What others wrote there stays: conditions of other types, entries of other controllers.
#pragma once

#include <vector>

#include "client/fields.h"
#include "ingress/gateway.h"

namespace dhow::controllers {

namespace json = boost::json;

// `present` with these conditions; one whose status has not changed keeps its time.
json::array withConditions(const json::array& present, const ingress::Verdicts& verdicts, int64_t generation,
                           WallTime now);

// How far it is served, beside what is said of it.
struct GatewayProgress {
  std::vector<std::string> addresses;
  bool addressAsked = false;  // by its specification
  bool ports = true;          // all its listeners' ports have one of the nodes
  bool nodes = false;         // some serve
};
json::object gatewayStatus(const ingress::GatewayVerdict& verdict, const GatewayProgress& progress, WallTime now);
json::object gatewayClassStatus(const object::Object& gatewayClass, WallTime now);
// status.parents of a route, or status.ancestors of a policy; null where there is nothing of ours to say or take away.
// `verdicts` null: it is no parent of ours.
json::array parentStatuses(const object::Object& object, std::string_view list, std::string_view reference,
                           const ingress::AttachmentVerdict* verdict, WallTime now);

}  // namespace dhow::controllers
