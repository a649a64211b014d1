// Task<T>: a coroutine that starts when it is awaited or spawned (base/loop.h).
#pragma once

#include <boost/asio/awaitable.hpp>

namespace dhow {
template <class T = void>
using Task = boost::asio::awaitable<T>;
}
