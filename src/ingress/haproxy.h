// One HAProxy in the calling thread's network namespace: started when there is something to serve, told what changes
// through its runtime API, reloaded without a lost connection when its structure changes (master-worker; the new worker
// gets the listening sockets), stopped when there is nothing left. It outlives this process, which finds it again by
// `<run>/pid`. All functions block; one call at a time. HAProxy 2.6 and later.
//
// The files (render.h) are on disk before they are in force, so that it starts with them after a crash or a reboot.
#pragma once

#include "base/result.h"
#include "control.h"
#include "filter_process.h"
#include "render.h"
#include "session_tables.h"

namespace dhow::ingress {

class Haproxy {
 public:
  struct Options {
    std::string program = "/usr/sbin/haproxy";
    std::string folder;  // of its files; survives a reboot
    std::string run;     // of sockets and pid; a short path
    std::string address, address6, dnsAddress;
    std::string filterProgram;  // dhow; empty: somebody else runs the filter
    std::string filterSocket =
        "/run/dhow-edge/filter.sock";  // HAProxy's workers are not root: all may look into its folder
    std::string findingsPipe() const { return run + "/findings.pipe"; }
    std::string pidFile() const { return run + "/pid"; }
    std::string adminSocket() const { return run + "/admin.sock"; }
    std::string metricsSocket() const { return run + "/metrics.sock"; }
    std::string logPipe() const { return run + "/access.pipe"; }
  };
  explicit Haproxy(Options options);

  // Finds the one that runs, or starts one with the files that are there, if any.
  Result<> recover();
  // After an error what was in force goes on, or nobody knows what is; the next call makes sure by a reload.
  Result<> apply(Config wanted);
  // All connections that there are come to an end: what they still ask is answered, and they are closed. By a reload,
  // so that the pods of sections stay known meanwhile.
  Result<> endConnections();
  // The workers of before reloads that have connections still; each is readable when it ends.
  std::vector<UniqueFd> replaced() const;
  void stop();
  bool running() const { return process_.running(); }
  // Readable when it ends; invalid when none runs.
  const UniqueFd& pidfd() const { return process_.pidfd; }
  // The same of the filter.
  const UniqueFd& filterPidfd() const { return filter_.pidfd(); }
  size_t reloads() const { return reloads_; }
  // By their uids, the pods that it sends to, with their users and connections. What has begun with a worker that was
  // replaced counts, too.
  Result<std::map<std::string, client::PodUse>> count();
  // Somebody else has a port that was asked for: apply() tries again.
  bool portsMissing() const { return !missing_.empty(); }

 private:
  Result<> prepare();
  Result<> start();
  Result<> reload();
  void ensureFilter();
  Result<> waitReady();
  Result<> write(const Config& wanted);
  Result<> load(Config wanted);
  struct Binding {
    bool six = false;
    uint16_t port = 0;
    auto operator<=>(const Binding&) const = default;
  };
  bool isFree(Binding binding) const;
  void leavePortsOfOthers(Config& wanted, std::string_view inForce);
  void removeStale(const Config& wanted) const;
  bool sameStructure(const Config& wanted) const;
  Result<> change(const Config& wanted);
  Result<> changeServers(const Config& wanted);
  struct Workers {
    bool fresh = false;            // the last reload has brought a new one
    std::vector<std::string> old;  // replaced, with connections still: they answer questions, and take no commands
  };
  Workers workers() const;
  void leaveTheDead(const std::map<std::string, Slots>& changed) const;
  void forgetReplaced(const std::string& backend, const Slots& before, const Slots& after);
  Result<> readTables();
  Result<> changeCertificates(const Config& wanted);
  Result<> changeMap(std::string_view name, const std::map<std::string, std::string>& before,
                     const std::map<std::string, std::string>& after, bool removals) const;

  Options options_;
  Layout layout_;
  FilterProcess filter_;
  Control control_, master_;
  Config loaded_;                    // what is in force
  std::vector<Frontend> frontends_;  // as they were asked for: what was refused is not in force
  std::set<Binding> missing_;        // that cannot be had
  std::map<std::string, Slots> slots_;
  Tables tables_;  // that are in force
  SessionTables sessions_;
  bool known_ = false;  // whether loaded_ is true
  KeptProcess process_;
  UniqueFd notify_;
  size_t reloads_ = 0;
};

}  // namespace dhow::ingress
