// Deletes bootstrap tokens (client/bootstrap_token.h) when they have expired.
#pragma once

#include "component.h"

namespace dhow::controllers {

class TokenCleaner final : public Component {
 public:
  explicit TokenCleaner(Context context);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  Context context_;
  client::Cache& secrets_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
