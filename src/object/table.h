// `kubectl get` as the server renders it: meta.k8s.io/v1 Table.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/time.h"
#include "object/kinds.h"
#include "object/object.h"

namespace dhow::object {

enum class IncludeObject : uint8_t { kMetadata, kObject, kNone };

struct TableOptions {
  IncludeObject include = IncludeObject::kMetadata;
  bool header = true;  // columnDefinitions; false after the first event of a watch
  WallTime now;        // ages count to it
  std::string resourceVersion, continueToken;
  std::optional<int64_t> remaining;
  // The cell of a pod that its document does not tell: SESSIONS. Empty: as a pod of which nothing is counted.
  std::function<std::string(const Object& pod)> podSessions;
};

// The encoded Table.
std::string renderTable(const KindInfo& kind, std::span<const ObjectPtr> objects, const TableOptions& options);

// metadata only, as meta.k8s.io/v1 PartialObjectMetadata; encoded.
std::string renderMetadata(const Object& object);

// "2d3h" and the like, as kubectl prints ages.
std::string humanDuration(std::chrono::nanoseconds duration);

}  // namespace dhow::object
