// Control groups, versions 1 and 2 and the hybrid of both behind one interface. A group is named by its path
// below every hierarchy's root ("/dhow/a"); nothing outside the paths given is ever changed. All functions
// block. Missing controllers cost a warning, not the container.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "runtime/runtime.h"
#include "runtime/spec.h"

namespace dhow::runtime {

struct Hierarchy {
  std::string mount;                     // where it is seen
  std::vector<std::string> controllers;  // v1: "memory", "name=systemd"; v2: cgroup.controllers
  bool v2 = false;
};

// What a process needs to know to enter a group, and its keeper to watch it.
struct GroupEntry {
  std::string path;
  std::vector<std::string> taskFiles;  // v1: "0" goes into each
  std::string v2Dir;                   // to clone into; empty: no v2 hierarchy
  std::string killFile;                // cgroup.kill; empty: none
  std::string oomFile;                 // holds "oom_kill N"; empty: no memory controller
  std::vector<Hierarchy> joined;
  std::vector<std::string> warnings;
};

class Cgroups {
 public:
  // From /proc/self/mountinfo.
  static Result<Cgroups> detect();
  explicit Cgroups(std::vector<Hierarchy> hierarchies) : hierarchies_(std::move(hierarchies)) {}

  // 1 or 2: where the memory controller is.
  int version() const;
  const std::vector<Hierarchy>& hierarchies() const { return hierarchies_; }

  // Makes the group (and its parents) in the hierarchies that its limits and stats need, and sets the limits.
  // `also` adds controllers; "*" is all of them. A group that exists is taken over.
  Result<GroupEntry> create(const std::string& path, const Resources& resources, const std::vector<std::string>& also,
                            bool restrictDevices) const;
  // The entry of a group that exists.
  GroupEntry entry(const std::string& path) const;
  // Sets what is given; the rest stays.
  Result<std::vector<std::string>> update(const std::string& path, const Resources& resources) const;
  Stats stats(const std::string& path) const;
  Result<> freeze(const std::string& path, bool frozen) const;
  // SIGKILL to every process in the group and below.
  Result<> kill(const std::string& path) const;
  Result<> signal(const std::string& path, int signal) const;
  // In the group and below.
  std::vector<pid_t> processes(const std::string& path) const;
  // The group and all below it, in every hierarchy. kConflict ("busy") while a process lives inside. Missing is fine.
  Result<> remove(const std::string& path) const;
  // Readable when the memory killer may have struck; drainOom() makes it wait again. Empty: not possible.
  UniqueFd watchOom(const std::string& path) const;
  static void drainOom(int fd);
  uint64_t oomKills(const std::string& path) const;
  // Whether the news of watchOom() are of a kill beyond those `told`. Version 1 tells just before it kills, and once
  // more when the group is removed; version 2 tells of other changes as well.
  bool oomStruck(const std::string& path, uint64_t told) const;

 private:
  const Hierarchy* of(std::string_view controller) const;
  const Hierarchy* v2() const;
  std::string dir(const Hierarchy* hierarchy, const std::string& path) const;
  std::vector<const Hierarchy*> needed(const Resources& resources, const std::vector<std::string>& also,
                                       bool devices) const;
  Result<> makeGroup(const Hierarchy& hierarchy, const std::string& path) const;
  void limitV1(const std::string& path, const Resources& resources, std::vector<std::string>& warnings) const;
  void limitV2(const std::string& path, const Resources& resources, std::vector<std::string>& warnings) const;
  Result<> restrictDevices(const std::string& path, const Resources& resources) const;
  void statsV1(const std::string& path, Stats& stats) const;
  void statsV2(const std::string& path, Stats& stats) const;

  std::vector<Hierarchy> hierarchies_;
};

// Docker's: nodes may be made, and null, zero, full, random, urandom, tty, console, ptmx and pts used.
std::vector<DeviceRule> defaultDeviceRules();
// Attaches a device filter to a v2 group.
Result<> attachDeviceFilter(const std::string& groupDir, const std::vector<DeviceRule>& rules);
// "1024 is one CPU" to v2's weight, as the kernel's and runc's users expect.
uint64_t weightOfShares(uint64_t shares);

}  // namespace dhow::runtime
