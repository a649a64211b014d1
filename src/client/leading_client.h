// A Client that writes only while its process leads: what a controller began before the leadership was lost does not
// write after it. Reads go through.
#pragma once

#include "client/client.h"
#include "client/leader.h"

namespace dhow::client {

class LeadingClient final : public Client {
 public:
  // Both outlive it.
  LeadingClient(Client& inner, const LeaderElector& elector) : inner_(inner), elector_(elector) {}

  Task<Result<ObjectPtr>> get(const Resource& resource, std::string ns, std::string name) override;
  Task<Result<List>> list(const Resource& resource, ListOptions options) override;
  Task<Result<std::unique_ptr<Watcher>>> watch(const Resource& resource, ListOptions options,
                                               std::string resourceVersion) override;
  // The writes: kFailedPrecondition when another may lead by now.
  Task<Result<ObjectPtr>> create(const Resource& resource, std::string ns, boost::json::object body, std::string name,
                                 std::string subresource) override;
  Task<Result<ObjectPtr>> update(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                 boost::json::object body) override;
  Task<Result<ObjectPtr>> patch(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                PatchType type, boost::json::value body) override;
  Task<Result<>> remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) override;

 private:
  Client& inner_;
  const LeaderElector& elector_;
};

}  // namespace dhow::client
