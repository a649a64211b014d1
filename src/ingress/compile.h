// From Kubernetes' documents to what a HAProxy shall serve. Pure: the agent gives what it watches, the controller asks
// the same function what is wrong with an Ingress.
//
// Where two Ingresses want the same host and path, the older one has it. An Ingress that is wrong in one thing is
// served in all others.
#pragma once

#include <functional>
#include <set>

#include "ingress/config.h"
#include "object/object.h"

namespace dhow::ingress {

using object::ObjectPtr;

constexpr std::string_view kIngressController = "dhow.io/ingress";
constexpr uint16_t kHttpPort = 80, kHttpsPort = 443;

struct Documents {
  std::vector<ObjectPtr> classes;    // all IngressClasses
  std::vector<ObjectPtr> ingresses;  // of our classes, no others
  using Find = std::function<ObjectPtr(std::string_view ns, std::string_view name)>;
  Find service, secret, configMap;
  std::function<std::vector<ObjectPtr>(std::string_view ns, std::string_view service)> slices;
  bool ipv6Alone = false;  // the node has no address of IPv4
};

struct Problem {
  ObjectPtr about;
  std::string reason, message;
};

struct Compiled {
  Config config;
  std::vector<Problem> problems;
};

Compiled compile(const Documents& documents);

// The servers of a backend alone (its `port`). Ready pods, and those that end, marked: those that still answer drain;
// when none is ready, they are as good as ready.
std::vector<Server> serversOf(const std::vector<ObjectPtr>& slices, std::string_view port);

// The name of an Ingress's class, by its field or the older annotation.
std::string_view classOf(const object::Object& ingress);
// Secrets that it names, of its own namespace.
std::set<std::string> secretsOf(const object::Object& ingress);
std::set<std::string> configMapsOf(const object::Object& ingress);

}  // namespace dhow::ingress
