// Validation with Kubernetes' own texts. The error is kInvalid, lists its causes, and reads
// `Pod "x" is invalid: spec.containers[0].image: Required value`.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "object/kinds.h"

namespace dhow::object {

// Collects causes. Values print as Kubernetes prints them ("x" in quotes, numbers bare, objects as JSON).
class Problems {
 public:
  void required(std::string field, std::string_view detail = "");
  void invalid(std::string field, const boost::json::value& value, std::string_view detail);
  void notSupported(std::string field, const boost::json::value& value, const std::vector<std::string>& supported);
  void duplicate(std::string field, const boost::json::value& value);
  void forbidden(std::string field, std::string_view detail);
  void tooLong(std::string field, size_t limit);
  void notFound(std::string field, const boost::json::value& value);

  bool empty() const { return causes_.empty(); }
  const std::vector<ErrorCause>& causes() const { return causes_; }
  // kInvalid for an object of this kind and name; success when empty.
  Result<> result(const KindInfo& kind, std::string_view name) const;

 private:
  void add(std::string_view reason, std::string field, std::string message);
  std::vector<ErrorCause> causes_;
};

struct ValidateOptions {
  const boost::json::object* before = nullptr;  // the present object; null on create
  std::string_view subresource;                 // "status", "approval": spec is not looked at again
};

// `document` is decoded and defaulted, and has a name (or only generateName, on create).
Result<> validate(const KindInfo& kind, const boost::json::object& document, const ValidateOptions& options = {});

}  // namespace dhow::object
