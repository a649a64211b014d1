// The three patches that change a document from outside its schema. Server-side apply is in apply.h. The outcome still
// has to pass conform(), applyDefaults() and validate().
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include "base/result.h"
#include "object/schema.h"

namespace dhow::object {

// RFC 6902. kBadRequest: malformed. kInvalid: a path is missing or a test fails ("the server rejected our request due
// to an error in our request"). At most 10,000 operations, as in Kubernetes (kTooLarge).
Result<boost::json::value> applyJsonPatch(boost::json::value document, const boost::json::value& patch);

// RFC 7386.
boost::json::value applyMergePatch(boost::json::value document, const boost::json::value& patch);

// Kubernetes strategic merge: lists merge by the schema's merge keys; $patch, $retainKeys, $setElementOrder/x,
// $deleteFromPrimitiveList/x. kBadRequest on a malformed directive.
Result<boost::json::object> applyStrategicPatch(const Type& type, boost::json::object document,
                                                const boost::json::object& patch);

}  // namespace dhow::object
