// Server-side apply and the ownership of fields (metadata.managedFields, fieldsV1).
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>

#include "base/result.h"
#include "base/time.h"
#include "object/kinds.h"

namespace dhow::object {

struct Manager {
  std::string name;         // the fieldManager parameter
  std::string subresource;  // "status", "scale"; empty for the object itself
};

struct ApplyOptions {
  Manager manager;
  bool force = false;
  WallTime now;
};

// The object that results when `config` (decoded and conformed, not defaulted) is applied over `live` (null: create),
// with managedFields updated: fields of the config are set and owned, fields that only this manager owned and no longer
// lists are removed. kConflict with a FieldManagerConflict cause per field when others own a field with another value
// and `force` is not set.
Result<boost::json::object> applyConfig(const KindInfo& kind, const boost::json::object* live,
                                        boost::json::object config, const ApplyOptions& options);

// Any other write: gives the manager ("Update") the fields that differ between `before` (null: create) and `after`,
// takes them from others, forgets fields that are gone, and stores managedFields in `after`. Nothing changes when
// nothing differs.
void trackUpdate(const KindInfo& kind, const boost::json::object* before, boost::json::object& after,
                 const Manager& manager, WallTime now);

// True when a write would change nothing that counts: equal up to managedFields' times and resourceVersion. The
// caller then keeps the present object and its resourceVersion.
bool sameContent(const boost::json::object& before, const boost::json::object& after);

// A fieldManager name from a User-Agent: what stands before the first '/'.
std::string managerFromUserAgent(std::string_view userAgent);

}  // namespace dhow::object
