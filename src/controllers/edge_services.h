// Services of type LoadBalancer in kube-system that lead to the nodes whose proxies serve: a condition of theirs says
// so (client::kServesIngress). Each has an EndpointSlice of the nodes' addresses for each of its families.
#pragma once

#include <optional>

#include "component.h"

namespace dhow::controllers {

class EdgeServices {
 public:
  static constexpr const char* kNamespace = "kube-system";
  // What is kept is labelled with `manager`.
  EdgeServices(Context context, std::string manager);
  // Calls `changed` for changes of what is kept and of nodes that serve.
  void watch(client::Controller& controller, std::function<void(client::WorkQueue&)> changed);

  struct Port {
    std::string name;
    int64_t port = 0, nodePort = 0;  // of the service, and where nodes listen
  };
  struct Wanted {
    std::string name;
    boost::json::object labels, annotations;
    std::optional<std::string> loadBalancerIp;  // missing: whatever somebody has asked for
    std::vector<Port> ports;
  };
  Task<Result<>> keep(Wanted wanted);
  Task<Result<>> remove(std::string name);
  // Those that are kept, by name.
  std::vector<client::ObjectPtr> all() const;
  client::ObjectPtr find(std::string_view name) const { return services_.get(kNamespace, name); }
  std::vector<std::string> addresses(std::string_view name) const;
  bool anyNode() const;

 private:
  std::vector<client::ObjectPtr> serving() const;
  Task<Result<>> keepService(const Wanted& wanted);
  std::vector<client::ObjectPtr> slicesOf(std::string_view name) const;
  boost::json::object sliceOf(const Wanted& wanted, bool six) const;

  Context context_;
  const std::string manager_;
  client::Cache& services_;
  client::Cache& slices_;
  client::Cache& nodes_;
};

}  // namespace dhow::controllers
