// Docker's Engine API (1.24 to 1.51) as an HTTP handler over the engine.
#pragma once

#include "engine/engine.h"
#include "http/server.h"

namespace dhow::engine {

http::Handler dockerApi(Engine& engine);

}  // namespace dhow::engine
