// The API's inside: one call, its route, and the groups of routes. docker_api.h is what others see.
#pragma once

#include <boost/json/value.hpp>

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "../fields.h"
#include "engine/engine.h"
#include "http/server.h"

namespace dhow::engine::docker {

inline constexpr int kMaxVersion = 51;  // API 1.51
inline constexpr int kMinVersion = 24;

struct Call {
  Engine& engine;
  http::Request& request;
  http::ResponseWriter& writer;
  std::vector<std::string> args;  // what the pattern's {} matched, decoded
  int version = kMaxVersion;      // minor: 41 is API 1.41

  std::string query(std::string_view name) const { return std::string(request.query.get(name)); }
  // Docker's booleans: "", "0", "no", "false" and "none" are false.
  bool flag(std::string_view name, bool missing = false) const;
  // Seconds since the epoch with a fraction, or RFC 3339.
  std::optional<WallTime> time(std::string_view name) const;
  // The whole body as JSON; empty is an empty object. kBadRequest.
  Task<Result<json::object>> body();
  Task<Result<>> reply(int status, json::value value);
  Task<Result<>> reply(int status);
};

struct Route {
  std::string_view method;
  // "/containers/{}/json". {} is one segment, or several where more of the pattern follows (image names hold slashes).
  std::string_view pattern;
  Task<Result<>> (*run)(Call& call);
};

std::span<const Route> systemRoutes();
std::span<const Route> containerRoutes();
std::span<const Route> streamRoutes();  // attach, logs, exec, wait
std::span<const Route> imageRoutes();
std::span<const Route> volumeRoutes();
std::span<const Route> networkRoutes();

// Filters as clients send them: {"label":["a=b"]} or {"label":{"a=b":true}}.
class Filters {
 public:
  static Result<Filters> parse(std::string_view json, std::span<const std::string_view> known);
  const std::vector<std::string>& of(std::string_view name) const;
  bool has(std::string_view name) const { return !of(name).empty(); }
  // Whether the labels have all that "label" asks for: "key" or "key=value".
  bool labelsMatch(const json::object& labels) const;

 private:
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
};

int httpStatusOf(const Error& error);

}  // namespace dhow::engine::docker
