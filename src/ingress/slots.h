// Servers at their places in the sections of one worker, and how a worker is told of a change. Private to this folder.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "ingress/config.h"

namespace dhow::ingress {

// The servers of a backend by their place; places without one wait for one.
using Slots = std::vector<std::optional<Server>>;

// Keeps servers where they are, and gives others a place, one that nobody leaves at the same time where there is one.
// False when there is no room for all.
bool place(const std::vector<Server>& servers, Slots& slots);
// The same where there may be too little room: those that can be sent to have the places.
Slots placedAsFits(const std::vector<Server>& servers, const Slots& slots);

// Of a worker's sections and those that change: the servers that had begun to leave, or that nobody heard of any more,
// and now have no place in any: their pods are gone.
std::vector<Server> goneServers(const std::map<std::string, Slots>& before,
                                const std::map<std::string, Slots>& changed);

// Tells a worker what is different, first who comes, so that no moment is without a server. `say` sends a command, and
// knows the answers that mean success (one of "a|b", or nothing said when it is empty).
using Say = std::function<Result<>(const std::string& command, std::string_view done)>;
Result<> changeSlots(const std::string& backend, const Slots& before, const Slots& after, const Say& say);

}  // namespace dhow::ingress
