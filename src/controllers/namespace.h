// Empties namespaces that are being deleted and then lets them go (finalizer "kubernetes").
#pragma once

#include "component.h"

namespace dhow::controllers {

class NamespaceController final : public Component {
 public:
  // `contents`: every kind that lives in namespaces.
  NamespaceController(Context context, std::vector<client::Resource> contents);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  struct Remaining {
    std::map<std::string, size_t> byKind;  // "pods." -> how many
    std::map<std::string, size_t> byFinalizer;
  };
  Task<Result<Remaining>> empty(std::string ns);
  Task<Result<>> report(client::ObjectPtr ns, Remaining remaining);
  Task<Result<>> release(client::ObjectPtr ns);

  Context context_;
  std::vector<client::Resource> contents_;
  client::Cache& namespaces_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
