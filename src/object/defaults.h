// Fills in what Kubernetes fills in. Idempotent. Run after decoding and after every patch, before validation.
#pragma once

#include <boost/json/object.hpp>

#include "object/kinds.h"

namespace dhow::object {

void applyDefaults(const KindInfo& kind, boost::json::object& document);

}  // namespace dhow::object
