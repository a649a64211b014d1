// YAML to JSON. One document; anchors and merge keys are followed within a bound, so that a small text cannot grow
// without end.
#pragma once

#include <boost/json/value.hpp>

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace dhow {

struct YamlLimits {
  size_t nodes = 1'000'000;
  int depth = 100;
};

// kBadRequest on a syntax error, with line and column. With `duplicates`, repeated keys are reported there by path
// ("spec.replicas") and the last one wins; without it they are an error.
Result<boost::json::value> parseYaml(std::string_view text, std::vector<std::string>* duplicates = nullptr,
                                     const YamlLimits& limits = {});

}  // namespace dhow
