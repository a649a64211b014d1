#include "object/discovery.h"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <set>

namespace dhow::object {
namespace {

namespace json = boost::json;

json::array strings(const std::vector<std::string>& items) {
  json::array out;
  for (const std::string& item : items) out.push_back(json::string(item));
  return out;
}

// Groups in the order of their names, core left out; each with its versions. A group that only gives subresources their
// bodies is none: clients warn of groups without resources, and find pods/eviction in the core group.
std::vector<std::pair<std::string, std::vector<std::string>>> groups(const Kinds& kinds) {
  std::map<std::string, std::vector<std::string>> found;
  for (const KindInfo& kind : kinds.all()) {
    if (kind.group.empty() || kind.plural.empty()) continue;
    auto& versions = found[kind.group];
    if (std::find(versions.begin(), versions.end(), kind.version) == versions.end()) versions.push_back(kind.version);
  }
  return {found.begin(), found.end()};
}

json::object groupObject(const std::string& group, const std::vector<std::string>& versions) {
  json::array list;
  for (const std::string& version : versions)
    list.push_back(json::object{{"groupVersion", group + "/" + version}, {"version", version}});
  json::value preferred = list[0];
  return json::object{{"name", group}, {"versions", std::move(list)}, {"preferredVersion", std::move(preferred)}};
}

json::object resourceObject(const KindInfo& kind) {
  json::object out{{"name", kind.plural},
                   {"singularName", kind.singular},
                   {"namespaced", kind.namespaced},
                   {"kind", kind.kind},
                   {"verbs", strings(kind.verbs)}};
  if (!kind.shortNames.empty()) out["shortNames"] = strings(kind.shortNames);
  if (!kind.categories.empty()) out["categories"] = strings(kind.categories);
  return out;
}

json::object subresourceObject(const KindInfo& kind, const Subresource& sub) {
  json::object out{{"name", kind.plural + "/" + sub.name}, {"singularName", ""}, {"namespaced", kind.namespaced}};
  if (sub.group != kind.group || sub.version != kind.version) {
    out["group"] = sub.group;
    out["version"] = sub.version;
  }
  out["kind"] = sub.kind;
  out["verbs"] = strings(sub.verbs);
  return out;
}

json::object gvk(const std::string& group, const std::string& version, const std::string& kind) {
  return json::object{{"group", group}, {"version", version}, {"kind", kind}};
}

json::object aggregatedResource(const KindInfo& kind) {
  json::object out{{"resource", kind.plural},
                   {"responseKind", gvk(kind.group, kind.version, kind.kind)},
                   {"scope", kind.namespaced ? "Namespaced" : "Cluster"},
                   {"singularResource", kind.singular},
                   {"verbs", strings(kind.verbs)}};
  if (!kind.shortNames.empty()) out["shortNames"] = strings(kind.shortNames);
  if (!kind.categories.empty()) out["categories"] = strings(kind.categories);
  if (kind.subresources.empty()) return out;
  json::array subs;
  for (const Subresource& sub : kind.subresources) {
    subs.push_back(json::object{{"subresource", sub.name},
                                {"responseKind", gvk(sub.group, sub.version, sub.kind)},
                                {"verbs", strings(sub.verbs)}});
  }
  out["subresources"] = std::move(subs);
  return out;
}

json::object aggregatedVersion(const Kinds& kinds, const std::string& group, const std::string& version) {
  std::map<std::string, const KindInfo*> sorted;
  for (const KindInfo& kind : kinds.all())
    if (kind.group == group && kind.version == version && !kind.plural.empty()) sorted[kind.plural] = &kind;
  json::array resources;
  for (const auto& [plural, kind] : sorted) resources.push_back(aggregatedResource(*kind));
  return json::object{{"version", version}, {"resources", std::move(resources)}, {"freshness", "Current"}};
}

}  // namespace

std::string apiVersionsDocument(std::string_view serverAddress) {
  return json::serialize(
      json::object{{"kind", "APIVersions"},
                   {"versions", json::array{"v1"}},
                   {"serverAddressByClientCIDRs",
                    json::array{json::object{{"clientCIDR", "0.0.0.0/0"}, {"serverAddress", serverAddress}}}}});
}

std::string apiGroupListDocument(const Kinds& kinds) {
  json::array list;
  for (const auto& [group, versions] : groups(kinds)) list.push_back(groupObject(group, versions));
  return json::serialize(json::object{{"kind", "APIGroupList"}, {"apiVersion", "v1"}, {"groups", std::move(list)}});
}

std::optional<std::string> apiGroupDocument(const Kinds& kinds, std::string_view name) {
  for (const auto& [group, versions] : groups(kinds)) {
    if (group != name) continue;
    json::object out{{"kind", "APIGroup"}, {"apiVersion", "v1"}};
    for (auto& member : groupObject(group, versions)) out[member.key()] = member.value();
    return json::serialize(out);
  }
  return std::nullopt;
}

std::optional<std::string> apiResourceListDocument(const Kinds& kinds, std::string_view group,
                                                   std::string_view version) {
  std::map<std::string, json::object> sorted;
  bool known = false;
  for (const KindInfo& kind : kinds.all()) {
    if (kind.group != group || kind.version != version || kind.plural.empty()) continue;
    known = true;
    sorted[kind.plural] = resourceObject(kind);
    for (const Subresource& sub : kind.subresources)
      sorted[kind.plural + "/" + sub.name] = subresourceObject(kind, sub);
  }
  if (!known) return std::nullopt;
  json::array resources;
  for (auto& [name, object] : sorted) resources.push_back(std::move(object));
  std::string groupVersion = group.empty() ? std::string(version) : std::string(group) + "/" + std::string(version);
  return json::serialize(json::object{{"kind", "APIResourceList"},
                                      {"apiVersion", "v1"},
                                      {"groupVersion", groupVersion},
                                      {"resources", std::move(resources)}});
}

std::string aggregatedDiscoveryDocument(const Kinds& kinds, bool core) {
  json::array items;
  if (core) {
    items.push_back(json::object{{"metadata", json::object{{"creationTimestamp", nullptr}}},
                                 {"versions", json::array{aggregatedVersion(kinds, "", "v1")}}});
  } else {
    for (const auto& [group, versions] : groups(kinds)) {
      json::array list;
      for (const std::string& version : versions) list.push_back(aggregatedVersion(kinds, group, version));
      items.push_back(json::object{{"metadata", json::object{{"name", group}, {"creationTimestamp", nullptr}}},
                                   {"versions", std::move(list)}});
    }
  }
  return json::serialize(json::object{{"kind", "APIGroupDiscoveryList"},
                                      {"apiVersion", "apidiscovery.k8s.io/v2"},
                                      {"metadata", json::object()},
                                      {"items", std::move(items)}});
}

}  // namespace dhow::object
