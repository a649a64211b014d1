// Errors that several operations share.
#pragma once

#include <string_view>

#include "base/result.h"

namespace dhow::engine {

inline Error noSuchContainer(std::string_view ref) {
  return Error(Code::kNotFound, "No such container: " + std::string(ref));
}

// What the runtime says about a process that has ended just before it was asked for.
inline bool hasEnded(const Error& error) {
  return error.is(Code::kNotFound) || error.is(Code::kFailedPrecondition) || error.is(Code::kUnavailable);
}

}  // namespace dhow::engine
