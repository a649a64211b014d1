// Rules of certificates.k8s.io. Which certificates a signer gives is the business of controllers/certificates.cc.
#include "base/pki.h"
#include "base/strings.h"
#include "object/names.h"
#include "rules.h"

namespace dhow::object::rules {
namespace {

const std::vector<std::string> kUsages = {"any",
                                          "cert sign",
                                          "client auth",
                                          "code signing",
                                          "content commitment",
                                          "crl sign",
                                          "data encipherment",
                                          "decipher only",
                                          "digital signature",
                                          "email protection",
                                          "encipher only",
                                          "ipsec end system",
                                          "ipsec tunnel",
                                          "ipsec user",
                                          "key agreement",
                                          "key encipherment",
                                          "microsoft sgc",
                                          "netscape sgc",
                                          "ocsp signing",
                                          "s/mime",
                                          "server auth",
                                          "signing",
                                          "timestamping"};
constexpr int64_t kLeastSeconds = 600;
constexpr size_t kMaxDomain = 253;
constexpr size_t kMaxSigner = kMaxDomain + 1 + 63 + 1 + 253;  // domain/namespace.name

// Conditions that are there or not, and never False.
bool isDecision(std::string_view type) {
  return type == "Approved" || type == "Denied" || type == "Failed";
}

void signerName(std::string_view name, Context& context) {
  const std::string path = "spec.signerName";
  if (name.empty()) return context.problems.required(path);
  if (name == "kubernetes.io/legacy-unknown") {
    return context.problems.invalid(path, json::value(name),
                                    "the legacy signerName is not allowed via this API version");
  }
  auto parts = split(name, '/');
  if (parts.size() != 2) {
    return context.problems.invalid(path, json::value(name),
                                    "must be a fully qualified domain and path of the form 'example.com/signer-name'");
  }
  if (parts[0].size() > kMaxDomain) context.problems.tooLong(path, kMaxDomain);
  auto labels = split(parts[0], '.');
  for (const auto& label : labels) {
    if (auto problem = checkDns1123Label(label); !problem.empty()) {
      context.problems.invalid(path, json::value(parts[0]), fmt::format("validating label \"{}\": {}", label, problem));
      break;
    }
  }
  if (labels.size() < 2) {
    context.problems.invalid(path, json::value(parts[0]),
                             "should be a domain with at least two segments separated by dots");
  }
  for (const auto& label : split(parts[1], '.')) {
    if (auto problem = checkDns1123Subdomain(label); !problem.empty()) {
      context.problems.invalid(path, json::value(parts[1]), fmt::format("validating label \"{}\": {}", label, problem));
      break;
    }
  }
  if (name.size() > kMaxSigner) context.problems.tooLong(path, kMaxSigner);
}

void newRequest(const json::object& spec, Context& context) {
  auto& problems = context.problems;
  auto request = fromBase64(text(spec, "request"));
  if (auto read = inspectCertificateRequest(request.value_or("")); !read.ok())
    problems.invalid("spec.request", json::value(text(spec, "request")), read.error().message());
  const json::array* usages = list(spec, "usages");
  if (!usages || usages->empty()) problems.required("spec.usages");
  for (size_t i = 0; usages && i < usages->size(); ++i) {
    const json::value& usage = (*usages)[i];
    const std::string path = fmt::format("spec.usages[{}]", i);
    if (!usage.is_string() || std::find(kUsages.begin(), kUsages.end(), usage.get_string()) == kUsages.end()) {
      problems.notSupported(path, usage, kUsages);
    } else if (std::find(usages->begin(), usages->begin() + static_cast<ptrdiff_t>(i), usage) !=
               usages->begin() + static_cast<ptrdiff_t>(i)) {
      problems.duplicate(path, usage);
    }
  }
  signerName(text(spec, "signerName"), context);
  const json::value* seconds = spec.if_contains("expirationSeconds");
  if (seconds && seconds->is_int64() && seconds->get_int64() < kLeastSeconds) {
    problems.invalid("spec.expirationSeconds", *seconds,
                     "may not specify a duration less than 600 seconds (10 minutes)");
  }
}

size_t count(const json::array* conditions, std::string_view type) {
  if (!conditions) return 0;
  return static_cast<size_t>(std::count_if(conditions->begin(), conditions->end(), [&](const json::value& one) {
    return one.is_object() && text(one.get_object(), "type") == type;
  }));
}

void conditions(const json::array* now, const json::array* before, Context& context) {
  auto& problems = context.problems;
  bool approved = false, denied = false;
  for (size_t i = 0; now && i < now->size(); ++i) {
    const json::object* condition = (*now)[i].if_object();
    if (!condition) continue;
    const std::string path = fmt::format("status.conditions[{}]", i);
    const auto type = text(*condition, "type"), status = text(*condition, "status");
    if (type.empty()) problems.required(path + ".type");
    if (status.empty())
      problems.required(path + ".status");
    else if (isDecision(type) && status != "True")
      problems.notSupported(path + ".status", json::value(status), {"True"});
    else if (status != "True" && status != "False" && status != "Unknown")
      problems.notSupported(path + ".status", json::value(status), {"True", "False", "Unknown"});
    approved = approved || type == "Approved";
    denied = denied || type == "Denied";
    if (approved && denied && (type == "Approved" || type == "Denied"))
      problems.invalid(path + ".type", json::value(type), "Approved and Denied conditions are mutually exclusive");
  }
  for (std::string_view type : {"Approved", "Denied", "Failed"}) {
    const size_t had = count(before, type), has = count(now, type);
    if (has < had)
      problems.forbidden("status.conditions", fmt::format("updates may not remove a condition of type \"{}\"", type));
    if (has > had && type != "Failed" && context.subresource == "status")
      problems.forbidden("status.conditions", fmt::format("updates may not add a condition of type \"{}\"", type));
  }
}

// A chain of certificates in PEM and nothing else.
std::string checkChain(std::string_view pem) {
  constexpr std::string_view kBegin = "-----BEGIN CERTIFICATE-----", kEnd = "-----END CERTIFICATE-----";
  size_t blocks = 0;
  for (size_t at = pem.find("-----BEGIN "); at != pem.npos; ++blocks) {
    if (pem.substr(at, kBegin.size()) != kBegin) {
      const auto from = at + std::string_view("-----BEGIN ").size();
      return fmt::format("only CERTIFICATE PEM blocks are allowed, found \"{}\"",
                         pem.substr(from, pem.find("-----", from) - from));
    }
    const size_t end = pem.find(kEnd, at);
    if (end == pem.npos) break;
    if (!inspectCertificate(pem.substr(at, end + kEnd.size() - at)).ok()) return "x509: malformed certificate";
    at = pem.find("-----BEGIN ", end);
  }
  return blocks == 0 ? "must contain at least one CERTIFICATE PEM block" : "";
}

void certificate(const json::object& status, const json::object* before, Context& context) {
  const auto now = text(status, "certificate"), old = before ? text(*before, "certificate") : "";
  if (now == old) return;
  if (!old.empty()) {
    context.problems.forbidden("status.certificate", "updates may not modify existing certificate content");
    return;
  }
  if (auto problem = checkChain(fromBase64(now).value_or("")); !problem.empty())
    context.problems.invalid("status.certificate", "<certificate data>", problem);
}

void certificateSigningRequest(const json::object& value, const json::object* before, Context& context) {
  static const json::object kNone;
  if (!before) {
    const json::object* spec = child(value, "spec");
    newRequest(spec ? *spec : kNone, context);
    return;
  }
  // The rest is as it was (apiserver/certificate_strategy.cc).
  if (context.subresource.empty()) return;
  const json::object* status = child(value, "status");
  const json::object* old = child(*before, "status");
  conditions(status ? list(*status, "conditions") : nullptr, old ? list(*old, "conditions") : nullptr, context);
  certificate(status ? *status : kNone, old, context);
}

constexpr Entry kRules[] = {{"certificateSigningRequest", certificateSigningRequest}};

}  // namespace

std::span<const Entry> certificateRules() {
  return kRules;
}

}  // namespace dhow::object::rules
