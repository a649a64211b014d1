#include "client/leading_client.h"

namespace dhow::client {

namespace {

Task<Result<ObjectPtr>> refuse() {
  co_return Error(Code::kFailedPrecondition, "this process no longer leads");
}
Task<Result<>> refuseRemoval() {
  co_return Error(Code::kFailedPrecondition, "this process no longer leads");
}

}  // namespace

Task<Result<ObjectPtr>> LeadingClient::get(const Resource& resource, std::string ns, std::string name) {
  return inner_.get(resource, std::move(ns), std::move(name));
}

Task<Result<List>> LeadingClient::list(const Resource& resource, ListOptions options) {
  return inner_.list(resource, std::move(options));
}

Task<Result<std::unique_ptr<Watcher>>> LeadingClient::watch(const Resource& resource, ListOptions options,
                                                            std::string resourceVersion) {
  return inner_.watch(resource, std::move(options), std::move(resourceVersion));
}

Task<Result<ObjectPtr>> LeadingClient::create(const Resource& resource, std::string ns, boost::json::object body,
                                              std::string name, std::string subresource) {
  if (!elector_.leading()) return refuse();
  return inner_.create(resource, std::move(ns), std::move(body), std::move(name), std::move(subresource));
}

Task<Result<ObjectPtr>> LeadingClient::update(const Resource& resource, std::string ns, std::string name,
                                              std::string subresource, boost::json::object body) {
  if (!elector_.leading()) return refuse();
  return inner_.update(resource, std::move(ns), std::move(name), std::move(subresource), std::move(body));
}

Task<Result<ObjectPtr>> LeadingClient::patch(const Resource& resource, std::string ns, std::string name,
                                             std::string subresource, PatchType type, boost::json::value body) {
  if (!elector_.leading()) return refuse();
  return inner_.patch(resource, std::move(ns), std::move(name), std::move(subresource), type, std::move(body));
}

Task<Result<>> LeadingClient::remove(const Resource& resource, std::string ns, std::string name,
                                     DeleteOptions options) {
  if (!elector_.leading()) return refuseRemoval();
  return inner_.remove(resource, std::move(ns), std::move(name), std::move(options));
}

}  // namespace dhow::client
