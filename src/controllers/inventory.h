// What the provider of machines has, zone by zone, as it last told. Asked again when it says that something changed,
// and now and then.
#pragma once

#include <map>
#include <optional>
#include <set>

#include "component.h"
#include "machine_provider.h"

namespace dhow::controllers {

class Inventory {
 public:
  // `provider` may be null: then there is nothing, and no zone answers.
  Inventory(Context context, MachineProvider* provider);
  void start();
  Task<> stop();
  bool idle() const { return controller_.idle(); }

  MachineProvider* provider() const { return provider_; }
  // Whether the provider could tell about the zone when it was last asked; nothing when it has not been asked yet.
  std::optional<bool> answers(std::string_view zone) const;
  // The provider answered, and said that the zone does not: whoever hears nothing of it is not the one that is cut off.
  bool out(std::string_view zone) const { return refusal(zone, Code::kFailedPrecondition) != nullptr; }
  // Why not, when the provider has no such zone; null otherwise.
  const Error* unknown(std::string_view zone) const { return refusal(zone, Code::kNotFound); }
  // The last known state; null when there is none. Only to be trusted while the zone answers.
  const MachineInfo* find(std::string_view machine) const;
  // Surely nothing of it runs.
  bool off(std::string_view machine) const;
  // Asks again soon.
  void refresh(std::string_view zone) { controller_.queue().add(std::string(zone)); }
  // Asks now; kUnavailable when the zone does not answer.
  Task<Result<>> ask(std::string zone);

  using Changed = std::function<void(const std::string& machine, const std::string& zone)>;
  void onChange(Changed changed) { listeners_.push_back(std::move(changed)); }

 private:
  const Error* refusal(std::string_view zone, Code code) const;

  MachineProvider* provider_;
  client::Cache& zones_;
  std::map<std::string, MachineInfo, std::less<>> machines_;
  // By zone, for those that were asked: nothing, or why not.
  std::map<std::string, std::optional<Error>, std::less<>> answers_;
  std::vector<Changed> listeners_;
  std::unique_ptr<MachineProvider::Subscription> subscription_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
