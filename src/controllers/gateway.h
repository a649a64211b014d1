// What a cluster does for its Gateways of classes of ours (`controllerName: dhow.io/gateway`): each has a Service of
// type LoadBalancer in kube-system, whose ports lead to ports of the nodes that no other gateway has; its address
// becomes the gateway's. The status of classes, gateways, routes and policies says how they were judged. The nodes read
// the ports from the service.
#pragma once

#include <map>
#include <set>

#include "component.h"
#include "edge_services.h"
#include "ingress/gateway.h"

namespace dhow::controllers {

class GatewayController final : public Component {
 public:
  explicit GatewayController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  ingress::GatewayVerdicts judge();
  Task<Result<>> keepClasses();
  Task<Result<>> keepServices(const ingress::GatewayVerdicts& verdicts);
  Task<Result<>> keepGateway(const ingress::GatewayVerdict& verdict);
  // Of all objects of a kind, those that were judged and those that no longer are.
  Task<Result<>> keepParents(client::Resource resource, std::string list, std::string reference,
                             const std::vector<ingress::AttachmentVerdict>& verdicts);
  Task<Result<>> writeStatus(client::Resource resource, client::ObjectPtr object, boost::json::object status);
  std::vector<EdgeServices::Port> portsFor(const ingress::GatewayVerdict& verdict, std::set<uint16_t>& taken) const;

  Context context_;
  client::Cache& classes_;
  client::Cache& gateways_;
  client::Cache& grants_;
  client::Cache& policies_;
  client::Cache& services_;
  client::Cache& slices_;
  client::Cache& secrets_;
  client::Cache& configMaps_;
  client::Cache& namespaces_;
  EdgeServices edge_;
  // What was written, until the cache shows it: ports must not be given twice.
  std::map<std::string, std::vector<EdgeServices::Port>> given_;
  std::set<std::string> usedServices_, usedSecrets_, usedConfigMaps_, decisive_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
