// Where blocking work runs: file systems, SQLite, fork, tar. A few threads, apart from the loop.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/loop.h"
#include "base/result.h"

namespace dhow {

class BlockingPool {
 public:
  explicit BlockingPool(size_t threads);
  ~BlockingPool();  // finishes what was queued

  // Runs `work` on the pool and resumes the caller on `loop`.
  template <class F>
  Task<std::invoke_result_t<F>> run(Loop& loop, F work) {
    using T = std::invoke_result_t<F>;
    if constexpr (std::is_void_v<T>) {
      co_await runErased(loop, std::function<void()>(std::ref(work)));
    } else {
      std::optional<T> out;
      std::function<void()> erased = [&] { out.emplace(work()); };
      co_await runErased(loop, std::move(erased));
      co_return std::move(*out);
    }
  }
  // Queues `work` and returns at once.
  void post(std::function<void()> work);

 private:
  Task<> runErased(Loop& loop, std::function<void()> work);
  struct Rep;
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow
