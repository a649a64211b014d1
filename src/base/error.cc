#include "error.h"

#include <cerrno>
#include <cstring>

namespace dhow {

std::string_view codeName(Code code) {
  switch (code) {
    case Code::kUnknown: return "Unknown";
    case Code::kCancelled: return "Cancelled";
    case Code::kBadRequest: return "BadRequest";
    case Code::kUnauthenticated: return "Unauthenticated";
    case Code::kPermissionDenied: return "PermissionDenied";
    case Code::kNotFound: return "NotFound";
    case Code::kMethodNotAllowed: return "MethodNotAllowed";
    case Code::kNotAcceptable: return "NotAcceptable";
    case Code::kAlreadyExists: return "AlreadyExists";
    case Code::kConflict: return "Conflict";
    case Code::kExpired: return "Expired";
    case Code::kTooLarge: return "TooLarge";
    case Code::kUnsupportedMediaType: return "UnsupportedMediaType";
    case Code::kInvalid: return "Invalid";
    case Code::kTooManyRequests: return "TooManyRequests";
    case Code::kInternal: return "Internal";
    case Code::kUnimplemented: return "Unimplemented";
    case Code::kUnavailable: return "Unavailable";
    case Code::kDeadlineExceeded: return "DeadlineExceeded";
    case Code::kFailedPrecondition: return "FailedPrecondition";
    case Code::kDataLoss: return "DataLoss";
  }
  return "Unknown";
}

namespace {
Code codeOfErrno(int errnum) {
  switch (errnum) {
    case ENOENT:
    case ESRCH: return Code::kNotFound;
    case EEXIST: return Code::kAlreadyExists;
    case EACCES:
    case EPERM: return Code::kPermissionDenied;
    case EINVAL: return Code::kBadRequest;
    case ETIMEDOUT: return Code::kDeadlineExceeded;
    case ECANCELED: return Code::kCancelled;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENETUNREACH:
    case EHOSTUNREACH: return Code::kUnavailable;
    case EBUSY: return Code::kFailedPrecondition;
    default: return Code::kInternal;
  }
}
}  // namespace

Error Error::fromErrno(int errnum, std::string_view attempted) {
  std::string message(attempted);
  message += ": ";
  message += std::strerror(errnum);
  return Error(codeOfErrno(errnum), std::move(message), errnum);
}

Error Error::fromErrno(std::string_view attempted) {
  return fromErrno(errno, attempted);
}

Error&& Error::wrap(std::string_view attempted) && {
  message_.insert(0, ": ").insert(0, attempted);
  return std::move(*this);
}

Error Error::wrap(std::string_view attempted) const& {
  return Error(*this).wrap(attempted);
}

Error&& Error::withCauses(std::vector<ErrorCause> causes) && {
  causes_ = std::move(causes);
  return std::move(*this);
}

Error&& Error::withRetryAfter(int seconds) && {
  retryAfterSeconds_ = seconds;
  return std::move(*this);
}

}  // namespace dhow
