// Deletes what nobody owns any more (metadata.ownerReferences), and carries out foreground and orphaning deletions.
#pragma once

#include "component.h"
#include "workload.h"

namespace dhow::controllers {

class GarbageCollector final : public Component {
 public:
  struct Kind {
    client::Resource resource;
    std::string kind;
  };
  // Owners of other kinds are taken to live.
  GarbageCollector(Context context, std::vector<Kind> kinds);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  // Key: "<index of the kind>|<ns/name>".
  Task<Result<>> reconcile(std::string key);

 private:
  struct Dependent {
    size_t kind;
    ObjectPtr object;
  };
  enum class Owner { kSolid, kGone, kWaiting };
  void changed(size_t kind, const ObjectPtr& before, const ObjectPtr& after, client::WorkQueue& queue);
  std::vector<Dependent> dependentsOf(const Object& owner) const;
  const Kind* kindOf(const json::object& reference) const;
  Task<Result<Owner>> judge(std::string ns, json::object reference);
  Task<Result<>> finishForeground(size_t kind, ObjectPtr object);
  Task<Result<>> orphanDependents(size_t kind, ObjectPtr object);
  Task<Result<>> dropFinalizer(size_t kind, ObjectPtr object, std::string_view finalizer);

  Context context_;
  std::vector<Kind> kinds_;
  std::vector<client::Cache*> caches_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
