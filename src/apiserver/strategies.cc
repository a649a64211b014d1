// Pods, workloads, secrets and namespaces.
#include "apiserver/strategy.h"
#include "base/strings.h"
#include "client/fields.h"
#include "errors.h"
#include "object/quantity.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

// Guaranteed: every container has limits for cpu and memory, and requests equal to them. BestEffort: none has any.
std::string_view qualityOf(const json::object& spec) {
  bool any = false;
  bool guaranteed = true;
  for (std::string_view list : {"containers", "initContainers"}) {
    for (const auto& value : array(spec, {list})) {
      if (!value.is_object()) continue;
      const auto& resources = client::object(value.get_object(), {"resources"});
      const auto& limits = client::object(resources, {"limits"});
      const auto& requests = client::object(resources, {"requests"});
      for (std::string_view name : {"cpu", "memory"}) {
        const auto* limit = limits.if_contains(name);
        const auto* request = requests.if_contains(name);
        if (limit || request) any = true;
        if (!limit || (request && *request != *limit)) guaranteed = false;
      }
    }
  }
  if (!any) return "BestEffort";
  return guaranteed ? "Guaranteed" : "Burstable";
}

class PodStrategy final : public Strategy {
 public:
  Result<> beforeCreate(const Context&, json::object& pod) override {
    json::object status{{"phase", "Pending"}, {"qosClass", qualityOf(client::object(pod, {"spec"}))}};
    pod["status"] = std::move(status);
    return {};
  }

  Result<> beforeUpdate(const Context&, std::string_view subresource, json::object& pod,
                        const object::Object& old) override {
    if (subresource == "status") {
      auto& status = client::objectAt(pod, "status");
      auto quality = text(old.root(), {"status", "qosClass"});
      if (!quality.empty()) status["qosClass"] = quality;
    }
    return {};
  }

  bool hasGeneration() const override { return true; }
};

class GenerationStrategy : public Strategy {
 public:
  bool hasGeneration() const override { return true; }
};

class WorkloadStrategy final : public GenerationStrategy {
 public:
  Result<> beforeCreate(const Context&, json::object& document) override {
    document["status"] = json::object();
    return {};
  }
};

class SecretStrategy final : public Strategy {
 public:
  Result<> beforeCreate(const Context&, json::object& secret) override { return mergeStringData(secret); }
  Result<> beforeUpdate(const Context&, std::string_view, json::object& secret, const object::Object&) override {
    return mergeStringData(secret);
  }

 private:
  static Result<> mergeStringData(json::object& secret) {
    auto* plain = secret.contains("stringData") ? secret["stringData"].if_object() : nullptr;
    if (plain && !plain->empty()) {
      json::object values = std::move(*plain);
      auto& data = client::objectAt(secret, "data");
      for (const auto& [key, value] : values) {
        if (value.is_string()) data[key] = toBase64(std::string_view(value.get_string()));
      }
    }
    secret.erase("stringData");
    return {};
  }
};

class NamespaceStrategy final : public Strategy {
 public:
  Result<> beforeCreate(const Context&, json::object& ns) override {
    auto& spec = client::objectAt(ns, "spec");
    auto& finalizers = client::arrayAt(spec, "finalizers");
    bool has = false;
    for (const auto& one : finalizers) has = has || one == "kubernetes";
    if (!has) finalizers.emplace_back("kubernetes");
    ns["status"] = json::object{{"phase", "Active"}};
    return {};
  }
  Result<> allocate(const Context&, json::object& ns, const object::Object*) override {
    auto& metadata = client::metadataOf(ns);
    if (auto name = text(metadata, "name"); !name.empty()) {
      json::string copy(name);
      client::objectAt(metadata, "labels")["kubernetes.io/metadata.name"] = copy;
    }
    return {};
  }
  Result<> beforeUpdate(const Context&, std::string_view subresource, json::object& ns,
                        const object::Object& old) override {
    if (subresource == "finalize") return {};
    // Finalizers change through the finalize subresource alone.
    if (const auto* spec = old.root().if_contains("spec")) ns["spec"] = *spec;
    return {};
  }
  bool holdsDeletion(const json::object& ns) const override { return !array(ns, {"spec", "finalizers"}).empty(); }
  Result<> beforeDelete(const Context&, const object::Object& ns) override {
    for (std::string_view name : {"default", "kube-system", "kube-public"}) {
      if (ns.name() == name)
        return forbidden(object::resources::kNamespaces, name, "this namespace may not be deleted");
    }
    return {};
  }
};

class PlainStrategy final : public Strategy {};

}  // namespace

std::unique_ptr<Strategy> makePodStrategy() {
  return std::make_unique<PodStrategy>();
}
std::unique_ptr<Strategy> makeGenerationStrategy() {
  return std::make_unique<GenerationStrategy>();
}

std::unique_ptr<Strategy> makeWorkloadStrategy() {
  return std::make_unique<WorkloadStrategy>();
}
std::unique_ptr<Strategy> makeSecretStrategy() {
  return std::make_unique<SecretStrategy>();
}
std::unique_ptr<Strategy> makeNamespaceStrategy() {
  return std::make_unique<NamespaceStrategy>();
}
std::unique_ptr<Strategy> makePlainStrategy() {
  return std::make_unique<PlainStrategy>();
}

}  // namespace dhow::apiserver
