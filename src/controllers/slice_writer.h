// Brings the EndpointSlices of one keeper and service to what is wanted, with as few writes as that takes.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <vector>

#include "workload.h"

namespace dhow::controllers {

// `existing`: the slices that are the keeper's own and not being deleted; `wanted`: whole documents. A slice is used
// again for another content, but never for another kind of address, which is fixed.
Task<Result<>> writeSlices(Context context, std::string ns, std::vector<ObjectPtr> existing,
                           std::vector<json::object> wanted);

}  // namespace dhow::controllers
