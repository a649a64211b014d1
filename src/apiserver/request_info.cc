#include "request_info.h"

#include "base/strings.h"

namespace dhow::apiserver {

bool truthy(std::string_view text) {
  return text == "true" || text == "1" || text == "TRUE" || text == "True";
}

Result<RequestInfo> parseRequest(const http::Request& request) {
  RequestInfo info;
  info.path = request.path;
  info.verb = toLower(request.method);
  std::vector<std::string> parts;
  for (const auto& part : split(request.path, '/')) {
    if (part.empty()) continue;
    auto decoded = percentDecode(part);
    if (!decoded || decoded->find('\0') != std::string::npos)
      return Error(Code::kBadRequest, "the path of the request is malformed");
    parts.push_back(std::move(*decoded));
  }
  size_t at = 0;
  if (parts.size() >= 3 && parts[0] == "api") {
    info.version = parts[1];
    at = 2;
  } else if (parts.size() >= 4 && parts[0] == "apis") {
    info.group = parts[1];
    info.version = parts[2];
    at = 3;
  } else {
    return info;
  }
  info.isResource = true;
  bool watchPrefix = parts[at] == "watch" && parts.size() > at + 1;
  if (watchPrefix) ++at;
  if (parts[at] == "namespaces" && info.group.empty()) {
    bool own = parts.size() <= at + 2 ||
               (parts.size() == at + 3 && (parts[at + 2] == "status" || parts[at + 2] == "finalize"));
    if (own) {
      info.plural = "namespaces";
      if (parts.size() > at + 1) info.name = parts[at + 1];
      if (parts.size() > at + 2) info.subresource = parts[at + 2];
      info.ns = info.name;
      at = parts.size();
    } else {
      info.ns = parts[at + 1];
      at += 2;
    }
  } else if (parts[at] == "namespaces" && parts.size() > at + 2) {
    info.ns = parts[at + 1];
    at += 2;
  }
  if (at < parts.size()) {
    info.plural = parts[at];
    if (parts.size() > at + 1) info.name = parts[at + 1];
    if (parts.size() > at + 2) info.subresource = parts[at + 2];
    for (size_t i = at + 3; i < parts.size(); ++i) info.rest += "/" + percentEncode(parts[i]);
    if (!info.rest.empty() && info.subresource != "proxy")
      return Error(Code::kNotFound, "the server could not find the requested resource");
  }
  bool one = !info.name.empty();
  const auto& method = request.method;
  if (method == "GET" || method == "HEAD") {
    bool watch = watchPrefix || truthy(request.query.get("watch"));
    info.verb = watch && info.subresource.empty() ? "watch" : one ? "get" : "list";
  } else if (method == "POST") {
    info.verb = "create";
  } else if (method == "PUT") {
    info.verb = "update";
  } else if (method == "PATCH") {
    info.verb = "patch";
  } else if (method == "DELETE") {
    info.verb = one ? "delete" : "deletecollection";
  }
  return info;
}

Attributes RequestInfo::attributes(const http::Request& request) const {
  Attributes wanted;
  wanted.verb = verb;
  wanted.isResource = isResource;
  wanted.group = group;
  wanted.plural = plural;
  wanted.subresource = subresource;
  wanted.ns = ns;
  wanted.name = name;
  wanted.path = path;
  wanted.fieldSelector = request.query.get("fieldSelector");
  auto accepted = negotiate(request.headers.get("Accept"));
  wanted.podAddresses = accepted.ok() && accepted->view == View::kPodAddress;
  // A list or watch of one object by name counts as access to that object.
  if (isResource && name.empty() && wanted.fieldSelector.starts_with("metadata.name=") &&
      wanted.fieldSelector.find(',') == std::string::npos) {
    wanted.name = wanted.fieldSelector.substr(wanted.fieldSelector.find('=') + 1);
    if (wanted.name.starts_with('=')) wanted.name.erase(0, 1);
  }
  return wanted;
}

Result<Accepted> negotiate(std::string_view accept) {
  if (trim(accept).empty()) return Accepted{};
  for (const auto& clause : split(accept, ',')) {
    auto parts = split(clause, ';');
    std::string type = toLower(trim(parts[0]));
    if (type != "application/json" && type != "*/*" && type != "application/*") continue;
    std::string as;
    std::string group;
    std::string version;
    for (size_t i = 1; i < parts.size(); ++i) {
      auto pair = splitOnce(parts[i], '=');
      if (!pair) continue;
      auto key = trim(pair->first);
      if (key == "as") as = trim(pair->second);
      if (key == "g") group = trim(pair->second);
      if (key == "v") version = trim(pair->second);
    }
    if (as.empty()) return Accepted{};
    if (group == "meta.k8s.io" && as == "Table" && (version == "v1" || version == "v1beta1"))
      return Accepted{View::kTable, false};
    if (group == "meta.k8s.io" && as.starts_with("PartialObjectMetadata") && (version == "v1" || version == "v1beta1"))
      return Accepted{View::kMetadata, false};
    if (group == "dhow.io" && as == "PodAddress" && version == "v1") return Accepted{View::kPodAddress, false};
    if (group == "apidiscovery.k8s.io" && version == "v2") return Accepted{View::kObject, true};
  }
  return Error(Code::kNotAcceptable, "only the following media types are accepted: application/json");
}

}  // namespace dhow::apiserver
