// Certificate signing requests: approves those of nodes for themselves, signs what is approved, removes what is old.
//
// A node's client certificate is approved when its asker may `create` certificatesigningrequests/nodeclient (who joins
// by a bootstrap token) or certificatesigningrequests/selfnodeclient (a node that renews its own), as kube-controller-
// manager does; all others are approved by people. Decided and issued requests stay for an hour, pending ones for a
// day.
#pragma once

#include <optional>

#include "base/pki.h"
#include "component.h"

namespace dhow::controllers {

// The signers of Kubernetes that are served here.
namespace signers {
inline constexpr std::string_view kClient = "kubernetes.io/kube-apiserver-client";
inline constexpr std::string_view kNodeClient = "kubernetes.io/kube-apiserver-client-kubelet";
inline constexpr std::string_view kNodeServing = "kubernetes.io/kubelet-serving";
}  // namespace signers

// What the signer demands of subject, alternative names and usages; kInvalid in Kubernetes' words.
Result<> checkRequest(std::string_view signer, const CertificateRequestInfo& request,
                      const std::vector<std::string>& usages);

class CertificatesController final : public Component {
 public:
  struct Options {
    std::optional<Identity> authority;                 // none: nothing is signed
    Duration validity = std::chrono::hours(24 * 365);  // where a request does not want less
  };
  CertificatesController(Context context, Options options);

  void start() override { controller_.start(); }
  Task<> stop() override { return controller_.stop(); }
  bool idle() const override { return controller_.idle(); }
  Task<Result<>> reconcile(std::string key);

 private:
  // The subresource's permission by which it is approved; "" when people decide.
  Task<Result<std::string_view>> permissionOf(client::ObjectPtr request);
  Task<Result<bool>> mayCreate(client::ObjectPtr request, std::string_view subresource);
  Task<Result<>> approve(client::ObjectPtr request, std::string_view permission);
  Task<Result<>> sign(client::ObjectPtr request);

  Context context_;
  Options options_;
  client::Cache& requests_;
  client::Controller controller_;
};

}  // namespace dhow::controllers
