// What the controllers of zones, pools and machines share: names of labels and annotations, and how they read and write
// objects of dhow.io.
#pragma once

#include <string>
#include <string_view>

#include "component.h"
#include "object/labels.h"
#include "workload.h"

namespace dhow::controllers {

using object::kRegionLabel;
using object::kZoneLabel;
inline constexpr char kPoolLabel[] = "dhow.io/pool";
inline constexpr char kStandInLabel[] = "dhow.io/stands-in-for";  // of a machine and its node: the original
inline constexpr char kSurgeLabel[] = "dhow.io/surge";            // of a machine that an upgrade borrows
// Of a pod: it is to be replaced elsewhere before it goes. Its ReplicaSet makes another one for it.
inline constexpr char kLeaving[] = "dhow.io/leaving";
inline constexpr char kCordoned[] = "dhow.io/cordoned";  // of a node: the platform made it unschedulable
inline constexpr char kIdle[] = "dhow.io/idle";          // of a machine: the autoscaler found that it can go
inline constexpr char kZoneDownTaint[] = "dhow.io/zone-down";
inline constexpr char kMachineFinalizer[] = "dhow.io/machine";
inline constexpr char kPodsOfNode[] = "podsOfNode";  // index of pods by spec.nodeName

enum class ZonePhase { kUnknown, kUp, kDown, kReturning };
ZonePhase phaseOf(const Object* zone);
std::string_view phaseName(ZonePhase phase);

// Whom the machine stands in for; empty when it is an original.
std::string_view standsInFor(const Object& machine);
std::string nodeNameOf(const Object& machine);
bool nodeReady(const Object& node);

void indexByNode(client::Cache& pods);
// Pods that stay with their node whatever happens: a DaemonSet's, static ones, finished ones.
bool boundToNode(const Object& pod);
// The pod is annotated to leave.
bool leaving(const Object& pod);

// Writes `status` when it differs from what is there. A write that lost a race is kConflict.
Task<Result<>> writeStatus(Context context, client::Resource resource, ObjectPtr object, json::object status);
// Deletes a pod that surely runs no more, without grace.
Task<Result<>> eraseDeadPod(Context context, ObjectPtr pod);
// Nothing is wrong when the object is gone.
Result<> unlessGone(Result<ObjectPtr> done);
Result<> unlessGone(Result<> done);

}  // namespace dhow::controllers
