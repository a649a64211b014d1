#include "base/blocking.h"

#include <boost/asio/async_result.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace dhow {

namespace asio = boost::asio;

struct BlockingPool::Rep {
  explicit Rep(size_t threads) : pool(threads) {}
  asio::thread_pool pool;
};

BlockingPool::BlockingPool(size_t threads) : rep_(std::make_unique<Rep>(threads)) {}
BlockingPool::~BlockingPool() {
  rep_->pool.join();
}

void BlockingPool::post(std::function<void()> work) {
  asio::post(rep_->pool, std::move(work));
}

Task<> BlockingPool::runErased(Loop& loop, std::function<void()> work) {
  auto start = [this, &loop, &work](auto handler) {
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    // The loop stays alive while the work is away.
    auto guard = asio::make_work_guard(loop.executor());
    asio::post(rep_->pool, [&work, &loop, shared, guard = std::move(guard)]() mutable {
      work();
      asio::post(loop.executor(), [shared] { std::move (*shared)(); });
      shared.reset();
      guard.reset();
    });
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>&, void()>(std::move(start), asio::use_awaitable);
}

}  // namespace dhow
