// What the agent needs of the floors below, as narrow interfaces: tests put fakes behind them, the role file the real
// ones. (runtime::Runtime and client::Client are interfaces already.) All on the loop's thread.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/loop.h"
#include "base/result.h"
#include "client/client.h"
#include "client/draining.h"
#include "client/sessions.h"
#include "image/store.h"
#include "volume_content.h"

namespace dhow::node {

using client::ObjectPtr;

class Images {
 public:
  virtual ~Images() = default;
  virtual bool present(const std::string& reference) const = 0;
  virtual Task<Result<image::ImagePtr>> ensure(std::string reference, image::PullPolicy policy,
                                               image::Keyring secrets) = 0;
  virtual Task<Result<image::Snapshot>> prepare(std::string imageId, std::string containerId) = 0;
  virtual Task<Result<>> removeSnapshot(std::string containerId) = 0;
  virtual std::vector<std::string> snapshots() const = 0;
  virtual std::vector<image::ImagePtr> list() const = 0;
};

struct HostPort {
  std::string hostAddress;
  uint16_t hostPort = 0, containerPort = 0;
  std::string protocol = "TCP";
};

// Addresses of pods.
class PodNetwork {
 public:
  virtual ~PodNetwork() = default;
  struct Given {
    UniqueFd netns;               // the sandbox joins it
    UniqueFd users;               // the user namespace that owns it and has no ids yet, if it shall have one of its own
    std::string address, second;  // the second one, where the cluster has two families, of the other one
    std::string hostInterface;
  };
  // Waits while the node has no range yet.
  virtual Task<Result<Given>> acquire(std::string podUid, bool ownUsers) = 0;
  // `address`: one of its two.
  virtual Result<> adopt(const std::string& podUid, const std::string& address, const std::string& hostInterface) = 0;
  virtual void release(const std::string& podUid) = 0;
  // Again after adopt(): what an earlier agent published is told anew.
  virtual Result<> publish(const std::string& podUid, const std::vector<std::string>& addresses,
                           const std::vector<HostPort>& ports) = 0;
};

// Service account tokens.
class Tokens {
 public:
  virtual ~Tokens() = default;
  struct Token {
    std::string token;
    WallTime expires{};
  };
  virtual Task<Result<Token>> request(std::string ns, std::string account, TokenRequest request, std::string podName,
                                      std::string podUid) = 0;
};

// Config maps and secrets that pods of this node refer to, each watched while a pod does.
class ObjectSource {
 public:
  virtual ~ObjectSource() = default;
  // From now on `user` refers to exactly these; `changed` is called when one of them changes. An empty list ends it.
  virtual void use(const std::string& user, std::vector<ObjectRef> refs, std::function<void()> changed) = 0;
  // What was known before a restart, until the API has told.
  virtual void seed(const ObjectRef& ref, ObjectPtr object) = 0;
  // Whether it is known that the object is there or is not.
  virtual bool known(const ObjectRef& ref) const = 0;
  virtual ObjectPtr find(const ObjectRef& ref) const = 0;
};

// Services of the cluster, for environment variables.
class ServiceSource {
 public:
  virtual ~ServiceSource() = default;
  virtual std::vector<ObjectPtr> services(std::string_view ns) const = 0;
};

// The drain barrier, as a master keeps it (apiserver/drain_barrier.h).
class Barrier {
 public:
  virtual ~Barrier() = default;
  // Returns when nobody sends to the pod any more, or with who has not confirmed that in time; without a pod's name
  // when everybody sends by the slices of that revision. kUnavailable: no master answers.
  virtual Task<Result<client::Drained>> pass(client::DrainQuestion pod) = 0;
  // What users hold of it; see client/sessions.h for when it returns.
  virtual Task<Result<client::Held>> held(client::HeldQuestion pod) = 0;
};

// What probes and hooks do over the network.
class Connector {
 public:
  virtual ~Connector() = default;
  struct HttpGet {
    std::string scheme = "http", host, path = "/";
    uint16_t port = 0;
    std::vector<std::pair<std::string, std::string>> headers;
  };
  struct Answer {
    int status = 0;
    std::string body;  // the first 10 KiB
  };
  virtual Task<Result<Answer>> httpGet(HttpGet request, Duration timeout) = 0;
  virtual Task<Result<>> tcpConnect(std::string host, uint16_t port, Duration timeout) = 0;
  virtual Task<Result<>> grpcHealth(std::string host, uint16_t port, std::string service, Duration timeout) = 0;
};

// Network policies of the pods here.
class PodPolicies {
 public:
  virtual ~PodPolicies() = default;
  // The pod gets these addresses. Ends when its policies are in force; on an error nothing of the pod may run.
  // release() follows in either case.
  virtual Task<Result<>> protect(ObjectPtr pod, std::vector<std::string> addresses) = 0;
  // It ran before this agent did, and what protects it is in force.
  virtual void adopt(ObjectPtr pod, const std::vector<std::string>& addresses) = 0;
  virtual void update(ObjectPtr pod) = 0;  // with other labels, perhaps
  virtual void release(const std::string& podUid) = 0;
};

// Blocking work: off the loop, or at once in tests.
class Offload {
 public:
  virtual ~Offload() = default;
  virtual Task<> run(std::function<void()> work) = 0;
};

}  // namespace dhow::node
