// Protocol buffers' wire format, as far as etcd's messages need it: varints and length-prefixed fields
// (protobuf.dev/programming-guides/encoding). Private to this folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dhow::store {

class ProtoWriter {
 public:
  // Zero, false and empty are the defaults and are left out.
  ProtoWriter& number(uint32_t field, uint64_t value) {
    if (value == 0) return *this;
    varint(field << 3);
    varint(value);
    return *this;
  }
  ProtoWriter& bytes(uint32_t field, std::string_view value) { return value.empty() ? *this : message(field, value); }
  // A part of a message, which counts even when it is empty.
  ProtoWriter& message(uint32_t field, std::string_view value) {
    varint((field << 3) | 2);
    varint(value.size());
    out_.append(value);
    return *this;
  }
  std::string take() { return std::move(out_); }
  const std::string& text() const { return out_; }

 private:
  void varint(uint64_t value) {
    while (value >= 0x80) {
      out_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    out_.push_back(static_cast<char>(value));
  }
  std::string out_;
};

// Goes through the fields of a message. What is malformed ends it with bad() set.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view bytes) : left_(bytes) {}

  // The next field; false at the end.
  bool next() {
    number_ = 0;
    bytes_ = {};
    if (left_.empty() || bad_) return false;
    auto tag = varint();
    if (!tag || *tag >> 3 == 0 || *tag >> 3 > 0x1fffffff) return fail();
    field_ = static_cast<uint32_t>(*tag >> 3);
    switch (*tag & 7) {
      case 0: {
        auto value = varint();
        if (!value) return fail();
        number_ = *value;
        return true;
      }
      case 1: return fixed(8);
      case 2: {
        auto size = varint();
        if (!size || *size > left_.size()) return fail();
        bytes_ = left_.substr(0, *size);
        left_.remove_prefix(*size);
        return true;
      }
      case 5: return fixed(4);
      default: return fail();
    }
  }
  uint32_t field() const { return field_; }
  uint64_t number() const { return number_; }
  int64_t signedNumber() const { return static_cast<int64_t>(number_); }
  std::string_view bytes() const { return bytes_; }
  std::string string() const { return std::string(bytes_); }
  bool bad() const { return bad_; }

 private:
  bool fail() {
    bad_ = true;
    return false;
  }
  bool fixed(size_t size) {
    if (left_.size() < size) return fail();
    bytes_ = left_.substr(0, size);
    left_.remove_prefix(size);
    return true;
  }
  std::optional<uint64_t> varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !left_.empty(); shift += 7) {
      auto byte = static_cast<uint8_t>(left_.front());
      left_.remove_prefix(1);
      value |= uint64_t{byte & 0x7fU} << shift;
      if (byte < 0x80) return value;
    }
    return std::nullopt;
  }

  std::string_view left_;
  uint32_t field_ = 0;
  uint64_t number_ = 0;
  std::string_view bytes_;
  bool bad_ = false;
};

}  // namespace dhow::store
