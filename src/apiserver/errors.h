// Errors in Kubernetes' words: the texts that kubectl prints, and the Status that carries them.
#pragma once

#include <boost/json/object.hpp>

#include <string>
#include <string_view>

#include "base/error.h"
#include "object/resource.h"

namespace dhow::apiserver {

namespace json = boost::json;
using object::Resource;

// "pods", "deployments.apps".
std::string qualified(std::string_view plural, std::string_view group);
inline std::string qualified(const Resource& resource) {
  return qualified(resource.plural, resource.group);
}

Error notFound(const Resource& resource, std::string_view name);
Error alreadyExists(const Resource& resource, std::string_view name);
Error modified(const Resource& resource, std::string_view name);  // kConflict: read again
Error conflict(const Resource& resource, std::string_view name, std::string_view why);
Error invalid(std::string_view kind, std::string_view group, std::string_view name, std::vector<ErrorCause> causes);
Error forbidden(const Resource& resource, std::string_view name, std::string_view why);

// What the request was about, for Status.details.
struct Subject {
  std::string group;
  std::string plural;
  std::string kind;
  std::string name;
};

int httpStatus(Code code);
std::string_view statusReason(Code code);
json::object statusOf(const Error& error, const Subject& subject);
json::object successStatus(const Subject& subject, std::string_view uid);

}  // namespace dhow::apiserver
