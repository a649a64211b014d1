#include "drill_identities.h"

#include <fmt/format.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "base/files.h"
#include "base/gate.h"
#include "base/process.h"
#include "base/strings.h"
#include "client/fields.h"

namespace dhow::platform {

namespace {

// The kernel tells beginnings in ticks.
constexpr Duration kTick = std::chrono::milliseconds(10);

// When the process began, by the clock that runs since the machine was started.
std::optional<TimePoint> beginning(int pid) {
  auto stat = readFile(fmt::format("/proc/{}/stat", pid), 1 << 16);
  if (!stat.ok()) return std::nullopt;
  // Fields are counted from behind the name, which may hold anything: state is the third of all.
  const auto end = stat->rfind(") ");
  if (end == std::string::npos) return std::nullopt;
  auto fields = split(stat->substr(end + 2), ' ');
  constexpr size_t kStartTime = 22 - 3;
  if (fields.size() <= kStartTime || fields[0] == "Z" || fields[0] == "X") return std::nullopt;
  auto ticks = parseUint(fields[kStartTime]);
  if (!ticks) return std::nullopt;
  return TimePoint(std::chrono::nanoseconds(1'000'000'000 / ::sysconf(_SC_CLK_TCK)) * static_cast<int64_t>(*ticks));
}

struct Found {
  int pid = 0;
  TimePoint began;
  UniqueFd fd;
};

// Processes of the pod that are not the shim's own. Blocks.
std::vector<Found> processesOf(const std::string& uid) {
  std::vector<Found> out;
  auto names = listDir("/proc");
  if (!names.ok()) return out;
  for (const auto& name : *names) {
    auto pid = parseInt(name);
    if (!pid) continue;
    auto cgroup = readFile("/proc/" + name + "/cgroup", 1 << 16);
    if (!cgroup.ok() || cgroup->find(uid) == std::string::npos) continue;
    auto line = readFile("/proc/" + name + "/cmdline", 1 << 16);
    if (!line.ok() || line->empty() || line->starts_with("dhow-shim")) continue;
    auto fd = pidfdOf(static_cast<pid_t>(*pid));
    auto began = beginning(static_cast<int>(*pid));
    if (fd.ok() && began) out.push_back({static_cast<int>(*pid), *began, std::move(*fd)});
  }
  return out;
}

}  // namespace

std::vector<std::string> overlaps(const std::vector<IdentitySpan>& spans) {
  std::vector<std::string> out;
  for (const IdentitySpan& later : spans) {
    for (const IdentitySpan& earlier : spans) {
      if (earlier.identity != later.identity || earlier.podUid == later.podUid) continue;
      if (earlier.began > later.began || (earlier.began == later.began && earlier.pid >= later.pid)) continue;
      if (earlier.ended && *earlier.ended <= later.began + kTick) continue;
      out.push_back(fmt::format("{}: process {} began while process {} of an earlier pod ran", later.identity,
                                later.pid, earlier.pid));
    }
  }
  return out;
}

struct DrillIdentities::Rep : std::enable_shared_from_this<Rep> {
  Rep(Loop& l, BlockingPool& p, std::set<std::string> n) : loop(l), pool(p), names(std::move(n)), gate(l) {}

  Loop& loop;
  BlockingPool& pool;
  const std::set<std::string> names;
  std::set<std::string> seen;  // containers
  std::vector<IdentitySpan> spans;
  std::vector<boost::asio::posix::stream_descriptor> watched;
  std::unique_ptr<client::Cache::Subscription> subscription;
  Gate gate;

  void look(const client::ObjectPtr& pod);
  void add(const std::string& identity, const std::string& uid, Found found);
  static Task<> find(Rep* self, std::string identity, std::string uid);
};

void DrillIdentities::Rep::look(const client::ObjectPtr& pod) {
  if (!pod || !names.contains(std::string(pod->name()))) return;
  for (const auto& value : client::array(pod->root(), {"status", "containerStatuses"})) {
    if (!value.is_object() || !client::has(value.get_object(), {"state", "running"})) continue;
    if (!seen.insert(std::string(client::text(value.get_object(), "containerID"))).second) continue;
    gate.spawn(find(this, std::string(pod->name()), std::string(pod->uid())));
  }
}

Task<> DrillIdentities::Rep::find(Rep* self, std::string identity, std::string uid) {
  auto found = co_await self->pool.run(self->loop, [&] { return processesOf(uid); });
  for (Found& one : found) self->add(identity, uid, std::move(one));
}

void DrillIdentities::Rep::add(const std::string& identity, const std::string& uid, Found found) {
  for (const IdentitySpan& span : spans) {
    if (span.pid == found.pid && span.began == found.began) return;
  }
  const size_t index = spans.size();
  spans.push_back({identity, uid, found.pid, found.began, std::nullopt});
  boost::system::error_code failed;
  auto& descriptor = watched.emplace_back(loop.executor());
  descriptor.assign(found.fd.release(), failed);
  descriptor.async_wait(boost::asio::posix::descriptor_base::wait_read,
                        [self = shared_from_this(), index](const boost::system::error_code& error) {
                          if (!error) self->spans[index].ended = self->loop.now();
                        });
}

DrillIdentities::DrillIdentities(Loop& loop, BlockingPool& pool, std::set<std::string> names)
    : rep_(std::make_shared<Rep>(loop, pool, std::move(names))) {}
DrillIdentities::~DrillIdentities() = default;

void DrillIdentities::start(client::Cache& pods) {
  rep_->subscription = pods.subscribe(
      [rep = rep_.get()](const client::ObjectPtr&, const client::ObjectPtr& after) { rep->look(after); });
}

Task<> DrillIdentities::stop() {
  rep_->subscription.reset();
  co_await rep_->gate.close();
  for (auto& descriptor : rep_->watched) {
    boost::system::error_code ignored;
    descriptor.cancel(ignored);
  }
  rep_->watched.clear();
}

size_t DrillIdentities::processes() const {
  return rep_->spans.size();
}

std::vector<std::string> DrillIdentities::doubled() const {
  return overlaps(rep_->spans);
}

}  // namespace dhow::platform
