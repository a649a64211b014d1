// The one error type. Codes are canonical; what Docker, Kubernetes, HTTP or gRPC call them is decided in the
// folders at the edge.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dhow {

enum class Code {
  kUnknown,
  kCancelled,
  kBadRequest,            // the request cannot be understood (HTTP 400)
  kUnauthenticated,       // 401
  kPermissionDenied,      // 403
  kNotFound,              // 404
  kMethodNotAllowed,      // 405
  kNotAcceptable,         // 406
  kAlreadyExists,         // 409, the name is taken
  kConflict,              // 409, the state changed or forbids it
  kExpired,               // 410, the revision is gone
  kTooLarge,              // 413
  kUnsupportedMediaType,  // 415
  kInvalid,               // 422, understood, but the content breaks a rule
  kTooManyRequests,       // 429
  kInternal,              // 500
  kUnimplemented,         // 501
  kUnavailable,           // 503, try again
  kDeadlineExceeded,      // 504
  kFailedPrecondition,    // not now, the state must change first
  kDataLoss,              // stored bytes are damaged
};

std::string_view codeName(Code code);

// One field's share in an error, as a Kubernetes Status lists them.
struct ErrorCause {
  std::string reason;  // "FieldValueInvalid", "FieldManagerConflict", ...
  std::string message;
  std::string field;
};

class [[nodiscard]] Error {
 public:
  Error(Code code, std::string message, int errnum = 0) : code_(code), errnum_(errnum), message_(std::move(message)) {}

  // From errno: the code is derived from it, the message ends with its text.
  static Error fromErrno(int errnum, std::string_view attempted);
  static Error fromErrno(std::string_view attempted);

  Code code() const { return code_; }
  int errnum() const { return errnum_; }
  const std::string& message() const { return message_; }
  bool is(Code code) const { return code_ == code; }

  // Puts what was attempted before the message: "pull nginx: connection refused".
  Error&& wrap(std::string_view attempted) &&;
  Error wrap(std::string_view attempted) const&;

  Error&& withCauses(std::vector<ErrorCause> causes) &&;
  const std::vector<ErrorCause>& causes() const { return causes_; }
  Error&& withRetryAfter(int seconds) &&;
  int retryAfterSeconds() const { return retryAfterSeconds_; }

 private:
  Code code_;
  int errnum_;
  int retryAfterSeconds_ = 0;
  std::string message_;
  std::vector<ErrorCause> causes_;
};

}  // namespace dhow
