#include "layers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/digest.h"
#include "base/files.h"
#include "base/strings.h"
#include "json_read.h"

namespace dhow::image {

namespace json = boost::json;
using namespace jsonread;

bool isContainerId(std::string_view text) {
  if (text.empty() || text.size() > 128 || text.front() == '.') return false;
  return std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '-';
  });
}

LayerStore::Staging::~Staging() {
  if (!folder_.empty()) (void)removeTree(folder_).ok();
}

Result<std::unique_ptr<LayerStore>> LayerStore::open(std::string root) {
  std::unique_ptr<LayerStore> store(new LayerStore(std::move(root)));
  RETURN_IF_ERROR(store->load());
  return store;
}

Result<> LayerStore::load() {
  RETURN_IF_ERROR(makeDirs(root_ + "/layers/0/fs"));
  RETURN_IF_ERROR(makeDirs(root_ + "/snapshots", 0711));
  auto boot = readFile("/proc/sys/kernel/random/boot_id");
  boot_ = boot.ok() ? std::string(trim(*boot)) : randomHex(16);

  ASSIGN_OR_RETURN(auto names, listDir(root_ + "/layers"));
  for (const auto& name : names) {
    auto number = parseUint(name);
    if (number && *number == 0) continue;
    std::string folder = root_ + "/layers/" + name;
    bool keep = false;
    if (number && *number < 1u << 31) {
      next_ = std::max(next_, static_cast<unsigned>(*number) + 1);
      auto text = readFile(folder + "/layer.json");
      auto info = text.ok() ? parseObject(*text, "layer.json") : Result<json::object>(text.error());
      if (info.ok()) {
        Layer layer;
        layer.number = static_cast<unsigned>(*number);
        layer.diffId = stringAt(*info, "diffId");
        layer.size = static_cast<uint64_t>(intAt(*info, "size", 0));
        layer.implicitFolders = stringsAt(*info, "implicitFolders");
        auto writtenIn = stringAt(*info, "boot");
        layer.synced = writtenIn.empty();
        keep = isDigest(layer.diffId) && (layer.synced || writtenIn == boot_) &&
               layers_.emplace(layer.diffId, layer).second;
      }
    }
    if (!keep) RETURN_IF_ERROR(removeTree(folder));
  }

  ASSIGN_OR_RETURN(auto containers, listDir(root_ + "/snapshots"));
  for (const auto& id : containers) {
    auto text = readFile(root_ + "/snapshots/" + id + "/snapshot.json");
    auto info = text.ok() ? parseObject(*text, "snapshot.json") : Result<json::object>(text.error());
    if (info.ok() && isContainerId(id)) {
      mounts_[id] = Mount{stringAt(*info, "image"), stringsAt(*info, "layers")};
    } else {
      RETURN_IF_ERROR(removeTree(root_ + "/snapshots/" + id));
    }
  }
  return {};
}

std::optional<LayerStore::Layer> LayerStore::find(const std::string& diffId) const {
  std::lock_guard lock(mutex_);
  auto it = layers_.find(diffId);
  if (it == layers_.end()) return std::nullopt;
  return it->second;
}

Result<LayerStore::Staging> LayerStore::begin() {
  Staging out;
  std::string folder = root_ + "/layers/new-" + randomHex(12);
  RETURN_IF_ERROR(makeDirs(folder + "/fs"));
  out.folder_ = std::move(folder);
  return out;
}

Result<> LayerStore::writeInfo(const std::string& folder, const Layer& layer) const {
  json::object info{
      {"diffId", layer.diffId}, {"size", layer.size}, {"implicitFolders", toArray(layer.implicitFolders)}};
  if (!layer.synced) info["boot"] = boot_;
  return writeFile(folder + "/layer.json", json::serialize(info));
}

Result<LayerStore::Layer> LayerStore::commit(Staging staging, const std::string& diffId, const Unpacked& unpacked) {
  Layer layer;
  layer.diffId = diffId;
  layer.size = unpacked.size;
  layer.implicitFolders = unpacked.implicitFolders;
  RETURN_IF_ERROR(writeInfo(staging.folder_, layer));
  std::lock_guard lock(mutex_);
  if (auto it = layers_.find(diffId); it != layers_.end()) return it->second;
  layer.number = next_++;
  if (::rename(staging.folder_.c_str(), folderOf(layer.number).c_str()) != 0)
    return Error::fromErrno("store layer " + diffId);
  staging.folder_.clear();
  layers_[diffId] = layer;
  return layer;
}

Result<uint64_t> LayerStore::removeExcept(const std::set<std::string>& keep) {
  std::vector<std::string> folders;
  uint64_t bytes = 0;
  {
    std::lock_guard lock(mutex_);
    std::set<std::string> used = keep;
    for (const auto& [id, mount] : mounts_) used.insert(mount.diffIds.begin(), mount.diffIds.end());
    for (auto it = layers_.begin(); it != layers_.end();) {
      if (used.contains(it->first)) {
        ++it;
        continue;
      }
      std::string away = root_ + "/layers/old-" + randomHex(12);
      if (::rename(folderOf(it->second.number).c_str(), away.c_str()) != 0)
        return Error::fromErrno("remove layer " + it->first);
      folders.push_back(away);
      bytes += it->second.size;
      it = layers_.erase(it);
    }
  }
  for (const auto& folder : folders) RETURN_IF_ERROR(removeTree(folder));
  return bytes;
}

Result<> LayerStore::sync() {
  std::vector<Layer> waiting;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [id, layer] : layers_) {
      if (!layer.synced) waiting.push_back(layer);
    }
  }
  if (waiting.empty()) return {};
  UniqueFd fd(::open((root_ + "/layers").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::syncfs(fd.get()) != 0) return Error::fromErrno("sync layers");
  for (auto& layer : waiting) {
    std::lock_guard lock(mutex_);
    auto it = layers_.find(layer.diffId);
    if (it == layers_.end() || it->second.number != layer.number) continue;
    it->second.synced = true;
    RETURN_IF_ERROR(writeInfo(folderOf(layer.number), it->second));
  }
  return {};
}

uint64_t LayerStore::totalSize() const {
  std::lock_guard lock(mutex_);
  uint64_t sum = 0;
  for (const auto& [id, layer] : layers_) sum += layer.size;
  return sum;
}

Snapshot LayerStore::describe(const std::string& containerId, const Mount& mount) const {
  Snapshot out;
  out.imageId = mount.imageId;
  out.lowerBase = root_ + "/layers";
  for (auto it = mount.diffIds.rbegin(); it != mount.diffIds.rend(); ++it) {
    auto layer = layers_.find(*it);
    if (layer != layers_.end()) out.lowerNames.push_back(std::to_string(layer->second.number) + "/fs");
  }
  // A layer that occurs twice counts where it is topmost.
  std::set<std::string> seen;
  std::erase_if(out.lowerNames, [&](const std::string& name) { return !seen.insert(name).second; });
  if (out.lowerNames.empty()) out.lowerNames.push_back("0/fs");
  for (const auto& name : out.lowerNames) out.lowers.push_back(out.lowerBase + "/" + name);
  out.upper = root_ + "/snapshots/" + containerId + "/upper";
  out.work = root_ + "/snapshots/" + containerId + "/work";
  return out;
}

namespace {

Result<> copyAttributes(const struct stat& from, const std::string& to) {
  if (::geteuid() == 0 && ::chown(to.c_str(), from.st_uid, from.st_gid) != 0)
    return Error::fromErrno("set owner of " + to);
  if (::chmod(to.c_str(), from.st_mode & 07777) != 0) return Error::fromErrno("set mode of " + to);
  timespec times[2] = {from.st_mtim, from.st_mtim};
  if (::utimensat(AT_FDCWD, to.c_str(), times, 0) != 0) return Error::fromErrno("set time of " + to);
  return {};
}

}  // namespace

// A layer may hold files of a folder that it does not list itself. Overlay would show the attributes of the folder that
// unpacking made there; the writable layer, which is above all, gets the folder with the attributes that a lower layer
// gives it.
Result<> LayerStore::fillUpper(const std::vector<Layer>& topFirst, const std::string& upper) const {
  std::set<std::string> paths;
  for (const auto& layer : topFirst) paths.insert(layer.implicitFolders.begin(), layer.implicitFolders.end());
  std::set<std::string> wrong;
  std::map<std::string, struct stat> right;
  auto resolve = [&](const std::string& path) {
    bool implicitAbove = false;
    for (const auto& layer : topFirst) {
      struct stat info;
      std::string full = folderOf(layer.number) + "/fs/" + path;
      if (::lstat(full.c_str(), &info) != 0) continue;
      if (!S_ISDIR(info.st_mode)) return;
      bool isImplicit = std::binary_search(layer.implicitFolders.begin(), layer.implicitFolders.end(), path);
      right[path] = info;
      if (!isImplicit) {
        if (implicitAbove) wrong.insert(path);
        return;
      }
      implicitAbove = true;
    }
  };
  for (const auto& path : paths) resolve(path);
  std::set<std::string> needed{""};
  for (const auto& path : wrong) {
    for (size_t slash = path.find('/'); slash != std::string::npos; slash = path.find('/', slash + 1))
      needed.insert(path.substr(0, slash));
    needed.insert(path);
  }
  for (const auto& path : needed) {
    if (!right.contains(path)) resolve(path);
    std::string full = path.empty() ? upper : upper + "/" + path;
    if (!path.empty() && ::mkdir(full.c_str(), 0755) != 0 && errno != EEXIST)
      return Error::fromErrno("make folder " + full);
  }
  for (auto it = needed.rbegin(); it != needed.rend(); ++it) {
    if (auto found = right.find(*it); found != right.end())
      RETURN_IF_ERROR(copyAttributes(found->second, it->empty() ? upper : upper + "/" + *it));
  }
  return {};
}

Result<Snapshot> LayerStore::prepare(const std::string& imageId, const std::vector<std::string>& diffIds,
                                     const std::string& containerId) {
  if (!isContainerId(containerId))
    return Error(Code::kBadRequest, "invalid container id \"" + containerId.substr(0, 128) + "\"");
  std::string folder = root_ + "/snapshots/" + containerId;
  std::vector<Layer> topFirst;
  {
    std::lock_guard lock(mutex_);
    if (auto it = mounts_.find(containerId); it != mounts_.end()) {
      if (it->second.imageId != imageId)
        return Error(Code::kConflict, "snapshot " + containerId + " belongs to another image");
      return describe(containerId, it->second);
    }
    for (auto it = diffIds.rbegin(); it != diffIds.rend(); ++it) {
      auto layer = layers_.find(*it);
      if (layer == layers_.end()) return Error(Code::kFailedPrecondition, "layer " + *it + " is not unpacked");
      topFirst.push_back(layer->second);
    }
    mounts_[containerId] = Mount{imageId, diffIds};  // holds the layers from now on
  }
  auto attempt = [&]() -> Result<> {
    RETURN_IF_ERROR(makeDirs(folder, 0711));
    RETURN_IF_ERROR(makeDirs(folder + "/upper"));
    RETURN_IF_ERROR(makeDirs(folder + "/work", 0711));
    if (::chmod((folder + "/upper").c_str(), 0755) != 0) return Error::fromErrno("set mode of " + folder);
    RETURN_IF_ERROR(fillUpper(topFirst, folder + "/upper"));
    return writeFile(folder + "/snapshot.json",
                     json::serialize(json::object{{"image", imageId}, {"layers", toArray(diffIds)}}));
  };
  auto done = attempt();
  std::lock_guard lock(mutex_);
  if (!done.ok()) {
    mounts_.erase(containerId);
    (void)removeTree(folder).ok();
    return std::move(done).error();
  }
  return describe(containerId, mounts_[containerId]);
}

Result<Snapshot> LayerStore::snapshot(const std::string& containerId) const {
  std::lock_guard lock(mutex_);
  auto it = mounts_.find(containerId);
  if (it == mounts_.end()) return Error(Code::kNotFound, "no snapshot for container " + containerId);
  return describe(containerId, it->second);
}

std::vector<std::string> LayerStore::snapshots() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> out;
  for (const auto& [id, mount] : mounts_) out.push_back(id);
  return out;
}

Result<> LayerStore::removeSnapshot(const std::string& containerId) {
  if (!isContainerId(containerId)) return {};
  RETURN_IF_ERROR(removeTree(root_ + "/snapshots/" + containerId));
  std::lock_guard lock(mutex_);
  mounts_.erase(containerId);
  return {};
}

}  // namespace dhow::image
