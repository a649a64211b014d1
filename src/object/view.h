// What the generated views are made of: light, non-owning readers over a document. A view of something that is missing
// is empty: its fields read as "", 0, false and empty ranges. Views are valid as long as the document.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <optional>
#include <string_view>

#include "base/time.h"
#include "object/object.h"
#include "object/quantity.h"

namespace dhow::api {

namespace json = boost::json;

namespace view {
// `object` may be null. A value of another type reads as missing.
const json::value* at(const json::object* object, std::string_view key);  // null where missing or JSON null
std::string_view string(const json::object* object, std::string_view key);
int64_t integer(const json::object* object, std::string_view key);
bool boolean(const json::object* object, std::string_view key);
double real(const json::object* object, std::string_view key);
std::optional<WallTime> time(const json::object* object, std::string_view key);
std::string bytes(const json::object* object, std::string_view key);
const json::object* object(const json::object* parent, std::string_view key);
const json::array* array(const json::object* parent, std::string_view key);
const json::object& orEmpty(const json::object* object);
}  // namespace view

class View {
 public:
  constexpr View() = default;
  explicit View(const json::object* object) : object_(object) {}
  explicit View(const json::value* value) : object_(value ? value->if_object() : nullptr) {}
  explicit View(const dhow::object::Object& object) : object_(&object.root()) {}
  explicit View(const dhow::object::ObjectPtr& object) : object_(object ? &object->root() : nullptr) {}

  bool present() const { return object_ != nullptr; }
  explicit operator bool() const { return present(); }
  bool has(std::string_view field) const { return view::at(object_, field) != nullptr; }
  const json::object& raw() const { return view::orEmpty(object_); }

 protected:
  const json::object* object_ = nullptr;
};

namespace view {
template <class T>
struct Read {
  static T from(const json::value& value) { return T(&value); }
};
template <>
struct Read<std::string_view> {
  static std::string_view from(const json::value& value) {
    return value.is_string() ? std::string_view(value.get_string()) : std::string_view();
  }
};
template <>
struct Read<int64_t> {
  static int64_t from(const json::value& value) { return value.is_int64() ? value.get_int64() : 0; }
};
template <>
struct Read<dhow::object::Quantity> {
  static dhow::object::Quantity from(const json::value& value) { return dhow::object::Quantity::from(&value); }
};
template <>
struct Read<const json::value*> {
  static const json::value* from(const json::value& value) { return &value; }
};
}  // namespace view

template <class T>
class ListView {
 public:
  explicit ListView(const json::array* array) : array_(array) {}
  class Iterator {
   public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(const json::value* at = nullptr) : at_(at) {}
    T operator*() const { return view::Read<T>::from(*at_); }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator old = *this;
      ++at_;
      return old;
    }
    bool operator==(const Iterator&) const = default;

   private:
    const json::value* at_;
  };
  Iterator begin() const { return Iterator(array_ ? array_->data() : nullptr); }
  Iterator end() const { return Iterator(array_ ? array_->data() + array_->size() : nullptr); }
  size_t size() const { return array_ ? array_->size() : 0; }
  bool empty() const { return size() == 0; }
  T operator[](size_t i) const { return view::Read<T>::from((*array_)[i]); }
  bool present() const { return array_ != nullptr; }

 private:
  const json::array* array_;
};

template <class T>
class MapView {
 public:
  explicit MapView(const json::object* object) : object_(object) {}
  class Iterator {
   public:
    using value_type = std::pair<std::string_view, T>;
    using difference_type = std::ptrdiff_t;
    explicit Iterator(const json::key_value_pair* at = nullptr) : at_(at) {}
    value_type operator*() const { return {at_->key(), view::Read<T>::from(at_->value())}; }
    Iterator& operator++() {
      ++at_;
      return *this;
    }
    Iterator operator++(int) {
      Iterator old = *this;
      ++at_;
      return old;
    }
    bool operator==(const Iterator&) const = default;

   private:
    const json::key_value_pair* at_;
  };
  Iterator begin() const { return Iterator(object_ ? object_->begin() : nullptr); }
  Iterator end() const { return Iterator(object_ ? object_->end() : nullptr); }
  size_t size() const { return object_ ? object_->size() : 0; }
  bool empty() const { return size() == 0; }
  bool contains(std::string_view key) const { return object_ && object_->contains(key); }
  // T() where missing.
  T get(std::string_view key) const {
    const json::value* value = view::at(object_, key);
    return value ? view::Read<T>::from(*value) : T();
  }
  const json::object& raw() const { return view::orEmpty(object_); }

 private:
  const json::object* object_;
};

}  // namespace dhow::api
