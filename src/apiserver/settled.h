// What a task of a test gave, and when.
#pragma once

#include <optional>

#include "base/loop.h"
#include "base/result.h"

namespace dhow::apiserver {

template <class T>
struct Settled {
  std::optional<Result<T>> result;  // none yet
  TimePoint at;
};

template <class T>
Task<> settle(Task<Result<T>> task, Loop* loop, Settled<T>* into) {
  auto result = co_await std::move(task);
  into->result.emplace(std::move(result));
  into->at = loop->now();
}

}  // namespace dhow::apiserver
