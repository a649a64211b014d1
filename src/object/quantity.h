// Kubernetes quantities ("500m", "128Mi", "1e3") and int-or-percent values, exact to a billionth.
#pragma once

#include <boost/json/value.hpp>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace dhow::object {

class Quantity {
 public:
  enum class Form : uint8_t { kDecimal, kBinary, kExponent };

  constexpr Quantity() = default;
  static Quantity of(int64_t whole, Form form = Form::kDecimal);
  static Quantity ofMilli(int64_t milli, Form form = Form::kDecimal);
  // kInvalid with Kubernetes' own text.
  static Result<Quantity> parse(std::string_view text);
  // A string or a number; zero when it is neither or cannot be read.
  static Quantity from(const boost::json::value* value);

  // Rounded up, saturating.
  int64_t value() const;
  int64_t milliValue() const;
  bool zero() const { return nano_ == 0; }
  int sign() const { return nano_ < 0 ? -1 : nano_ > 0; }
  // The canonical text: no fraction, the largest suffix that keeps it exact.
  std::string text() const;

  Quantity& operator+=(const Quantity& other);
  Quantity& operator-=(const Quantity& other);
  friend Quantity operator+(Quantity a, const Quantity& b) { return a += b; }
  friend Quantity operator-(Quantity a, const Quantity& b) { return a -= b; }
  bool operator==(const Quantity& other) const { return nano_ == other.nano_; }
  auto operator<=>(const Quantity& other) const { return nano_ <=> other.nano_; }

 private:
  __int128 nano_ = 0;
  Form form_ = Form::kDecimal;
};

// A number or a text: ports ("http"), rollout limits ("25%").
class IntOrString {
 public:
  IntOrString() = default;
  explicit IntOrString(const boost::json::value* value) : value_(value) {}
  bool present() const { return value_ && !value_->is_null(); }
  bool isInt() const { return value_ && value_->is_int64(); }
  int64_t number() const { return isInt() ? value_->get_int64() : 0; }
  std::string_view text() const { return value_ && value_->is_string() ? std::string_view(value_->get_string()) : ""; }
  // The number, or that percentage of `total`. kInvalid when it is neither.
  Result<int64_t> scaled(int64_t total, bool roundUp) const;

 private:
  const boost::json::value* value_ = nullptr;
};

}  // namespace dhow::object
