#include "object/quantity.h"

#include <charconv>
#include <limits>

#include "base/strings.h"

namespace dhow::object {
namespace {

using Int = __int128;
constexpr Int kNano = 1'000'000'000;
constexpr Int kMax = (Int(1) << 100);

Error malformed() {
  return Error(Code::kInvalid,
               "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'");
}

std::string digits(Int value) {
  if (value == 0) return "0";
  bool negative = value < 0;
  if (negative) value = -value;
  std::string out;
  for (; value > 0; value /= 10) out.insert(out.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
  return negative ? "-" + out : out;
}

struct Suffix {
  std::string_view text;
  Quantity::Form form;
  int power;  // of ten, or of 1024
};
constexpr Suffix kSuffixes[] = {
    {"n", Quantity::Form::kDecimal, -9}, {"u", Quantity::Form::kDecimal, -6}, {"m", Quantity::Form::kDecimal, -3},
    {"", Quantity::Form::kDecimal, 0},   {"k", Quantity::Form::kDecimal, 3},  {"M", Quantity::Form::kDecimal, 6},
    {"G", Quantity::Form::kDecimal, 9},  {"T", Quantity::Form::kDecimal, 12}, {"P", Quantity::Form::kDecimal, 15},
    {"E", Quantity::Form::kDecimal, 18}, {"Ki", Quantity::Form::kBinary, 1},  {"Mi", Quantity::Form::kBinary, 2},
    {"Gi", Quantity::Form::kBinary, 3},  {"Ti", Quantity::Form::kBinary, 4},  {"Pi", Quantity::Form::kBinary, 5},
    {"Ei", Quantity::Form::kBinary, 6}};

Int ceilDiv(Int a, Int b) {
  return a >= 0 ? (a + b - 1) / b : -((-a) / b);
}

int64_t saturate(Int value) {
  if (value > std::numeric_limits<int64_t>::max()) return std::numeric_limits<int64_t>::max();
  if (value < std::numeric_limits<int64_t>::min()) return std::numeric_limits<int64_t>::min();
  return static_cast<int64_t>(value);
}

Int clamp(Int value) {
  return value > kMax ? kMax : value < -kMax ? -kMax : value;
}

}  // namespace

Quantity Quantity::of(int64_t whole, Form form) {
  Quantity out;
  out.nano_ = Int(whole) * kNano;
  out.form_ = form;
  return out;
}

Quantity Quantity::ofMilli(int64_t milli, Form form) {
  Quantity out;
  out.nano_ = Int(milli) * 1'000'000;
  out.form_ = form;
  return out;
}

Result<Quantity> Quantity::parse(std::string_view text) {
  if (text.empty() || text.size() > 64) return malformed();
  size_t i = 0;
  bool negative = text[0] == '-';
  if (text[0] == '-' || text[0] == '+') ++i;
  Int mantissa = 0;
  int fraction = 0;
  bool any = false;
  bool point = false;
  bool lost = false;  // digits below a billionth of what the type holds; Kubernetes rounds them up
  for (; i < text.size(); ++i) {
    char c = text[i];
    if (c == '.' && !point) {
      point = true;
    } else if (c >= '0' && c <= '9') {
      any = true;
      if (mantissa > kMax) return malformed();
      if (fraction >= 18) {
        lost |= c != '0';
        continue;
      }
      mantissa = mantissa * 10 + (c - '0');
      fraction += point;
    } else {
      break;
    }
  }
  if (!any) return malformed();
  std::string_view rest = text.substr(i);
  Form form = Form::kDecimal;
  int power = 0;
  const Suffix* suffix = nullptr;
  for (const Suffix& s : kSuffixes)
    if (s.text == rest) suffix = &s;
  if (suffix) {
    form = suffix->form;
    power = suffix->power;
  } else if (rest[0] == 'e' || rest[0] == 'E') {
    std::string_view exponent = rest.substr(1);
    if (!exponent.empty() && exponent[0] == '+') exponent.remove_prefix(1);
    auto parsed = parseInt(exponent);
    if (!parsed || *parsed > 30 || *parsed < -30) return malformed();
    power = static_cast<int>(*parsed);
    form = Form::kExponent;
  } else {
    return malformed();
  }
  Quantity out;
  out.form_ = form;
  Int value = mantissa;
  if (form == Form::kBinary) {
    for (int p = 0; p < power; ++p) {
      if (value > kMax / 1024) return Error(Code::kInvalid, "the quantity is too large");
      value *= 1024;
    }
    power = 0;
  }
  for (power += 9 - fraction; power > 0; --power) {
    if (value > kMax / 10) {
      value = kMax;
      break;
    }
    value *= 10;
  }
  for (; power < 0; ++power) {
    lost |= value % 10 != 0;
    value /= 10;
  }
  if (lost) ++value;
  out.nano_ = negative ? -value : value;
  return out;
}

Quantity Quantity::from(const boost::json::value* value) {
  if (!value) return {};
  if (value->is_int64()) return of(value->get_int64());
  if (value->is_uint64()) return of(saturate(Int(value->get_uint64())));
  if (value->is_string()) return parse(value->get_string()).valueOr(Quantity());
  if (value->is_double()) return parse(fmt::format("{:f}", value->get_double())).valueOr(Quantity());
  return {};
}

int64_t Quantity::value() const {
  return saturate(ceilDiv(nano_, kNano));
}
int64_t Quantity::milliValue() const {
  return saturate(ceilDiv(nano_, 1'000'000));
}

std::string Quantity::text() const {
  if (nano_ == 0) return "0";
  if (form_ == Form::kBinary && nano_ % kNano == 0) {
    Int whole = nano_ / kNano;
    if (whole >= 1024 || whole <= -1024) {
      int power = 0;
      while (power < 6 && whole % 1024 == 0) {
        whole /= 1024;
        ++power;
      }
      constexpr std::string_view kNames[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
      return digits(whole) + std::string(kNames[power]);
    }
    return digits(whole);
  }
  Int value = nano_;
  int power = -9;
  while (power < 18 && value % 1000 == 0) {
    value /= 1000;
    power += 3;
  }
  if (form_ == Form::kExponent) return power == 0 ? digits(value) : digits(value) + "e" + std::to_string(power);
  for (const Suffix& suffix : kSuffixes)
    if (suffix.form == Form::kDecimal && suffix.power == power) return digits(value) + std::string(suffix.text);
  return digits(value);
}

Quantity& Quantity::operator+=(const Quantity& other) {
  if (nano_ == 0) form_ = other.form_;
  nano_ = clamp(nano_ + other.nano_);
  return *this;
}

Quantity& Quantity::operator-=(const Quantity& other) {
  if (nano_ == 0) form_ = other.form_;
  nano_ = clamp(nano_ - other.nano_);
  return *this;
}

Result<int64_t> IntOrString::scaled(int64_t total, bool roundUp) const {
  if (isInt()) return number();
  std::string_view percent = text();
  if (!percent.ends_with('%')) return Error(Code::kInvalid, "must be an integer or percentage (e.g '5%')");
  percent.remove_suffix(1);
  auto parsed = parseInt(percent);
  if (!parsed || *parsed < 0 || *parsed > 1'000'000) {
    return Error(Code::kInvalid, "must be an integer or percentage (e.g '5%')");
  }
  int64_t product = *parsed * total;
  return roundUp ? (product + 99) / 100 : product / 100;
}

}  // namespace dhow::object
