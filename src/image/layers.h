// Unpacked layers and containers' writable layers on disk:
//
//   <root>/layers/<n>/fs            a layer's files in overlay's form, by its own short number
//   <root>/layers/<n>/layer.json    diff id, size, folders that only the unpacking made; written last
//   <root>/layers/new-*, old-*      being unpacked, being removed; cleared at open()
//   <root>/layers/0/fs              empty: what an image without layers mounts
//   <root>/snapshots/<id>/snapshot.json, upper, work
//
// Layers are stored by diff id, so images that share a layer at different depths share it on disk. They are a cache of
// the blobs: a layer that may not have reached the disk before the machine went down (it carries that boot's id) is
// dropped at open() and unpacked again when needed. All functions block; any thread.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "image/store.h"
#include "unpack.h"

namespace dhow::image {

class LayerStore {
 public:
  struct Layer {
    unsigned number = 0;
    std::string diffId;
    uint64_t size = 0;
    std::vector<std::string> implicitFolders;
    bool synced = false;
  };
  // A layer being unpacked. Dropping it removes it.
  class Staging {
   public:
    Staging() = default;
    Staging(Staging&& other) noexcept : folder_(std::exchange(other.folder_, {})) {}
    Staging& operator=(Staging&&) = delete;
    ~Staging();
    std::string files() const { return folder_ + "/fs"; }

   private:
    friend class LayerStore;
    std::string folder_;
  };

  static Result<std::unique_ptr<LayerStore>> open(std::string root);

  std::optional<Layer> find(const std::string& diffId) const;
  Result<Staging> begin();
  // When another has brought the same layer meanwhile, that one stays.
  Result<Layer> commit(Staging staging, const std::string& diffId, const Unpacked& unpacked);
  // Removes all that `keep` does not name; gives the bytes freed. Layers of snapshots stay.
  Result<uint64_t> removeExcept(const std::set<std::string>& keep);
  // Waits for the disk to hold every layer that is here now.
  Result<> sync();
  uint64_t totalSize() const;

  Result<Snapshot> prepare(const std::string& imageId, const std::vector<std::string>& diffIds,
                           const std::string& containerId);
  Result<Snapshot> snapshot(const std::string& containerId) const;
  std::vector<std::string> snapshots() const;
  Result<> removeSnapshot(const std::string& containerId);

 private:
  struct Mount {
    std::string imageId;
    std::vector<std::string> diffIds;
  };
  explicit LayerStore(std::string root) : root_(std::move(root)) {}
  Result<> load();
  Snapshot describe(const std::string& containerId, const Mount& mount) const;
  Result<> writeInfo(const std::string& folder, const Layer& layer) const;
  Result<> fillUpper(const std::vector<Layer>& topFirst, const std::string& upper) const;
  std::string folderOf(unsigned number) const { return root_ + "/layers/" + std::to_string(number); }

  std::string root_, boot_;
  mutable std::mutex mutex_;
  std::map<std::string, Layer> layers_;  // by diff id
  std::map<std::string, Mount> mounts_;  // by container
  unsigned next_ = 1;
};

bool isContainerId(std::string_view text);

}  // namespace dhow::image
