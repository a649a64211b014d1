// What a cluster does for its Ingresses: while there is one of a class of ours, the Service kube-system/dhow-ingress of
// type LoadBalancer leads to the nodes whose proxies serve (a condition of theirs says so), and its address is written
// into the status of the Ingresses. What is wrong with one becomes an event of it.
#pragma once

#include <set>

#include "component.h"
#include "edge_services.h"
#include "ingress/compile.h"

namespace dhow::controllers {

class IngressController final : public Component {
 public:
  explicit IngressController(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override;
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  bool isOurs(const client::Object& ingress) const;
  Task<Result<>> keepStatus(client::ObjectPtr ingress);
  void tellProblems(const std::vector<client::ObjectPtr>& ingresses);

  Context context_;
  client::Cache& ingresses_;
  client::Cache& classes_;
  client::Cache& services_;
  client::Cache& secrets_;
  client::Cache& configMaps_;
  EdgeServices edge_;
  std::set<std::string> usedServices_, usedSecrets_, usedConfigMaps_;  // by Ingresses
  std::set<std::string> told_;                                         // uid and message
  client::EventRecorder events_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
