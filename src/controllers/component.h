// What every controller is given, and what it is to its manager.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/loop.h"
#include "client/cache.h"
#include "client/client.h"
#include "client/controller.h"
#include "client/event_recorder.h"

namespace dhow::controllers {

struct Context {
  Loop& loop;
  client::Client& client;
  client::Caches& caches;
};

class Component {
 public:
  virtual ~Component() = default;
  virtual void start() = 0;
  virtual Task<> stop() = 0;
  // Nothing ready and nothing under way; delayed keys do not count.
  virtual bool idle() const = 0;
};

}  // namespace dhow::controllers
