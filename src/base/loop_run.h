// The templates of base/loop.h; include that.
#pragma once

#include <optional>

#include "base/check.h"

namespace dhow {

namespace internal {
template <class T>
Task<> keep(Task<T> task, std::optional<T>* out, std::function<void()> done) {
  auto value = co_await std::move(task);
  out->emplace(std::move(value));
  done();
}
inline Task<> keep(Task<void> task, bool* out, std::function<void()> done) {
  co_await std::move(task);
  *out = true;
  done();
}
}  // namespace internal

template <class T>
T runOn(RealLoop& loop, Task<T> task) {
  if constexpr (std::is_void_v<T>) {
    bool finished = false;
    spawn(loop, internal::keep(std::move(task), &finished, [&loop] { loop.stop(); }));
    loop.run();
    CHECK(finished, "the loop ended before the task");
  } else {
    std::optional<T> out;
    spawn(loop, internal::keep<T>(std::move(task), &out, [&loop] { loop.stop(); }));
    loop.run();
    CHECK(out.has_value(), "the loop ended before the task");
    return std::move(*out);
  }
}

template <class T>
T runOn(SimLoop& loop, Task<T> task, Duration limit) {
  if constexpr (std::is_void_v<T>) {
    bool finished = false;
    spawn(loop, internal::keep(std::move(task), &finished, [] {}));
    CHECK(loop.runUntil([&] { return finished; }, limit), "the task did not end in its virtual time");
  } else {
    std::optional<T> out;
    spawn(loop, internal::keep<T>(std::move(task), &out, [] {}));
    CHECK(loop.runUntil([&] { return out.has_value(); }, limit), "the task did not end in its virtual time");
    return std::move(*out);
  }
}

}  // namespace dhow
