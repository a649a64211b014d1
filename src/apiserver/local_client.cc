#include "apiserver/local_client.h"

#include <deque>

namespace dhow::apiserver {

namespace {

class LocalWatcher final : public client::Watcher {
 public:
  explicit LocalWatcher(std::unique_ptr<KindWatch> watch) : watch_(std::move(watch)) {}

  Task<Result<client::WatchEvent>> next() override {
    while (events_.empty()) {
      auto batch = co_await watch_->next();
      CO_RETURN_IF_ERROR(batch);
      for (auto& event : batch->events) events_.push_back(std::move(event));
    }
    client::WatchEvent event = std::move(events_.front());
    events_.pop_front();
    co_return event;
  }
  void close() override { watch_->close(); }

 private:
  std::unique_ptr<KindWatch> watch_;
  std::deque<client::WatchEvent> events_;
};

}  // namespace

Context LocalClient::context() const {
  Context context;
  context.caller = caller_;
  context.fieldManager = caller_.user;
  return context;
}

Result<const KindInfo*> LocalClient::kindOf(const Resource& resource) const {
  const auto* kind = registry_.kinds().find(resource);
  if (!kind) return Error(Code::kNotFound, "the server could not find the requested resource");
  return kind;
}

Task<Result<ObjectPtr>> LocalClient::get(const Resource& resource, std::string ns, std::string name) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  co_return co_await registry_.get(*kind, std::move(ns), std::move(name));
}

Task<Result<client::List>> LocalClient::list(const Resource& resource, client::ListOptions options) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  ListQuery query;
  query.ns = std::move(options.ns);
  query.labelSelector = std::move(options.labelSelector);
  query.fieldSelector = std::move(options.fieldSelector);
  CO_ASSIGN_OR_RETURN(auto outcome, co_await registry_.list(*kind, std::move(query)));
  co_return client::List{std::move(outcome.items), std::to_string(outcome.revision)};
}

Task<Result<std::unique_ptr<client::Watcher>>> LocalClient::watch(const Resource& resource, client::ListOptions options,
                                                                  std::string resourceVersion) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  WatchQuery query;
  query.ns = std::move(options.ns);
  query.labelSelector = std::move(options.labelSelector);
  query.fieldSelector = std::move(options.fieldSelector);
  query.resourceVersion = std::move(resourceVersion);
  CO_ASSIGN_OR_RETURN(auto watch, co_await registry_.watch(*kind, std::move(query)));
  std::unique_ptr<client::Watcher> watcher = std::make_unique<LocalWatcher>(std::move(watch));
  co_return watcher;
}

Task<Result<ObjectPtr>> LocalClient::create(const Resource& resource, std::string ns, json::object body,
                                            std::string name, std::string subresource) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  if (!subresource.empty()) {
    co_return co_await registry_.createSubresource(context(), *kind, std::move(ns), std::move(name),
                                                   std::move(subresource), std::move(body));
  }
  CO_ASSIGN_OR_RETURN(auto outcome, co_await registry_.create(context(), *kind, std::move(ns), std::move(body)));
  co_return outcome.object;
}

Task<Result<ObjectPtr>> LocalClient::update(const Resource& resource, std::string ns, std::string name,
                                            std::string subresource, json::object body) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  CO_ASSIGN_OR_RETURN(auto outcome, co_await registry_.update(context(), *kind, std::move(ns), std::move(name),
                                                              std::move(subresource), std::move(body)));
  co_return outcome.object;
}

Task<Result<ObjectPtr>> LocalClient::patch(const Resource& resource, std::string ns, std::string name,
                                           std::string subresource, PatchType type, json::value body) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  Context caller = context();
  caller.force = type == PatchType::kApply;
  CO_ASSIGN_OR_RETURN(auto outcome, co_await registry_.patch(std::move(caller), *kind, std::move(ns), std::move(name),
                                                             std::move(subresource), type, std::move(body)));
  co_return outcome.object;
}

Task<Result<>> LocalClient::remove(const Resource& resource, std::string ns, std::string name,
                                   client::DeleteOptions options) {
  CO_ASSIGN_OR_RETURN(const auto* kind, kindOf(resource));
  DeleteQuery query{options.gracePeriodSeconds, std::move(options.propagationPolicy), std::move(options.uid),
                    std::move(options.resourceVersion)};
  CO_RETURN_IF_ERROR(co_await registry_.remove(context(), *kind, std::move(ns), std::move(name), std::move(query)));
  co_return Result<>();
}

}  // namespace dhow::apiserver
