// For tests: an etcd cluster of this process' own, on loopback addresses that no other process uses, in a temporary
// folder. Members are killed with the test.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/files.h"
#include "base/pki.h"
#include "base/process.h"
#include "store/etcd_admin.h"
#include "store/etcd_store.h"

namespace dhow::store {

inline bool haveEtcd() {
  auto found = runCommand({"sh", "-c", "command -v etcd"});
  return found.ok() && found->status.code == 0;
}

class TestEtcd {
 public:
  explicit TestEtcd(size_t members, bool tls = false) : tls_(tls) {
    static int made = 0;
    auto pid = static_cast<unsigned>(::getpid());
    address_ = fmt::format("127.{}.{}.{}", 64 + (pid >> 16 & 63), pid >> 8 & 255, pid & 255);
    firstPort_ = 20'000 + 100 * made++;
    dir_ = makeTempDir("/tmp", "dhow-etcd").value();
    if (tls_) makeCertificates();
    for (size_t i = 0; i < members; ++i) urls_.push_back(url(clientPort(i)));
    for (size_t i = 0; i < members; ++i) start(i);
  }
  ~TestEtcd() {
    for (size_t i = 0; i < pids_.size(); ++i) kill(i);
    EXPECT_TRUE(removeTree(dir_).ok());
  }

  const std::vector<std::string>& urls() const { return urls_; }
  EtcdOptions options(std::string prefix = "") const {
    EtcdOptions out;
    out.endpoints = urls_;
    out.prefix = std::move(prefix);
    out.timeout = std::chrono::seconds(15);
    out.patience = std::chrono::seconds(12);  // a loaded machine may be slow to elect
    if (tls_) {
      out.caPem = authority_.certificatePem;
      out.certificatePem = client_.certificatePem;
      out.privateKeyPem = client_.privateKeyPem;
    }
    return out;
  }
  std::string peerUrl(size_t i) const { return url(clientPort(i) + 1); }
  const std::string& dir() const { return dir_; }
  Identity foreignIdentity() const {
    auto other = createAuthority("other", std::chrono::system_clock::now(), std::chrono::hours(1)).value();
    return identity(other, "stranger", false);
  }

  // `joining`: the value of --initial-cluster for a member that was added to a cluster that exists.
  void start(size_t i, const std::string& joining = "") {
    if (pids_.size() <= i) pids_.resize(i + 1, -1);
    std::string all;
    for (size_t k = 0; k < urls_.size(); ++k) all += fmt::format("{}m{}={}", k ? "," : "", k, peerUrl(k));
    SpawnOptions options;
    options.args = {"etcd",
                    "--name",
                    fmt::format("m{}", i),
                    "--data-dir",
                    fmt::format("{}/m{}", dir_, i),
                    "--listen-client-urls",
                    url(clientPort(i)),
                    "--advertise-client-urls",
                    url(clientPort(i)),
                    "--listen-peer-urls",
                    peerUrl(i),
                    "--initial-advertise-peer-urls",
                    peerUrl(i),
                    "--initial-cluster",
                    joining.empty() ? all : joining,
                    "--initial-cluster-state",
                    joining.empty() ? "new" : "existing",
                    "--logger",
                    "zap",
                    "--log-outputs",
                    fmt::format("{}/m{}.log", dir_, i),
                    "--max-txn-ops",
                    "1024"};
    if (tls_) {
      for (std::string kind : {"", "peer-"}) {
        options.args.insert(
            options.args.end(),
            {"--" + kind + "cert-file", dir_ + "/server.crt", "--" + kind + "key-file", dir_ + "/server.key",
             "--" + kind + "trusted-ca-file", dir_ + "/ca.crt", "--" + kind + "client-cert-auth"});
      }
    }
    options.fds = {-1, -1, -1};
    options.dieWithParent = true;
    auto process = Process::spawn(options);
    ASSERT_TRUE(process.ok()) << process.error().message();
    pids_[i] = process->pid();
    processes_.push_back(std::move(*process));
  }
  // That member serves; false when it does not in half a minute.
  Task<bool> memberReady(Loop& loop, size_t i) {
    EtcdAdmin admin(loop, options());
    for (int attempt = 0; attempt < 300; ++attempt) {
      auto well = co_await admin.health(url(clientPort(i)));
      if (well.ok()) co_return true;
      co_await loop.sleep(std::chrono::milliseconds(100));
    }
    co_return false;
  }
  // All members that run serve.
  bool waitReady(RealLoop& loop) {
    for (size_t i = 0; i < pids_.size(); ++i) {
      if (runs(i) && !runOn(loop, memberReady(loop, i))) return false;
    }
    return true;
  }
  void kill(size_t i) {
    if (pids_[i] <= 0) return;
    ::kill(pids_[i], SIGKILL);
    ::waitpid(pids_[i], nullptr, 0);
    pids_[i] = -1;
  }
  // A member that is there but does nothing, as behind a cut link.
  void freeze(size_t i, bool frozen) { ::kill(pids_[i], frozen ? SIGSTOP : SIGCONT); }
  bool runs(size_t i) const { return pids_[i] > 0; }

 private:
  int clientPort(size_t i) const { return firstPort_ + static_cast<int>(i) * 10; }
  std::string url(int port) const { return fmt::format("{}://{}:{}", tls_ ? "https" : "http", address_, port); }
  Identity identity(const Identity& authority, const std::string& name, bool server) const {
    CertificateSpec spec;
    spec.commonName = name;
    spec.server = server;
    spec.client = true;
    spec.ipAddresses = {address_, "127.0.0.1"};  // members check where their peers call from
    spec.notBefore = std::chrono::system_clock::now();
    return issueCertificate(authority, spec).value();
  }
  void makeCertificates() {
    authority_ = createAuthority("etcd-ca", std::chrono::system_clock::now(), std::chrono::hours(1)).value();
    auto server = identity(authority_, "etcd", true);
    client_ = identity(authority_, "master", false);
    ASSERT_TRUE(writeFile(dir_ + "/ca.crt", authority_.certificatePem).ok());
    ASSERT_TRUE(writeFile(dir_ + "/server.crt", server.certificatePem).ok());
    ASSERT_TRUE(writeFile(dir_ + "/server.key", server.privateKeyPem, 0600).ok());
  }

  const bool tls_;
  std::string address_;
  int firstPort_ = 0;
  std::string dir_;
  Identity authority_, client_;
  std::vector<std::string> urls_;
  std::vector<pid_t> pids_;
  std::vector<Process> processes_;
};

}  // namespace dhow::store
