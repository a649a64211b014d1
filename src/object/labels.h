// Labels that Kubernetes defines and that several floors read or write.
// https://kubernetes.io/docs/reference/labels-annotations-taints/
#pragma once

namespace dhow::object {

inline constexpr char kZoneLabel[] = "topology.kubernetes.io/zone";
inline constexpr char kRegionLabel[] = "topology.kubernetes.io/region";
inline constexpr char kHostnameLabel[] = "kubernetes.io/hostname";

// Of an EndpointSlice: the service that it belongs to, and who keeps it.
inline constexpr char kServiceNameLabel[] = "kubernetes.io/service-name";
inline constexpr char kSliceManagedByLabel[] = "endpointslice.kubernetes.io/managed-by";
inline constexpr char kIngressSliceController[] = "ingress-controller.dhow.io";  // their endpoints are nodes
inline constexpr char kGatewaySliceController[] = "gateway-controller.dhow.io";
inline constexpr char kSliceController[] =
    "endpointslice-controller.k8s.io";  // the manager of services with a selector
inline constexpr char kSliceMirror[] =
    "endpointslicemirroring-controller.k8s.io";  // of Endpoints that somebody wrote by hand

}  // namespace dhow::object
