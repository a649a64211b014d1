// Label and field selectors: "app=web,tier in (a,b),!old", LabelSelector objects, and "status.phase!=Failed".
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "object/kinds.h"
#include "object/object.h"

namespace dhow::object {

class LabelSelector {
 public:
  enum class Op : uint8_t { kIn, kNotIn, kExists, kDoesNotExist, kGreaterThan, kLessThan };
  struct Requirement {
    std::string key;
    Op op = Op::kExists;
    std::vector<std::string> values;
  };

  // Matches everything.
  LabelSelector() = default;
  // kBadRequest with Kubernetes' own texts. The empty text matches everything.
  static Result<LabelSelector> parse(std::string_view text);
  // A LabelSelector document (matchLabels, matchExpressions). Null matches nothing, {} everything, as in Kubernetes.
  static Result<LabelSelector> fromDocument(const boost::json::value* document);
  // A plain map of labels (a service's selector). Empty matches everything.
  static LabelSelector fromMap(const boost::json::object& labels);
  static LabelSelector nothing();

  bool matches(const Object& object) const;
  bool matchesLabels(const boost::json::object* labels) const;  // null: no labels
  bool everything() const { return !nothing_ && requirements_.empty(); }
  const std::vector<Requirement>& requirements() const { return requirements_; }
  // As it goes over the wire: "app=web,tier in (a,b)".
  std::string text() const;

 private:
  bool nothing_ = false;
  std::vector<Requirement> requirements_;
};

class FieldSelector {
 public:
  struct Requirement {
    std::string label;
    bool equal = true;
    std::string value;
    std::vector<std::string> paths;
    bool boolean = false;  // a missing value reads as "false"
  };

  FieldSelector() = default;
  // kBadRequest: bad syntax, or "field label not supported: x" for what the kind does not list.
  static Result<FieldSelector> parse(std::string_view text, const KindInfo& kind);

  bool matches(const Object& object) const;
  bool everything() const { return requirements_.empty(); }
  const std::vector<Requirement>& requirements() const { return requirements_; }
  // The value that the field must have, if it is fixed (an index can be used); "" where not.
  std::string_view exact(std::string_view label) const;

 private:
  std::vector<Requirement> requirements_;
};

}  // namespace dhow::object
