#include "token_cleaner.h"

#include "client/bootstrap_token.h"
#include "client/fields.h"

namespace dhow::controllers {

using namespace client;
using object::resources::kSecrets;

TokenCleaner::TokenCleaner(Context context)
    : context_(context),
      secrets_(context.caches.of(kSecrets)),
      controller_(context.loop, {.name = "tokencleaner", .workers = 1},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watch(secrets_, [](const ObjectPtr&, const ObjectPtr& after, WorkQueue& queue) {
    if (after && after->ns() == kBootstrapTokenNamespace && text(after->root(), {"type"}) == kBootstrapTokenType)
      queue.add(std::string(after->key()));
  });
}

Task<Result<>> TokenCleaner::reconcile(std::string key) {
  auto [ns, name] = splitKey(key);
  ObjectPtr secret = secrets_.get(ns, name);
  if (!secret || secret->deleting()) co_return Result<>();
  auto record = readBootstrapToken(*secret);
  // What is no token lets nobody in, and is its writer's.
  if (!record.ok() || !record->expires) co_return Result<>();
  const WallTime now = context_.loop.wallNow();
  if (!record->expired(now)) {
    controller_.queue().addAfter(key, *record->expires - now);
    co_return Result<>();
  }
  DeleteOptions options;
  options.uid = secret->uid();
  auto removed = co_await context_.client.remove(kSecrets, std::string(ns), std::string(name), std::move(options));
  if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return removed;
  co_return Result<>();
}

}  // namespace dhow::controllers
