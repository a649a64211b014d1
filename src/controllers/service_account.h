// Gives every namespace its "default" ServiceAccount and the ConfigMap kube-root-ca.crt.
#pragma once

#include "component.h"

namespace dhow::controllers {

class ServiceAccountController final : public Component {
 public:
  ServiceAccountController(Context context, std::string rootCaPem);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Task<Result<>> ensureAccount(const std::string& ns);
  Task<Result<>> ensureRootCa(const std::string& ns);

  Context context_;
  std::string rootCa_;
  client::Cache& namespaces_;
  client::Cache& accounts_;
  client::Cache& configMaps_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
