// What node agents and the control plane agree on about heartbeats and fencing.
//
// A node renews its Lease in kube-node-lease every kRenewEvery. Pods with an identity (a StatefulSet's, or with a
// volume that one pod alone may use) must never run twice, so both sides keep a deadline from the same renewal:
//
//   the agent    kSelfFenceAfter after it SENT the last renewal that succeeded, it kills such pods, without grace, and
//                is done by kSelfFencedBy. It starts none while it holds no lease.
//   the master   kFencedAfter after it SAW the last renewal, or after it began to look, the pods are surely gone.
//
// A renewal is seen after it was sent, so the agent is always first; the difference is for clocks that drift and for
// scheduling. When every master refuses the connection, none runs that could move a pod: that counts as a renewal at
// the moment of asking, since a master that starts later begins to look later.
#pragma once

#include <string>

#include "base/loop.h"
#include "client/client.h"

namespace dhow::client {

// Pods that must never run twice: a StatefulSet's, those with a claim on a volume, and those annotated
// dhow.io/exclusive: "true".
bool hasIdentity(const object::Object& pod);

inline constexpr Duration kRenewEvery = std::chrono::seconds(3);
inline constexpr Duration kSilentAfter = std::chrono::seconds(8);  // two renewals and a bit have been missed
inline constexpr Duration kSelfFenceAfter = std::chrono::seconds(10);
inline constexpr Duration kSelfFencedBy = std::chrono::seconds(13);
inline constexpr Duration kFencedAfter = std::chrono::seconds(15);
inline constexpr int kLeaseSeconds = 15;  // of the Lease

// A node says here that it fences itself as told above; without it a silent node's pods with an identity only move
// when the machine is surely off.
inline constexpr char kFencesItself[] = "dhow.io/fences-itself";
// And here, which programs its agent runs: "0.1.0-3f2a9c1b77de". Written when the agent has taken its pods over.
inline constexpr char kRunsProgram[] = "dhow.io/program";
// The reason of a pod's Ready that is False since its node is silent, whatever the pod is like.
inline constexpr char kNodeNotReady[] = "NodeNotReady";
// A condition of a Node that serves Ingresses.
inline constexpr char kServesIngress[] = "dhow.io/ServesIngress";
// An annotation of a Node whose machine is about to be taken away, with the time since when (RFC 3339): nobody new is
// sent to its Ingresses, and those who are there end in peace. The agent answers by that condition: its reason is
// kIngressLeaves until nobody is left, then it is False.
inline constexpr char kIngressLeavesSince[] = "dhow.io/ingress-leaves-since";
inline constexpr char kIngressLeaves[] = "Leaving";
// An agent that does not say so within that time cannot.
inline constexpr Duration kIngressLeaveHeard = std::chrono::seconds(20);

// Returns when the node is Ready and, unless `program` is empty, its agent runs that one. kDeadlineExceeded.
Task<Result<>> awaitNode(Loop& loop, Client& api, std::string name, std::string program, Duration limit);

// Asks the node to let the clients of its Ingresses go (kIngressLeavesSince), and returns when nobody is left, at once
// when it serves none. kDeadlineExceeded: some are there still, or its agent has not heard.
Task<Result<>> letIngressClientsGo(Loop& loop, Client& api, std::string node, Duration limit);
// It stays after all. A node that is not there is fine.
Task<Result<>> keepIngressClients(Client& api, std::string node);

}  // namespace dhow::client
