// Certificate signing requests: who asked is the server's word, what was asked never changes, and a decision is not
// taken back.
#include "apiserver/strategy.h"
#include "base/strings.h"
#include "base/time.h"
#include "client/fields.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

json::array listOf(const std::vector<std::string>& values) {
  json::array list;
  for (const auto& value : values) list.emplace_back(value);
  return list;
}

const json::object* conditionOf(const json::array& conditions, std::string_view type) {
  for (const auto& one : conditions) {
    if (one.is_object() && text(one.get_object(), "type") == type) return &one.get_object();
  }
  return nullptr;
}

class CertificateStrategy final : public Strategy {
 public:
  explicit CertificateStrategy(Loop& loop) : loop_(loop) {}

  Result<> beforeCreate(const Context& context, json::object& request) override {
    auto& spec = client::objectAt(request, "spec");
    for (auto field : {"username", "uid", "groups", "extra"}) spec.erase(field);
    const Caller& caller = context.caller;
    if (!caller.user.empty()) spec["username"] = caller.user;
    if (!caller.uid.empty()) spec["uid"] = caller.uid;
    if (!caller.groups.empty()) spec["groups"] = listOf(caller.groups);
    for (const auto& [key, values] : caller.extra) client::objectAt(spec, "extra")[key] = listOf(values);
    request["status"] = json::object();
    return {};
  }

  Result<> beforeUpdate(const Context&, std::string_view subresource, json::object& request,
                        const object::Object& old) override {
    if (const auto* spec = old.root().if_contains("spec")) request["spec"] = *spec;
    if (subresource.empty()) return {};
    auto& status = client::objectAt(request, "status");
    auto& conditions = client::arrayAt(status, "conditions");
    const auto& before = array(old.root(), {"status", "conditions"});
    if (subresource == "approval") {
      status.erase("certificate");
      if (const auto* certificate = client::field(old.root(), {"status", "certificate"}))
        status["certificate"] = *certificate;
    } else {
      // Signers do not decide; validation refuses a decision that is added or removed.
      for (auto& one : conditions) {
        const auto type = one.is_object() ? text(one.get_object(), "type") : "";
        const auto* decided = type == "Approved" || type == "Denied" ? conditionOf(before, type) : nullptr;
        if (decided) one = *decided;
      }
    }
    stamp(conditions, before);
    if (conditions.empty()) status.erase("conditions");
    return {};
  }

 private:
  // Times that are not told are now, or what they were while the condition's status stays.
  void stamp(json::array& conditions, const json::array& before) const {
    for (auto& one : conditions) {
      auto* condition = one.if_object();
      if (!condition) continue;
      const auto now = formatTime(loop_.wallNow());
      if (text(*condition, "lastUpdateTime").empty()) (*condition)["lastUpdateTime"] = now;
      if (!text(*condition, "lastTransitionTime").empty()) continue;
      const auto* old = conditionOf(before, text(*condition, "type"));
      const bool same =
          old && text(*old, "status") == text(*condition, "status") && !text(*old, "lastTransitionTime").empty();
      (*condition)["lastTransitionTime"] = same ? old->at("lastTransitionTime") : json::value(now);
    }
  }

  Loop& loop_;
};

}  // namespace

std::unique_ptr<Strategy> makeCertificateStrategy(Loop& loop) {
  return std::make_unique<CertificateStrategy>(loop);
}

}  // namespace dhow::apiserver
