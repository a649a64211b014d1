#include "platform/members.h"

#include <sys/stat.h>

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/url_host.h"
#include "platform/identities.h"

namespace dhow::platform {

using namespace std::chrono_literals;

namespace {

constexpr Duration kLearnerLook = 500ms;
constexpr Duration kSettled = 10s, kUnsettledAgain = 500ms;
constexpr Duration kUsualLook = 10s;
constexpr int64_t kQuotaBytes = int64_t{8} << 30;

std::string peerUrl(const std::string& address) {
  return fmt::format("https://{}:{}", urlHost(address), kMemberPeerPort);
}
std::string clientUrl(const std::string& address) {
  return fmt::format("https://{}:{}", urlHost(address), kMemberClientPort);
}
// Tells that this master has had a member: beside its data, which may be lost.
std::string joinedFile(const MasterOptions& options) {
  return options.member + ".joined";
}

std::string nameOfPeer(const MasterOptions& options, const std::string& url) {
  for (const auto& [name, address] : options.peers) {
    if (peerUrl(address) == url) return name;
  }
  return "";
}

struct InitialCluster {
  bool existing = false;
  std::vector<std::string> members;  // "name=url"
};

InitialCluster plannedCluster(const MasterOptions& options) {
  InitialCluster cluster;
  for (const auto& [name, address] : options.peers) cluster.members.push_back(name + "=" + peerUrl(address));
  return cluster;
}

// The cluster as its members tell it.
InitialCluster toldCluster(const MasterOptions& options, const std::vector<store::EtcdAdmin::Member>& members) {
  InitialCluster cluster;
  cluster.existing = true;
  for (const auto& member : members) {
    for (const auto& url : member.peerUrls) {
      const auto known = nameOfPeer(options, url);
      cluster.members.push_back((known.empty() ? member.name : known) + "=" + url);
    }
  }
  return cluster;
}

Task<Result<InitialCluster>> findCluster(Loop& loop, const MasterOptions& options) {
  CO_ASSIGN_OR_RETURN(auto etcd, storeOptions(options));
  const std::string own = clientUrl(options.address);
  std::erase(etcd.endpoints, own);
  etcd.timeout = 2s;
  etcd.patience = 500ms;
  store::EtcdAdmin admin(loop, std::move(etcd));
  auto members = co_await admin.members();
  if (!members.ok()) {
    if (!pathExists(joinedFile(options))) co_return plannedCluster(options);
    co_return Error(Code::kUnavailable, fmt::format("{} has lost its data and no other member answers: {}",
                                                    options.name, members.error().message()));
  }
  const std::string url = peerUrl(options.address);
  for (const auto& member : *members) {
    const auto& urls = member.peerUrls;
    if (std::find(urls.begin(), urls.end(), url) == urls.end()) continue;
    // Listed, and never started (it would have told its clients' addresses): its place is free. It may just be slower
    // than the others of a new cluster.
    if (member.clientUrls.empty()) co_return toldCluster(options, *members);
    log::warn("member", "{} has lost its data: it joins anew", options.name);
    auto removed = co_await admin.removeMember(member.id);
    CO_RETURN_IF_ERROR(removed);
  }
  auto added = co_await admin.addMember({url}, true);
  CO_RETURN_IF_ERROR(added);
  auto now = co_await admin.members();
  CO_RETURN_IF_ERROR(now);
  co_return toldCluster(options, *now);
}

std::vector<std::string> commandOf(const std::string& program, const MasterOptions& options,
                                   const InitialCluster& cluster) {
  return {program, "--name=" + options.name, "--data-dir=" + options.member,
          "--listen-peer-urls=" + peerUrl(options.address), "--initial-advertise-peer-urls=" + peerUrl(options.address),
          "--listen-client-urls=" + clientUrl(options.address), "--advertise-client-urls=" + clientUrl(options.address),
          "--initial-cluster=" + join(cluster.members, ","),
          std::string("--initial-cluster-state=") + (cluster.existing ? "existing" : "new"),
          "--initial-cluster-token=dhow", "--client-cert-auth", "--trusted-ca-file=" + options.etcdCaFile,
          "--cert-file=" + options.etcdCertFile, "--key-file=" + options.etcdKeyFile, "--peer-client-cert-auth",
          "--peer-trusted-ca-file=" + options.etcdCaFile, "--peer-cert-file=" + options.etcdCertFile,
          "--peer-key-file=" + options.etcdKeyFile, fmt::format("--quota-backend-bytes={}", kQuotaBytes),
          // One that comes back from a cut must not depose the leader that the others have.
          "--pre-vote=true", "--enable-v2=false", "--logger=zap", "--log-level=warn", "--log-outputs=stderr"};
}

}  // namespace

Result<store::EtcdOptions> storeOptions(const MasterOptions& options) {
  store::EtcdOptions out;
  out.endpoints = options.etcd;
  out.prefix = options.storePrefix;
  out.allMembers = !options.member.empty();
  if (!options.etcdCaFile.empty()) {
    ASSIGN_OR_RETURN(out.caPem, readFile(options.etcdCaFile, 1 << 20));
  }
  if (!options.etcdCertFile.empty()) {
    ASSIGN_OR_RETURN(out.certificatePem, readFile(options.etcdCertFile, 1 << 20));
    ASSIGN_OR_RETURN(out.privateKeyPem, readFile(options.etcdKeyFile, 1 << 20));
  }
  return out;
}

bool addPeer(MasterOptions& options, const std::string& name, const std::string& address) {
  auto& known = options.peers[name];
  if (known == address) return false;
  known = address;
  const auto url = clientUrl(address);
  if (std::find(options.etcd.begin(), options.etcd.end(), url) == options.etcd.end()) options.etcd.push_back(url);
  return true;
}

bool dropPeer(MasterOptions& options, const std::string& name) {
  auto known = options.peers.find(name);
  if (known == options.peers.end() || name == options.name) return false;
  std::erase(options.etcd, clientUrl(known->second));
  options.peers.erase(known);
  return true;
}

Task<Result<bool>> hasMember(Loop& loop, store::EtcdOptions options, std::string address) {
  store::EtcdAdmin admin(loop, std::move(options));
  CO_ASSIGN_OR_RETURN(auto members, co_await admin.members());
  const std::string url = peerUrl(address);
  co_return std::any_of(members.begin(), members.end(), [&](const auto& member) {
    return std::find(member.peerUrls.begin(), member.peerUrls.end(), url) != member.peerUrls.end();
  });
}

Task<Result<>> removeOwnMember(Loop& loop, MasterOptions options) {
  CO_ASSIGN_OR_RETURN(auto etcd, storeOptions(options));
  std::erase(etcd.endpoints, clientUrl(options.address));
  if (etcd.endpoints.empty()) co_return Result<>();
  etcd.timeout = 5s;
  store::EtcdAdmin admin(loop, std::move(etcd));
  auto members = co_await admin.members();
  CO_RETURN_IF_ERROR(members);
  const std::string url = peerUrl(options.address);
  for (const auto& member : *members) {
    if (std::find(member.peerUrls.begin(), member.peerUrls.end(), url) == member.peerUrls.end()) continue;
    // Refused until all have been connected for five seconds, of which etcd tells nobody.
    const TimePoint end = loop.now() + kSettled;
    while (true) {
      auto removed = co_await admin.removeMember(member.id);
      if (removed.ok() || !removed.error().is(Code::kFailedPrecondition) || loop.now() >= end) co_return removed;
      co_await loop.sleep(kUnsettledAgain);
    }
  }
  co_return Result<>();
}

Result<std::string> findEtcd() {
  for (const char* path : {"/usr/local/bin/etcd", "/usr/bin/etcd"}) {
    if (pathExists(path)) return std::string(path);
  }
  return Error(Code::kNotFound, "a store that masters can share needs etcd; install Debian's etcd-server");
}

bool runsOtherEtcd(pid_t member) {
  auto etcd = findEtcd();
  struct stat runs{}, now{};
  if (!etcd.ok() || ::stat(fmt::format("/proc/{}/exe", member).c_str(), &runs) != 0) return false;
  return ::stat(etcd->c_str(), &now) == 0 && (runs.st_ino != now.st_ino || runs.st_dev != now.st_dev);
}

Task<Result<std::vector<std::string>>> prepareMember(Loop& loop, const MasterOptions& options) {
  CO_ASSIGN_OR_RETURN(auto program, findEtcd());
  InitialCluster cluster = plannedCluster(options);
  if (!pathExists(options.member + "/member/wal")) {
    auto found = co_await findCluster(loop, options);
    CO_RETURN_IF_ERROR(found);
    cluster = std::move(*found);
    // What a start that was cut short has left.
    CO_RETURN_IF_ERROR(removeTree(options.member));
  }
  CO_RETURN_IF_ERROR(makeDirs(options.member, 0700));
  CO_RETURN_IF_ERROR(writeFileDurably(joinedFile(options), ""));
  co_return commandOf(program, options, cluster);
}

MemberKeeper::MemberKeeper(Loop& loop, store::EtcdOptions options)
    : admin_(loop, options), upkeep_(loop, options), stopped_(loop), gate_(loop) {}

Result<> MemberKeeper::replaceEndpoints(const std::vector<std::string>& endpoints) {
  RETURN_IF_ERROR(admin_.replaceEndpoints(endpoints));
  return upkeep_.replaceEndpoints(endpoints);
}

void MemberKeeper::start() {
  upkeep_.start();
  gate_.spawn(run(this));
}

Task<> MemberKeeper::stop() {
  stopping_ = true;
  stopped_.notify();
  co_await upkeep_.stop();
  co_await gate_.close();
}

// Whether one is still learning.
Task<bool> MemberKeeper::promoteLearners() {
  auto members = co_await admin_.members();
  if (!members.ok()) co_return false;
  bool learning = false;
  for (const auto& member : *members) {
    if (!member.learner || stopping_) continue;
    auto promoted = co_await admin_.promoteMember(member.id);
    if (promoted.ok())
      log::info("member", "{} has caught up and votes", member.name);
    else
      learning = true;
  }
  co_return learning;
}

Task<> MemberKeeper::run(MemberKeeper* self) {
  while (!self->stopping_) {
    const bool learning = co_await self->promoteLearners();
    if (self->stopping_) break;
    co_await self->stopped_.waitFor(learning ? kLearnerLook : kUsualLook);
  }
}

namespace {

struct Asked {
  explicit Asked(Loop& loop) : gate(loop) {}
  Gate gate;
  static Task<> one(store::EtcdAdmin* admin, MemberState* state) {
    auto status = co_await admin->status(state->endpoint);
    if (!status.ok()) co_return;
    state->answers = true;
    state->leads = status->leads();
    state->learner = status->learner;
    state->bytes = status->fileBytes;
  }
};

}  // namespace

Task<std::vector<MemberState>> memberStates(Loop& loop, MasterOptions options) {
  std::vector<MemberState> states;
  for (const auto& [name, address] : options.peers) states.push_back({name, clientUrl(address)});
  auto etcd = storeOptions(options);
  if (!etcd.ok() || states.empty()) co_return states;
  etcd->timeout = 2s;
  etcd->patience = 500ms;
  store::EtcdAdmin admin(loop, std::move(*etcd));
  Asked asked(loop);
  for (auto& state : states) asked.gate.spawn(Asked::one(&admin, &state));
  co_await asked.gate.close();
  co_return states;
}

Task<std::vector<MemberState>> memberStates(Loop& loop, const ClusterConfig& config) {
  if (!config.request.ownMembers()) co_return std::vector<MemberState>();
  const auto plans = config.masterPlans();
  auto options = loadMasterOptions(config.paths().masterConfig(plans[0].name));
  if (options.ok()) co_return co_await memberStates(loop, std::move(*options));
  std::vector<MemberState> states;
  for (const auto& plan : plans) states.push_back({plan.name, clientUrl(plan.address)});
  co_return states;
}

Task<bool> memberAnswers(Loop& loop, const ClusterConfig& config, std::string master) {
  const auto states = co_await memberStates(loop, config);
  co_return std::any_of(states.begin(), states.end(),
                        [&](const MemberState& state) { return state.name == master && state.answers; });
}

}  // namespace dhow::platform
