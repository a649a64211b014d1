#include "reviews.h"

#include "base/time.h"
#include "client/fields.h"
#include "errors.h"

namespace dhow::apiserver {

using client::array;
using client::text;

namespace {

json::object infoOf(const Caller& caller) {
  json::object user{{"username", caller.user}};
  if (!caller.uid.empty()) user["uid"] = caller.uid;
  json::array groups;
  for (const auto& group : caller.groups) groups.emplace_back(group);
  if (!groups.empty()) user["groups"] = std::move(groups);
  json::object extra;
  for (const auto& [key, values] : caller.extra) {
    json::array list;
    for (const auto& value : values) list.emplace_back(value);
    extra[key] = std::move(list);
  }
  if (!extra.empty()) user["extra"] = std::move(extra);
  return user;
}

}  // namespace

Result<json::object> Reviews::reviewAccess(const Caller& subject, json::object review) {
  const auto& spec = client::object(review, {"spec"});
  Attributes wanted;
  if (client::has(spec, {"resourceAttributes"})) {
    const auto& resource = client::object(spec, {"resourceAttributes"});
    wanted.verb = text(resource, "verb");
    wanted.group = text(resource, "group");
    wanted.plural = text(resource, "resource");
    wanted.subresource = text(resource, "subresource");
    wanted.ns = text(resource, "namespace");
    wanted.name = text(resource, "name");
  } else if (client::has(spec, {"nonResourceAttributes"})) {
    wanted.isResource = false;
    wanted.verb = text(spec, {"nonResourceAttributes", "verb"});
    wanted.path = text(spec, {"nonResourceAttributes", "path"});
  } else {
    return invalid(
        text(review, "kind"), "authorization.k8s.io", "",
        {{"FieldValueInvalid",
          "Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
          "spec.resourceAttributes"}});
  }
  auto decision = authorizer_.authorize(subject, wanted);
  json::object status{{"allowed", decision.allowed}};
  if (!decision.reason.empty()) status["reason"] = decision.reason;
  review["status"] = std::move(status);
  return review;
}

Result<json::object> Reviews::answer(const Caller& caller, std::string_view kind, std::string_view ns,
                                     json::object review) {
  if (kind == "SelfSubjectReview") {
    review["status"] = json::object{{"userInfo", infoOf(caller)}};
    client::metadataOf(review)["creationTimestamp"] = formatTime(loop_.wallNow());
    return review;
  }
  if (kind == "TokenReview") {
    std::vector<std::string> audiences;
    for (const auto& one : array(review, {"spec", "audiences"})) {
      if (one.is_string()) audiences.emplace_back(std::string_view(one.get_string()));
    }
    std::vector<std::string> granted;
    auto known = tokens_.verify(std::string(text(review, {"spec", "token"})), audiences, &granted);
    json::object status{{"authenticated", known.ok()}};
    if (known.ok()) {
      status["user"] = infoOf(*known);
      json::array list;
      for (const auto& one : granted) list.emplace_back(one);
      status["audiences"] = std::move(list);
    } else {
      status["error"] = known.error().message();
    }
    review["status"] = std::move(status);
    return review;
  }
  if (kind == "SelfSubjectAccessReview") return reviewAccess(caller, std::move(review));
  if (kind == "SubjectAccessReview" || kind == "LocalSubjectAccessReview") {
    const auto& spec = client::object(review, {"spec"});
    Caller subject;
    subject.user = text(spec, "user");
    for (const auto& group : array(spec, {"groups"})) {
      if (group.is_string()) subject.groups.emplace_back(std::string_view(group.get_string()));
    }
    if (subject.user.empty() && subject.groups.empty()) {
      return invalid(
          kind, "authorization.k8s.io", "",
          {{"FieldValueRequired", "Required value: at least one of user or group must be specified", "spec.user"}});
    }
    if (kind == "LocalSubjectAccessReview" && text(spec, {"resourceAttributes", "namespace"}) != ns) {
      return invalid(kind, "authorization.k8s.io", "",
                     {{"FieldValueInvalid",
                       fmt::format("Invalid value: \"{}\": must match metadata.namespace",
                                   text(spec, {"resourceAttributes", "namespace"})),
                       "spec.resourceAttributes.namespace"}});
    }
    return reviewAccess(subject, std::move(review));
  }
  if (kind == "SelfSubjectRulesReview") {
    auto space = text(review, {"spec", "namespace"});
    if (space.empty()) return Error(Code::kBadRequest, "no namespace on request");
    json::array resourceRules;
    json::array otherRules;
    json::array rules = authorizer_.rulesFor(caller, space);
    if (caller.in(kSystemMasters)) {
      json::array all;
      all.emplace_back("*");
      rules.insert(rules.begin(), json::object{{"verbs", all}, {"apiGroups", all}, {"resources", all}});
      rules.insert(rules.begin() + 1, json::object{{"verbs", all}, {"nonResourceURLs", all}});
    }
    for (const auto& value : rules) {
      const auto& rule = value.as_object();
      json::object one{{"verbs", array(rule, {"verbs"})}};
      if (rule.contains("nonResourceURLs")) {
        one["nonResourceURLs"] = array(rule, {"nonResourceURLs"});
        otherRules.push_back(std::move(one));
        continue;
      }
      one["apiGroups"] = array(rule, {"apiGroups"});
      one["resources"] = array(rule, {"resources"});
      if (rule.contains("resourceNames")) one["resourceNames"] = array(rule, {"resourceNames"});
      resourceRules.push_back(std::move(one));
    }
    review["status"] = json::object{{"resourceRules", std::move(resourceRules)},
                                    {"nonResourceRules", std::move(otherRules)},
                                    {"incomplete", false}};
    return review;
  }
  return Error(Code::kNotFound, "the server could not find the requested resource");
}

}  // namespace dhow::apiserver
