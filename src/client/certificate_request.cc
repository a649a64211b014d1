#include "client/certificate_request.h"

#include "base/strings.h"
#include "client/fields.h"

namespace dhow::client {

using object::resources::kCertificateSigningRequests;

namespace {

constexpr Duration kFirstDelay = std::chrono::milliseconds(100);
constexpr Duration kMaxDelay = std::chrono::seconds(3);

json::object documentOf(const CertificateRequest& request, const std::string& pem) {
  json::object spec{{"signerName", request.signer},
                    {"request", toBase64(pem)},
                    {"usages", json::array(request.usages.begin(), request.usages.end())}};
  if (request.expiration) spec["expirationSeconds"] = *request.expiration / std::chrono::seconds(1);
  return {{"apiVersion", "certificates.k8s.io/v1"},
          {"kind", "CertificateSigningRequest"},
          {"metadata", json::object{{"generateName", "csr-"}}},
          {"spec", std::move(spec)}};
}

bool mayPass(const Error& error) {
  return error.is(Code::kUnavailable) || error.is(Code::kDeadlineExceeded) || error.is(Code::kExpired);
}

Error ended(const Object& request, std::string_view how) {
  return Error(Code::kFailedPrecondition, fmt::format("certificate request \"{}\" {}", request.name(), how));
}

// The certificate; "" while it is waited for.
Result<std::string> outcomeOf(const Object& request) {
  for (auto [type, verb] : {std::pair("Denied", "was denied"), std::pair("Failed", "failed")}) {
    const auto* found = condition(request.root(), type);
    if (!found) continue;
    const auto message = text(*found, "message");
    return ended(request,
                 fmt::format("{}: {}{}{}", verb, text(*found, "reason"), message.empty() ? "" : ": ", message));
  }
  auto certificate = text(request.root(), {"status", "certificate"});
  if (certificate.empty()) return std::string();
  auto pem = fromBase64(certificate);
  if (!pem) return ended(request, "has a certificate that is not base64");
  return std::move(*pem);
}

// Follows the request until it is decided. An error that may pass comes from the watch.
Task<Result<std::string>> follow(Loop* loop, Client* client, ObjectPtr* request, TimePoint deadline) {
  const std::string name((*request)->name());
  auto read = co_await client->get(kCertificateSigningRequests, "", name);
  if (!read.ok() && read.error().is(Code::kNotFound)) co_return ended(**request, "was removed");
  CO_RETURN_IF_ERROR(read);
  *request = *read;
  auto outcome = outcomeOf(**request);
  if (!outcome.ok() || !outcome->empty()) co_return outcome;
  ListOptions select;
  select.fieldSelector = "metadata.name=" + name;
  auto watch = co_await client->watch(kCertificateSigningRequests, std::move(select),
                                      std::to_string((*request)->resourceVersion()));
  CO_RETURN_IF_ERROR(watch);
  Watcher* watcher = watch->get();
  Timer end = loop->after(deadline - loop->now(), [watcher] { watcher->close(); });
  while (true) {
    auto event = co_await watcher->next();
    CO_RETURN_IF_ERROR(event);
    if (event->type == WatchEvent::Type::kBookmark) continue;
    *request = event->object;
    if (event->type == WatchEvent::Type::kDeleted) co_return ended(**request, "was removed");
    outcome = outcomeOf(**request);
    if (!outcome.ok() || !outcome->empty()) co_return outcome;
  }
}

Error tooLate(const ObjectPtr& request, std::string why) {
  if (!request) return Error(Code::kDeadlineExceeded, "ask for a certificate: " + why);
  const bool approved = condition(request->root(), "Approved") != nullptr;
  return Error(Code::kDeadlineExceeded,
               fmt::format("certificate request \"{}\" is still {}: {}", request->name(),
                           approved ? "not signed" : "not approved (kubectl certificate approve)", why));
}

}  // namespace

CertificateRequest nodeCertificateRequest(const std::string& node) {
  CertificateRequest request;
  request.signer = "kubernetes.io/kube-apiserver-client-kubelet";
  request.commonName = "system:node:" + node;
  request.organizations = {"system:nodes"};
  request.usages = {"digital signature", "client auth"};
  return request;
}

Task<Result<Identity>> requestCertificate(Loop& loop, Client& client, CertificateRequest wanted, Duration patience) {
  const TimePoint deadline = loop.now() + patience;
  Identity identity;
  identity.privateKeyPem = generatePrivateKey();
  CertificateSpec names;
  names.commonName = wanted.commonName;
  names.organizations = wanted.organizations;
  names.dnsNames = wanted.dnsNames;
  names.ipAddresses = wanted.ipAddresses;
  CO_ASSIGN_OR_RETURN(auto pem, createCertificateRequest(identity.privateKeyPem, names));
  ObjectPtr request;
  for (Duration delay = kFirstDelay;; delay = std::min(2 * delay, kMaxDelay)) {
    Error problem(Code::kUnavailable, "");
    if (!request) {
      auto made = co_await client.create(kCertificateSigningRequests, "", documentOf(wanted, pem));
      if (made.ok())
        request = *made;
      else
        problem = std::move(made).error();
    }
    if (request) {
      auto outcome = co_await follow(&loop, &client, &request, deadline);
      if (outcome.ok()) {
        identity.certificatePem = std::move(*outcome);
        co_return identity;
      }
      problem = std::move(outcome).error();
    }
    if (loop.now() >= deadline)
      co_return tooLate(request, fmt::format("gave up after {} s", patience / std::chrono::seconds(1)));
    if (!mayPass(problem)) co_return problem;
    if (loop.now() + delay >= deadline) co_return tooLate(request, problem.message());
    co_await loop.sleep(delay);
  }
}

}  // namespace dhow::client
