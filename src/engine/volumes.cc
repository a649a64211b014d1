#include "volumes.h"

#include <sched.h>
#include <sys/mount.h>

#include <cstdio>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include <thread>

#include "base/digest.h"
#include "base/files.h"
#include "base/process.h"
#include "base/strings.h"
#include "base/time.h"
#include "fields.h"

namespace dhow::engine {

namespace {

constexpr const char* kRecord = "/volume.json";
constexpr const char* kRemoved = ".removed-";  // what a crash leaves of a removal begins so

bool validName(const std::string& name) {
  if (name.size() < 2 || name.size() > 255 || !std::isalnum(static_cast<unsigned char>(name[0]))) return false;
  return std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.' || c == '-'; });
}

// Runs on a thread of its own, which has its own mount namespace: nothing has to be unmounted afterwards.
Result<> copyFromOverlay(const image::Snapshot& snapshot, const std::string& path, const std::string& target) {
  if (::unshare(CLONE_NEWNS) != 0) return Error::fromErrno("unshare the mount namespace");
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return Error::fromErrno("make mounts private");
  ASSIGN_OR_RETURN(auto view, makeTempDir("/tmp", "dhow-copy-up-"));
  auto copy = [&]() -> Result<> {
    if (snapshot.lowers.size() == 1) {
      if (::mount(snapshot.lowers[0].c_str(), view.c_str(), nullptr, MS_BIND, nullptr) != 0)
        return Error::fromErrno("mount an image");
    } else {
      std::string options = "lowerdir=" + join(snapshot.lowers, ":");
      if (::mount("overlay", view.c_str(), "overlay", MS_RDONLY, options.c_str()) != 0)
        return Error::fromErrno("mount an image");
    }
    auto source = view + path;
    Result<> done;
    if (pathExists(source)) {
      auto copied = runCommand({"cp", "-a", "--reflink=auto", source + "/.", target});
      if (!copied.ok())
        done = std::move(copied).error();
      else if (copied->status.code != 0)
        done = Error(Code::kInternal, "fill a volume: " + std::string(trim(copied->errors)));
    }
    ::umount2(view.c_str(), MNT_DETACH);
    return done;
  };
  auto done = copy();
  ::rmdir(view.c_str());
  return done;
}

}  // namespace

Result<std::unique_ptr<Volumes>> Volumes::open(std::string root) {
  RETURN_IF_ERROR(makeDirs(root, 0711));
  std::unique_ptr<Volumes> volumes(new Volumes(root));
  ASSIGN_OR_RETURN(auto names, listDir(root));
  for (const auto& name : names) {
    if (name.starts_with(kRemoved)) {
      RETURN_IF_ERROR(removeTree(root + "/" + name));
      continue;
    }
    auto content = readFile(root + "/" + name + kRecord, 1 << 20);
    boost::system::error_code error;
    auto value = content.ok() ? json::parse(*content, error) : json::value();
    if (!value.is_object()) continue;
    const auto& record = value.get_object();
    volumes->volumes_[name] = {name,
                               root + "/" + name + "/_data",
                               parseTime(text(record, "created")).value_or(WallTime{}),
                               boolean(record, "anonymous"),
                               child(record, "labels"),
                               child(record, "options")};
  }
  return volumes;
}

Result<Volume> Volumes::create(std::string name, json::object labels, json::object options, WallTime now, bool* made) {
  if (made) *made = false;
  Volume volume;
  volume.anonymous = name.empty();
  volume.name = name.empty() ? randomHex(64) : std::move(name);
  std::lock_guard alone(making_);
  if (auto known = get(volume.name); known.ok()) return known;
  if (!validName(volume.name))
    return Error(Code::kBadRequest,
                 fmt::format("create {}: \"{}\" includes invalid characters for a local volume name, only "
                             "\"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, "
                             "use absolute path",
                             volume.name, volume.name));
  auto folder = root_ + "/" + volume.name;
  volume.mountpoint = folder + "/_data";
  volume.created = now;
  volume.labels = std::move(labels);
  volume.options = std::move(options);
  auto write = [&]() -> Result<> {
    RETURN_IF_ERROR(makeDirs(volume.mountpoint, 0755));
    json::object record{{"created", formatTimeNano(now)},
                        {"anonymous", volume.anonymous},
                        {"labels", volume.labels},
                        {"options", volume.options}};
    return writeFileDurably(folder + kRecord, json::serialize(record));
  };
  if (auto written = write(); !written.ok()) {
    (void)removeTree(folder);
    return std::move(written).error();
  }
  std::lock_guard lock(mutex_);
  volumes_[volume.name] = volume;
  if (made) *made = true;
  return volume;
}

Result<Volume> Volumes::get(const std::string& name) const {
  std::lock_guard lock(mutex_);
  auto it = volumes_.find(name);
  if (it == volumes_.end()) return Error(Code::kNotFound, "get " + name + ": no such volume");
  return it->second;
}

std::vector<Volume> Volumes::list() const {
  std::lock_guard lock(mutex_);
  std::vector<Volume> all;
  for (const auto& [name, volume] : volumes_) all.push_back(volume);
  return all;
}

Result<> Volumes::remove(const std::string& name) {
  auto away = root_ + "/" + kRemoved + randomHex(16);
  {
    std::lock_guard lock(mutex_);
    if (!volumes_.contains(name)) return Error(Code::kNotFound, "get " + name + ": no such volume");
    if (::rename((root_ + "/" + name).c_str(), away.c_str()) != 0) return Error::fromErrno("remove volume " + name);
    volumes_.erase(name);
  }
  return removeTree(away);
}

Result<> Volumes::copyUp(const image::Snapshot& snapshot, const std::string& path, const Volume& volume) {
  ASSIGN_OR_RETURN(auto names, listDir(volume.mountpoint));
  if (!names.empty()) return {};
  Result<> done;
  std::thread copier([&] { done = copyFromOverlay(snapshot, path, volume.mountpoint); });
  copier.join();
  return done;
}

}  // namespace dhow::engine
