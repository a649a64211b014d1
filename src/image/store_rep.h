// What the files behind ImageStore share.
#pragma once

#include <map>
#include <set>

#include "async.h"
#include "image/store.h"
#include "layers.h"
#include "registry_client.h"

namespace dhow::image {

// What images.json keeps of an image; the rest is in the blobs.
struct ImageRecord {
  std::string id, manifest, target;
  std::set<std::string> tags;     // normalized names with tag
  std::set<std::string> digests;  // normalized names with digest
  int64_t lastTagged = 0;         // nanoseconds since 1970
};
using Records = std::map<std::string, ImageRecord>;  // by id

Result<Records> parseRecords(std::string_view json);
std::string toJson(const Records& records);

// One layer on its way here, for all who want it.
struct LayerJob {
  explicit LayerJob(Loop& loop) : ended(loop) {}
  Descriptor blob;
  std::string diffId;
  std::string shortId;
  Signal ended;
  bool done = false;
  std::optional<Error> problem;
  ProgressEvent last;
  std::map<int, Progress> watchers;
  int nextWatcher = 0;
  int interested = 0;  // 0: nobody waits any more, give up
  void tell(ProgressEvent event) {
    event.id = shortId;
    last = event;
    for (const auto& [key, watcher] : watchers) watcher(event);
  }
};

struct ImageStore::Rep {
  Rep(Loop& l, BlockingPool& p, Options o)
      : loop(l),
        pool(p),
        options(std::move(o)),
        unpackPool(std::max<size_t>(options.unpackThreads, 1)),
        gate(l),
        writing(l, 1),
        sweeping(l),
        downloads(l, std::max<size_t>(options.parallelDownloads, 1)),
        uploads(l, std::max<size_t>(options.parallelUploads, 1)) {}

  Loop& loop;
  BlockingPool& pool;
  Options options;
  BlockingPool unpackPool;  // its threads wait for downloads, so it is apart
  UniqueFd lock;
  std::unique_ptr<ContentStore> content;
  std::unique_ptr<LayerStore> layers;
  Gate gate;
  bool stopping = false;

  Records records;
  std::map<std::string, ImagePtr> images;  // by id
  Permits writing;                         // one change of images.json at a time

  std::map<std::string, std::shared_ptr<LayerJob>> jobs;  // by blob digest
  std::map<std::string, int> pins;                        // blobs and diff ids that must stay
  bool sweepRuns = false;
  int builders = 0;
  Signal sweeping;
  Permits downloads, uploads;

  // Keeps digests from being collected. Wait for a sweep to end before looking whether something is here.
  class Pins {
   public:
    explicit Pins(Rep* rep) : rep_(rep) {}
    Pins(Pins&& other) noexcept : rep_(std::exchange(other.rep_, nullptr)), held_(std::move(other.held_)) {}
    ~Pins() {
      for (const auto& digest : held_) {
        auto it = rep_->pins.find(digest);
        if (it != rep_->pins.end() && --it->second == 0) rep_->pins.erase(it);
      }
    }
    void add(const std::string& digest) {
      ++rep_->pins[digest];
      held_.push_back(digest);
    }

   private:
    Rep* rep_;
    std::vector<std::string> held_;
  };
  Task<> sweepEnded();
  // While one lives nothing is collected: content is being made whose digest is not known yet. Created right after
  // sweepEnded().
  class Building {
   public:
    explicit Building(Rep* rep) : rep_(rep) { ++rep_->builders; }
    ~Building() {
      if (--rep_->builders == 0) rep_->sweeping.notify();
    }
    Building(const Building&) = delete;

   private:
    Rep* rep_;
  };

  // store.cc
  Result<ImagePtr> find(std::string_view nameOrId) const;
  Result<ImagePtr> loadImage(const ImageRecord& record) const;  // blocks
  // Changes images.json: `change` edits a copy; it is on disk when this returns.
  Task<Result<>> update(std::function<Result<>(Records&)> change);
  // Blobs are here: makes an image of them, named so.
  struct NewImage {
    std::string id, manifest, target;
    std::vector<std::string> tags, digests;  // normalized
  };
  Task<Result<ImagePtr>> adopt(NewImage image);
  // Removes blobs and layers that nothing names; gives the bytes freed.
  Task<Result<uint64_t>> sweep();
  Task<> syncLayers();
  RegistryAccess access() const;  // reads the hosts file: blocks briefly

  // layer_job.cc
  Task<Result<>> fetchLayer(std::shared_ptr<RegistryClient> client, Descriptor blob, std::string diffId,
                            Progress progress, std::function<bool()> cancelled);
  Task<> runLayer(std::shared_ptr<LayerJob> job, std::shared_ptr<RegistryClient> client);
  Task<Result<>> downloadLayer(std::shared_ptr<LayerJob> job, std::shared_ptr<RegistryClient> client,
                               Permits::Held slot);
  // From a blob that is here.
  Task<Result<>> unpackBlob(std::string blob, std::string diffId);
  Task<Result<>> ensureUnpacked(ImagePtr image);

  // pull.cc
  Task<Result<ImagePtr>> pull(Reference reference, PullOptions options);

  // build.cc: stores a tar (as `writeTar` makes it) as a gzip layer, unpacked; gives its descriptor, diff id and size.
  struct NewLayer {
    Descriptor blob;
    std::string diffId;
    bool empty = false;
  };
  Result<NewLayer> packLayer(const std::function<Result<>(ByteSink)>& writeTar);  // blocks
  Task<Result<ImagePtr>> publish(ImageConfig config, std::vector<Descriptor> layers, std::vector<std::string> tags);
};

Error noSuchImage(std::string_view name);
// Runs on a pool thread: unpacks `source`, checks the diff id and stores the layer.
Result<> unpackInto(LayerStore& layers, std::unique_ptr<ByteSource> source, const std::string& diffId);
std::string nowText(Loop& loop);
std::string shortDigest(std::string_view digest);  // 12 digits

}  // namespace dhow::image
