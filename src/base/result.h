// Result<T>: a value or an Error. Every fallible function returns one; exceptions stay inside the adapters that
// call libraries which throw.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/check.h"
#include "base/error.h"

namespace dhow {

template <class T = void>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}
  template <class U = T>
    requires(std::is_constructible_v<T, U &&> && !std::is_same_v<std::remove_cvref_t<U>, Result> &&
             !std::is_same_v<std::remove_cvref_t<U>, Error>)
  Result(U&& value) : state_(std::in_place_index<0>, std::forward<U>(value)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    CHECK(ok(), "value of an error: {}", error().message());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    CHECK(ok(), "value of an error: {}", error().message());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    CHECK(ok(), "value of an error: {}", error().message());
    return std::move(*std::get_if<0>(&state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  template <class U>
  T valueOr(U&& other) const& {
    return ok() ? *std::get_if<0>(&state_) : T(std::forward<U>(other));
  }

  const Error& error() const& { return *std::get_if<1>(&state_); }
  Error&& error() && { return std::move(*std::get_if<1>(&state_)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  Result(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

}  // namespace dhow

#define DHOW_CONCAT_(a, b) a##b
#define DHOW_CONCAT(a, b) DHOW_CONCAT_(a, b)

// In a plain function: leaves with the error of `expr`, if it has one.
#define RETURN_IF_ERROR(expr)                                       \
  do {                                                              \
    auto&& dhow_result_ = (expr);                                   \
    if (!dhow_result_.ok()) return std::move(dhow_result_).error(); \
  } while (false)

// ASSIGN_OR_RETURN(auto x, expr): x takes the value of `expr`, or the function leaves with its error.
#define ASSIGN_OR_RETURN(target, expr) DHOW_ASSIGN_(target, expr, DHOW_CONCAT(dhow_result_, __LINE__), return)

// The same in a coroutine. `expr` may hold a co_await.
#define CO_RETURN_IF_ERROR(expr)                                       \
  do {                                                                 \
    auto&& dhow_result_ = (expr);                                      \
    if (!dhow_result_.ok()) co_return std::move(dhow_result_).error(); \
  } while (false)

#define CO_ASSIGN_OR_RETURN(target, expr) DHOW_ASSIGN_(target, expr, DHOW_CONCAT(dhow_result_, __LINE__), co_return)

#define DHOW_ASSIGN_(target, expr, result, leave)    \
  auto result = (expr);                              \
  if (!result.ok()) leave std::move(result).error(); \
  target = std::move(result).value()
