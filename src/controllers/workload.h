// What the controllers of workloads share: pods' states, selectors, claiming what belongs to an owner, conditions.
#pragma once

#include <boost/json/object.hpp>

#include <optional>
#include <string>
#include <vector>

#include "client/fields.h"
#include "component.h"
#include "object/selector.h"

namespace dhow::controllers {

using client::Object;
using client::ObjectPtr;
namespace json = boost::json;

// Names of the cache indexes.
inline constexpr char kByOwner[] = "controllerUid";  // uid of the managing controller
inline constexpr char kOrphans[] = "orphansOf";      // namespace, of objects without a managing controller

void indexByOwner(client::Cache& cache);

bool podFinished(const Object& pod);  // Succeeded or Failed
bool podActive(const Object& pod);    // neither finished nor being deleted
bool podReady(const Object& pod);
// Ready for at least `minReadySeconds`.
bool podAvailable(const Object& pod, int64_t minReadySeconds, WallTime now);

object::LabelSelector selectorOf(const Object& owner);
std::string nameSuffix(uint64_t random, size_t length = 5);

// Sets a condition of status.conditions. lastTransitionTime stays when the status does. Gives whether status, reason or
// message changed.
bool setCondition(json::object& status, std::string_view type, std::string_view value, std::string_view reason,
                  std::string_view message, WallTime now);
bool removeCondition(json::object& status, std::string_view type);

// Of `candidates`: those that `owner` controls or may adopt by its selector. Adopts and releases on the way.
// `isSame` asks the API itself whether the owner still lives, before the first adoption.
Task<Result<std::vector<ObjectPtr>>> claim(Context context, client::Resource resource, client::Resource ownerResource,
                                           ObjectPtr owner, object::LabelSelector selector,
                                           std::vector<ObjectPtr> candidates);

// Runs all at once and returns when the last has ended; the results in order.
Task<std::vector<Result<>>> together(Loop& loop, std::vector<Task<Result<>>> tasks);

}  // namespace dhow::controllers
