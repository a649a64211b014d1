#include "errors.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>

namespace dhow::apiserver {

std::string qualified(std::string_view plural, std::string_view group) {
  return group.empty() ? std::string(plural) : fmt::format("{}.{}", plural, group);
}

Error notFound(const Resource& resource, std::string_view name) {
  return Error(Code::kNotFound, fmt::format("{} \"{}\" not found", qualified(resource), name));
}

Error alreadyExists(const Resource& resource, std::string_view name) {
  return Error(Code::kAlreadyExists, fmt::format("{} \"{}\" already exists", qualified(resource), name));
}

Error modified(const Resource& resource, std::string_view name) {
  return conflict(resource, name,
                  "the object has been modified; please apply your changes to the latest version and try again");
}

Error conflict(const Resource& resource, std::string_view name, std::string_view why) {
  return Error(Code::kConflict,
               fmt::format("Operation cannot be fulfilled on {} \"{}\": {}", qualified(resource), name, why));
}

Error invalid(std::string_view kind, std::string_view group, std::string_view name, std::vector<ErrorCause> causes) {
  std::string text;
  for (const auto& cause : causes) {
    if (!text.empty()) text += ", ";
    text += cause.field.empty() ? cause.message : fmt::format("{}: {}", cause.field, cause.message);
  }
  if (causes.size() > 1) text = "[" + text + "]";
  return Error(Code::kInvalid, fmt::format("{} \"{}\" is invalid: {}", qualified(kind, group), name, text))
      .withCauses(std::move(causes));
}

Error forbidden(const Resource& resource, std::string_view name, std::string_view why) {
  if (name.empty()) return Error(Code::kPermissionDenied, fmt::format("{} is forbidden: {}", qualified(resource), why));
  return Error(Code::kPermissionDenied, fmt::format("{} \"{}\" is forbidden: {}", qualified(resource), name, why));
}

int httpStatus(Code code) {
  switch (code) {
    case Code::kBadRequest: return 400;
    case Code::kUnauthenticated: return 401;
    case Code::kPermissionDenied: return 403;
    case Code::kNotFound: return 404;
    case Code::kMethodNotAllowed: return 405;
    case Code::kNotAcceptable: return 406;
    case Code::kAlreadyExists:
    case Code::kConflict:
    case Code::kFailedPrecondition: return 409;
    case Code::kExpired: return 410;
    case Code::kTooLarge: return 413;
    case Code::kUnsupportedMediaType: return 415;
    case Code::kInvalid: return 422;
    case Code::kTooManyRequests: return 429;
    case Code::kUnimplemented: return 501;
    case Code::kCancelled:
    case Code::kUnavailable: return 503;
    case Code::kDeadlineExceeded: return 504;
    case Code::kUnknown:
    case Code::kInternal:
    case Code::kDataLoss: return 500;
  }
  return 500;
}

std::string_view statusReason(Code code) {
  switch (code) {
    case Code::kBadRequest: return "BadRequest";
    case Code::kUnauthenticated: return "Unauthorized";
    case Code::kPermissionDenied: return "Forbidden";
    case Code::kNotFound: return "NotFound";
    case Code::kMethodNotAllowed: return "MethodNotAllowed";
    case Code::kNotAcceptable: return "NotAcceptable";
    case Code::kAlreadyExists: return "AlreadyExists";
    case Code::kConflict:
    case Code::kFailedPrecondition: return "Conflict";
    case Code::kExpired: return "Expired";
    case Code::kTooLarge: return "RequestEntityTooLarge";
    case Code::kUnsupportedMediaType: return "UnsupportedMediaType";
    case Code::kInvalid: return "Invalid";
    case Code::kTooManyRequests: return "TooManyRequests";
    case Code::kUnimplemented: return "NotImplemented";
    case Code::kCancelled:
    case Code::kUnavailable: return "ServiceUnavailable";
    case Code::kDeadlineExceeded: return "Timeout";
    case Code::kUnknown:
    case Code::kInternal:
    case Code::kDataLoss: return "InternalError";
  }
  return "InternalError";
}

json::object statusOf(const Error& error, const Subject& about) {
  // kubectl shows the message of an invalid request without causes only when its details name no object.
  bool bare = error.is(Code::kInvalid) && error.causes().empty();
  Subject subject = bare ? Subject{} : about;
  json::object details;
  if (!subject.name.empty()) details["name"] = subject.name;
  if (!subject.group.empty()) details["group"] = subject.group;
  std::string_view kind = error.is(Code::kInvalid) && !subject.kind.empty() ? subject.kind : subject.plural;
  if (!kind.empty()) details["kind"] = kind;
  if (!error.causes().empty()) {
    json::array causes;
    for (const auto& cause : error.causes()) {
      json::object one{{"reason", cause.reason}, {"message", cause.message}};
      if (!cause.field.empty()) one["field"] = cause.field;
      causes.push_back(std::move(one));
    }
    details["causes"] = std::move(causes);
  }
  if (error.retryAfterSeconds() > 0) details["retryAfterSeconds"] = error.retryAfterSeconds();
  json::object status{{"kind", "Status"},    {"apiVersion", "v1"},         {"metadata", json::object{}},
                      {"status", "Failure"}, {"message", error.message()}, {"reason", statusReason(error.code())}};
  status["details"] = std::move(details);  // never absent: kubectl debug reads it unseen
  status["code"] = httpStatus(error.code());
  return status;
}

json::object successStatus(const Subject& subject, std::string_view uid) {
  json::object details;
  if (!subject.name.empty()) details["name"] = subject.name;
  if (!subject.group.empty()) details["group"] = subject.group;
  details["kind"] = subject.plural;
  if (!uid.empty()) details["uid"] = uid;
  return {{"kind", "Status"},
          {"apiVersion", "v1"},
          {"metadata", json::object{}},
          {"status", "Success"},
          {"details", std::move(details)}};
}

}  // namespace dhow::apiserver
