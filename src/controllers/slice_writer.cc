#include "slice_writer.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kEndpointSlices;

namespace {

bool sameAddressType(const Object& slice, const json::object& wanted) {
  return text(slice.root(), {"addressType"}) == text(wanted, "addressType");
}

bool sameContent(const Object& slice, const json::object& wanted) {
  return sameAddressType(slice, wanted) && array(slice.root(), {"endpoints"}) == wanted.at("endpoints") &&
         array(slice.root(), {"ports"}) == wanted.at("ports") &&
         client::object(slice.root(), {"metadata", "labels"}) == wanted.at("metadata").at("labels");
}

// Takes the first that `fits`; null when there is none.
template <class Fits>
ObjectPtr takeFirst(std::vector<ObjectPtr>& from, Fits fits) {
  auto found = std::find_if(from.begin(), from.end(), [&](const ObjectPtr& slice) { return fits(*slice); });
  if (found == from.end()) return nullptr;
  ObjectPtr taken = std::move(*found);
  from.erase(found);
  return taken;
}

}  // namespace

Task<Result<>> writeSlices(Context context, std::string ns, std::vector<ObjectPtr> existing,
                           std::vector<json::object> wanted) {
  // Whole matches first, so that what need not change does not.
  std::erase_if(wanted, [&](const json::object& slice) {
    return takeFirst(existing, [&](const Object& have) { return sameContent(have, slice); }) != nullptr;
  });
  for (json::object& slice : wanted) {
    ObjectPtr reused = takeFirst(existing, [&](const Object& have) { return sameAddressType(have, slice); });
    if (!reused) {
      Result<ObjectPtr> created = co_await context.client.create(kEndpointSlices, ns, std::move(slice));
      if (!created.ok()) co_return std::move(created).error();
      continue;
    }
    json::object document = copyOf(reused);
    document["endpoints"] = std::move(slice["endpoints"]);
    document["ports"] = std::move(slice["ports"]);
    metadataOf(document)["labels"] = std::move(metadataOf(slice)["labels"]);
    Result<ObjectPtr> updated =
        co_await context.client.update(kEndpointSlices, ns, std::string(reused->name()), "", std::move(document));
    if (!updated.ok()) co_return std::move(updated).error();
  }
  for (const ObjectPtr& surplus : existing) {
    Result<> removed = co_await context.client.remove(kEndpointSlices, ns, std::string(surplus->name()), {});
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  }
  co_return Result<>();
}

}  // namespace dhow::controllers
