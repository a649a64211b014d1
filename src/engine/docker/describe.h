// Containers as `docker ps` and `docker inspect` show them.
#pragma once

#include "api.h"

namespace dhow::engine::docker {

json::object summaryOf(const Engine& engine, const Container& container);
json::object inspectionOf(Engine& engine, const Container& container, int version);
// "Up 2 minutes", "Exited (0) 3 seconds ago"
std::string statusLine(const Container& container, WallTime now);

}  // namespace dhow::engine::docker
