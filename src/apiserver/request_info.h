// A URL taken apart: which kind, which object, which verb. And what the client wants to read.
#pragma once

#include <string>
#include <string_view>

#include "authorizer.h"
#include "http/message.h"

namespace dhow::apiserver {

struct RequestInfo {
  bool isResource = false;
  std::string verb;  // get, list, watch, create, update, patch, delete, deletecollection; or the method in lower case
  std::string group;
  std::string version;
  std::string plural;
  std::string subresource;
  std::string ns;
  std::string name;
  std::string path;  // of proxy and of what is not a resource
  std::string rest;  // behind the subresource: nodes/x/proxy/<rest>

  Attributes attributes(const http::Request& request) const;
};

// kBadRequest when the path is malformed.
Result<RequestInfo> parseRequest(const http::Request& request);

enum class View { kObject, kTable, kMetadata, kPodAddress };
struct Accepted {
  View view = View::kObject;
  bool aggregatedDiscovery = false;
};
// The first media type in Accept that we have. kNotAcceptable when there is none.
Result<Accepted> negotiate(std::string_view accept);

// An object in a list, a watch or alone, as that view shows it (a table renders many at once).
std::string renderItem(View view, const object::Object& object);

bool truthy(std::string_view text);

}  // namespace dhow::apiserver
