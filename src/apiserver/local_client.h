// client/client.h inside the server process: calls the registry itself, as one of the server's own components. No
// authorization, no encoding, no copies.
#pragma once

#include "apiserver/caller.h"
#include "apiserver/registry.h"
#include "client/client.h"

namespace dhow::apiserver {

class LocalClient final : public client::Client {
 public:
  // `caller.user` is also the field manager, e.g. "deployment-controller".
  LocalClient(Registry& registry, Caller caller) : registry_(registry), caller_(std::move(caller)) {}

  Loop& loop() { return registry_.loop(); }

  Task<Result<ObjectPtr>> get(const Resource& resource, std::string ns, std::string name) override;
  Task<Result<client::List>> list(const Resource& resource, client::ListOptions options) override;
  Task<Result<std::unique_ptr<client::Watcher>>> watch(const Resource& resource, client::ListOptions options,
                                                       std::string resourceVersion) override;
  Task<Result<ObjectPtr>> create(const Resource& resource, std::string ns, json::object body, std::string name,
                                 std::string subresource) override;
  Task<Result<ObjectPtr>> update(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                 json::object body) override;
  Task<Result<ObjectPtr>> patch(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                PatchType type, json::value body) override;
  Task<Result<>> remove(const Resource& resource, std::string ns, std::string name,
                        client::DeleteOptions options) override;

 private:
  Context context() const;
  Result<const KindInfo*> kindOf(const Resource& resource) const;

  Registry& registry_;
  Caller caller_;
};

}  // namespace dhow::apiserver
