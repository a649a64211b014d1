#include "certificates.h"

#include <algorithm>

#include "base/log.h"
#include "base/strings.h"
#include "client/fields.h"

namespace dhow::controllers {

using namespace client;
namespace resources = object::resources;
using resources::kCertificateSigningRequests;
using resources::kSubjectAccessReviews;

namespace {

constexpr Duration kKeepDecided = std::chrono::hours(1);
constexpr Duration kKeepWaiting = std::chrono::hours(24);
constexpr Duration kLeastValidity = std::chrono::minutes(10);
constexpr std::string_view kNodes = "system:nodes";
constexpr std::string_view kNodePrefix = "system:node:";

Error refused(std::string why) {
  return Error(Code::kInvalid, std::move(why));
}

// Exactly these; "key encipherment" is RSA's, and may be left out.
Result<> checkUsages(std::vector<std::string> usages, std::string_view purpose) {
  std::sort(usages.begin(), usages.end());
  std::vector<std::string> wanted{"digital signature", std::string(purpose)};
  std::sort(wanted.begin(), wanted.end());
  if (usages == wanted) return {};
  wanted.emplace_back("key encipherment");
  std::sort(wanted.begin(), wanted.end());
  if (usages == wanted) return {};
  return refused(fmt::format("usages did not match [{}]", join(wanted, " ")));
}

Result<> checkClient(const std::vector<std::string>& usages) {
  for (const auto& usage : usages) {
    if (usage != "client auth" && usage != "digital signature" && usage != "key encipherment")
      return refused("invalid usage for client certificate: " + usage);
  }
  if (std::find(usages.begin(), usages.end(), "client auth") == usages.end())
    return refused("missing required usage for client certificate: client auth");
  return {};
}

Result<> checkNode(const CertificateRequestInfo& request, const std::vector<std::string>& usages, bool serving) {
  if (request.organizations != std::vector<std::string>{std::string(kNodes)})
    return refused("subject organization is not system:nodes");
  const bool hasNames = !request.dnsNames.empty(), hasAddresses = !request.ipAddresses.empty();
  if (serving && !hasNames && !hasAddresses) return refused("DNS or IP subjectAltName is required");
  if (!serving && hasNames) return refused("DNS subjectAltNames are not allowed");
  if (!request.emailAddresses.empty()) return refused("Email subjectAltNames are not allowed");
  if (!serving && hasAddresses) return refused("IP subjectAltNames are not allowed");
  if (!request.uris.empty()) return refused("URI subjectAltNames are not allowed");
  if (!request.commonName.starts_with(kNodePrefix))
    return refused("subject common name does not begin with system:node:");
  return checkUsages(usages, serving ? "server auth" : "client auth");
}

Result<CertificateRequestInfo> requestOf(const Object& request) {
  return inspectCertificateRequest(fromBase64(text(request.root(), {"spec", "request"})).value_or(""));
}

std::string_view signerOf(const Object& request) {
  return text(request.root(), {"spec", "signerName"});
}

std::vector<std::string> usagesOf(const Object& request) {
  return strings(array(request.root(), {"spec", "usages"}));
}

bool issued(const Object& request) {
  return !text(request.root(), {"status", "certificate"}).empty();
}

// When the request is removed.
WallTime end(const Object& request, WallTime now) {
  auto decided = [&](std::string_view type) {
    const auto* found = condition(request.root(), type);
    return found ? client::time(*found, {"lastUpdateTime"}) : std::nullopt;
  };
  const WallTime born = client::time(request.metadata(), {"creationTimestamp"}).value_or(now);
  for (std::string_view type : {"Denied", "Failed"}) {
    if (auto at = decided(type)) return *at + kKeepDecided;
  }
  auto approved = decided("Approved");
  if (!approved) return born + kKeepWaiting;
  if (!issued(request)) return *approved + kKeepWaiting;
  WallTime last = *approved + kKeepDecided;
  auto certificate = inspectCertificate(fromBase64(text(request.root(), {"status", "certificate"})).value_or(""));
  return certificate.ok() ? std::min(last, certificate->notAfter) : last;
}

}  // namespace

Result<> checkRequest(std::string_view signer, const CertificateRequestInfo& request,
                      const std::vector<std::string>& usages) {
  if (signer == signers::kClient) return checkClient(usages);
  return checkNode(request, usages, signer == signers::kNodeServing);
}

CertificatesController::CertificatesController(Context context, Options options)
    : context_(context),
      options_(std::move(options)),
      requests_(context.caches.of(kCertificateSigningRequests)),
      controller_(context.loop, {.name = "certificates"},
                  [this](std::string key) { return reconcile(std::move(key)); }) {
  controller_.watchOwn(requests_);
  // Who may have become somebody whose requests are approved.
  auto undecided = [this](const ObjectPtr&, const ObjectPtr&, WorkQueue& queue) {
    for (const auto& request : requests_.list()) {
      if (signerOf(*request) == signers::kNodeClient && array(request->root(), {"status", "conditions"}).empty())
        queue.add(std::string(request->name()));
    }
  };
  controller_.watch(context.caches.of(resources::kClusterRoles), undecided);
  controller_.watch(context.caches.of(resources::kClusterRoleBindings), undecided);
}

Task<Result<>> CertificatesController::reconcile(std::string key) {
  ObjectPtr request = requests_.get("", key);
  if (!request || request->deleting()) co_return Result<>();
  const WallTime now = context_.loop.wallNow();
  const WallTime last = end(*request, now);
  if (last <= now) {
    DeleteOptions options;
    options.uid = request->uid();
    auto removed = co_await context_.client.remove(kCertificateSigningRequests, "", key, std::move(options));
    if (!removed.ok() && !removed.error().is(Code::kNotFound)) co_return std::move(removed).error();
    co_return Result<>();
  }
  controller_.queue().addAfter(key, last - now);
  const bool failed = condition(request->root(), "Denied") || condition(request->root(), "Failed");
  if (failed || issued(*request)) co_return Result<>();
  if (condition(request->root(), "Approved")) co_return co_await sign(request);
  CO_ASSIGN_OR_RETURN(auto permission, co_await permissionOf(request));
  if (permission.empty()) co_return Result<>();
  co_return co_await approve(request, permission);
}

Task<Result<std::string_view>> CertificatesController::permissionOf(ObjectPtr request) {
  if (signerOf(*request) != signers::kNodeClient) co_return std::string_view();
  auto wanted = requestOf(*request);
  if (!wanted.ok() || !checkRequest(signers::kNodeClient, *wanted, usagesOf(*request)).ok())
    co_return std::string_view();
  if (text(request->root(), {"spec", "username"}) == wanted->commonName) {
    CO_ASSIGN_OR_RETURN(bool own, co_await mayCreate(request, "selfnodeclient"));
    if (own) co_return std::string_view("selfnodeclient");
  }
  CO_ASSIGN_OR_RETURN(bool any, co_await mayCreate(request, "nodeclient"));
  co_return any ? std::string_view("nodeclient") : std::string_view();
}

Task<Result<bool>> CertificatesController::mayCreate(ObjectPtr request, std::string_view subresource) {
  const auto& asked = client::object(request->root(), {"spec"});
  json::object spec{{"resourceAttributes", json::object{{"group", "certificates.k8s.io"},
                                                        {"resource", "certificatesigningrequests"},
                                                        {"subresource", subresource},
                                                        {"verb", "create"}}},
                    {"user", text(asked, "username")},
                    {"groups", array(asked, {"groups"})}};
  if (auto uid = text(asked, "uid"); !uid.empty()) spec["uid"] = uid;
  if (has(asked, {"extra"})) spec["extra"] = client::object(asked, {"extra"});
  json::object review{{"apiVersion", "authorization.k8s.io/v1"}, {"kind", "SubjectAccessReview"}};
  review["spec"] = std::move(spec);
  auto answer = co_await context_.client.create(kSubjectAccessReviews, "", std::move(review));
  if (!answer.ok()) co_return std::move(answer).error();
  co_return flag((*answer)->root(), {"status", "allowed"});
}

Task<Result<>> CertificatesController::approve(ObjectPtr request, std::string_view permission) {
  json::object document = copyOf(request);
  const auto* who = permission == "selfnodeclient" ? "self kubelet" : "kubelet";
  arrayAt(objectAt(document, "status"), "conditions")
      .push_back(json::object{
          {"type", "Approved"},
          {"status", "True"},
          {"reason", "AutoApproved"},
          {"message", fmt::format("Auto approving {} client certificate after SubjectAccessReview.", who)}});
  auto written = co_await context_.client.update(kCertificateSigningRequests, "", std::string(request->name()),
                                                 "approval", std::move(document));
  CO_RETURN_IF_ERROR(written);
  co_return Result<>();
}

Task<Result<>> CertificatesController::sign(ObjectPtr request) {
  const auto signer = signerOf(*request);
  if (!options_.authority ||
      (signer != signers::kClient && signer != signers::kNodeClient && signer != signers::kNodeServing))
    co_return Result<>();
  json::object document = copyOf(request);
  auto& status = objectAt(document, "status");
  const auto usages = usagesOf(*request);
  CO_ASSIGN_OR_RETURN(auto wanted, requestOf(*request));
  if (auto good = checkRequest(signer, wanted, usages); !good.ok()) {
    arrayAt(status, "conditions")
        .push_back(json::object{{"type", "Failed"},
                                {"status", "True"},
                                {"reason", "SignerValidationFailure"},
                                {"message", good.error().message()}});
  } else {
    Duration validity = options_.validity;
    if (auto seconds = number(request->root(), {"spec", "expirationSeconds"}))
      validity = std::min(validity, std::max<Duration>(kLeastValidity, std::chrono::seconds(*seconds)));
    CO_ASSIGN_OR_RETURN(
        auto certificate,
        signCertificateRequest(*options_.authority, fromBase64(text(request->root(), {"spec", "request"})).value_or(""),
                               usages, context_.loop.wallNow(), validity));
    status["certificate"] = toBase64(certificate);
    log::info("controllers", "certificate \"{}\" for {} asked by {} is signed", request->name(), wanted.commonName,
              text(request->root(), {"spec", "username"}));
  }
  auto written = co_await context_.client.update(kCertificateSigningRequests, "", std::string(request->name()),
                                                 "status", std::move(document));
  CO_RETURN_IF_ERROR(written);
  co_return Result<>();
}

}  // namespace dhow::controllers
