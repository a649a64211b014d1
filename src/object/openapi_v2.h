// The OpenAPI v2 document as protobuf.
#pragma once

#include <boost/json/object.hpp>

#include <string>

namespace dhow::object {

// `document` is one that openapi.cc made.
std::string openApiV2Protobuf(const boost::json::object& document);

}  // namespace dhow::object
