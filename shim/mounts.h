// The steps that build a container's file system.
#pragma once

#include "runtime/wire.h"

struct MountState {
  int slots[dhow::runtime::wire::kMaxSlots];  // detached mounts, by number; each is used once
  char maskedFolder[256];                     // the first folder that was masked, to be cloned for the others
};

long runMountStep(const dhow::runtime::wire::Plan* plan, const dhow::runtime::wire::Step& step, MountState& state);
// Shows the detached mount with the ids of the user namespace.
long idmap(int tree, int userNs);
// Mounts the folder over itself that way, without what is mounted below it.
long idmapFolder(const char* path, int userNs);
// mkdir -p
long makeDirs(const char* path, int mode);
