// The registry of kinds: look up what a kind is by its URL (Resource) or by apiVersion and kind. The built-in ones are
// parsed from the embedded schema on first use (about a millisecond).
#pragma once

#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "object/resource.h"
#include "object/schema.h"

namespace dhow::object {

struct Subresource {
  std::string name;
  // The kind of its body; that of the parent unless api/ says otherwise. `group` and `version` are as in discovery.
  std::string group, version, kind;
  std::vector<std::string> verbs;
  // scale: where the numbers are (".spec.replicas").
  std::string specReplicas, statusReplicas, selector;
  bool has(std::string_view verb) const;
};

struct Column {
  std::string name, type = "string", format;
  int priority = 0;
  std::string path;      // ".status.phase"
  std::string missing;   // the cell when the path leads nowhere
  std::string function;  // a column function by name, see table.h
};

struct SelectableField {
  std::string label;               // "spec.host"
  std::vector<std::string> paths;  // the first that is not empty counts
};

struct KindInfo {
  std::string group, version, kind, plural, singular;
  std::vector<std::string> shortNames, categories, verbs;
  bool namespaced = true;
  bool stored = true;              // false: only a request (TokenReview), or only the body of a subresource (no plural)
  std::string nameFormat;          // check for metadata.name; dns1123Subdomain unless api/ says otherwise
  std::string storedAsKind;        // another form of the same objects (events.k8s.io Event is stored as v1 Event)
  std::string storedAsApiVersion;  // of that form
  std::string convert;             // the conversion function between the two, by name; empty: only the version differs
  std::vector<Subresource> subresources;
  std::vector<Column> columns;
  std::vector<SelectableField> selectable;  // beside metadata.name and metadata.namespace
  const Type* type = nullptr;

  std::string apiVersion() const { return group.empty() ? version : group + "/" + version; }
  Resource resource() const { return {group, version, plural, namespaced}; }
  const Subresource* subresource(std::string_view name) const;
  bool has(std::string_view verb) const;
};

class Kinds {
 public:
  // The built-in kinds, shared by the whole program.
  static const Kinds& builtin();

  // A registry of its own that starts with the built-in kinds.
  Kinds();
  Kinds(const Kinds&) = delete;
  ~Kinds();

  // Null where unknown.
  const KindInfo* find(const Resource& resource) const {
    return find(resource.group, resource.version, resource.plural);
  }
  const KindInfo* find(std::string_view group, std::string_view version, std::string_view plural) const;
  const KindInfo* findKind(std::string_view apiVersion, std::string_view kind) const;
  const Type* type(std::string_view name) const;  // "core.v1.PodSpec"

  const std::deque<KindInfo>& all() const { return kinds_; }
  const std::map<std::string, Type, std::less<>>& types() const { return types_; }

 private:
  friend class SchemaLoader;
  std::map<std::string, Type, std::less<>> types_;
  std::deque<Shape> shapes_;
  std::deque<KindInfo> kinds_;
};

}  // namespace dhow::object
