// A set of field paths, as managedFields keeps them (fieldsV1: sigs.k8s.io/structured-merge-diff). Private to this
// folder.
//
// The steps of a path are written as on the wire: "f:name" a field or map key, `k:{"name":"x"}` a list item by its
// keys, `v:"x"` a set item by its value. A node is in the set itself when `member` holds; it may have children either
// way.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <map>
#include <string>
#include <vector>

#include "object/schema.h"

namespace dhow::object {

struct FieldSet {
  bool member = false;
  std::map<std::string, FieldSet, std::less<>> children;

  bool empty() const { return !member && children.empty(); }
  bool operator==(const FieldSet&) const = default;

  void add(const FieldSet& other);
  // Takes the members of `other` out; nodes without content go away.
  void subtract(const FieldSet& other);
  FieldSet intersect(const FieldSet& other) const;
  // Calls visit(path text) for each member: `.spec.containers[name="c"].image`.
  void paths(std::vector<std::string>& out, const std::string& prefix = "") const;

  boost::json::object encode() const;  // the fieldsV1 document
  static FieldSet decode(const boost::json::object& fieldsV1, int depth = 0);
};

// All fields that a document sets. `type` null: free form.
FieldSet fieldsOf(const Type* type, const boost::json::object& document);

struct Difference {
  FieldSet added, modified, removed;
  bool empty() const { return added.empty() && modified.empty() && removed.empty(); }
};
Difference compare(const Type* type, const boost::json::object& before, const boost::json::object& after);

// `config` laid over `live`.
boost::json::object mergeTyped(const Type* type, boost::json::object live, const boost::json::object& config);

// Removes from `document` what is in `last` and not in `keep`.
void prune(const Type* type, boost::json::object& document, const FieldSet& last, const FieldSet& keep);

// The step that names an item of a list: its keys or its value.
std::string itemStep(const Field& list, const boost::json::value& item);

}  // namespace dhow::object
