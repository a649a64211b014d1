#include "image/store.h"

#include <algorithm>

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "base/time.h"
#include "store_rep.h"

namespace dhow::image {

Error noSuchImage(std::string_view name) {
  return Error(Code::kNotFound, "No such image: " + std::string(name.substr(0, 512)));
}

std::string nowText(Loop& loop) {
  return formatTimeNano(loop.wallNow());
}

std::string shortDigest(std::string_view digest) {
  return std::string(digest.substr(digest.find(':') + 1).substr(0, 12));
}

ImageStore::ImageStore(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}
ImageStore::~ImageStore() = default;

Result<std::unique_ptr<ImageStore>> ImageStore::open(Loop& loop, BlockingPool& pool, Options options) {
  auto rep = std::make_unique<Rep>(loop, pool, std::move(options));
  const std::string& root = rep->options.root;
  RETURN_IF_ERROR(makeDirs(root, 0711));
  ASSIGN_OR_RETURN(rep->lock, lockFile(root + "/lock"));
  ASSIGN_OR_RETURN(rep->content, ContentStore::open(root));
  ASSIGN_OR_RETURN(rep->layers, LayerStore::open(root));
  if (pathExists(root + "/images.json")) {
    ASSIGN_OR_RETURN(auto text, readFile(root + "/images.json", 256 << 20));
    ASSIGN_OR_RETURN(rep->records, parseRecords(text));
  }
  std::set<std::string> blobs, diffIds;
  for (auto it = rep->records.begin(); it != rep->records.end();) {
    auto image = rep->loadImage(it->second);
    if (!image.ok()) {
      // Its blobs are damaged by other hands; the rest of the store must work.
      log::error("image", "image {} is dropped: {}", it->first, image.error().message());
      it = rep->records.erase(it);
      continue;
    }
    blobs.insert({it->second.id, it->second.manifest, it->second.target});
    for (const auto& layer : (*image)->layers) blobs.insert(layer.digest);
    for (const auto& id : (*image)->config.diffIds) diffIds.insert(id);
    rep->images[it->first] = *image;
    ++it;
  }
  ASSIGN_OR_RETURN(auto present, rep->content->list());
  for (const auto& digest : present) {
    if (!blobs.contains(digest)) RETURN_IF_ERROR(rep->content->remove(digest));
  }
  ASSIGN_OR_RETURN([[maybe_unused]] auto freed, rep->layers->removeExcept(diffIds));
  return std::unique_ptr<ImageStore>(new ImageStore(std::move(rep)));
}

Task<> ImageStore::stop() {
  rep_->stopping = true;
  co_await rep_->gate.close();
}

ContentStore& ImageStore::content() {
  return *rep_->content;
}
uint64_t ImageStore::layersSize() const {
  return rep_->layers->totalSize();
}

RegistryAccess ImageStore::Rep::access() const {
  RegistryAccess out;
  out.hosts = options.hosts;
  auto fromFile = loadRegistryHosts(options.hostsFile);
  if (fromFile.ok()) {
    for (auto& [domain, host] : *fromFile) out.hosts[domain] = std::move(host);
  } else {
    log::warn("image", "{}", fromFile.error().message());
  }
  out.insecure = options.insecureRegistries;
  out.attempts = options.attempts;
  out.retryDelay = options.retryDelay;
  return out;
}

Result<ImagePtr> ImageStore::Rep::loadImage(const ImageRecord& record) const {
  auto image = std::make_shared<Image>();
  image->id = record.id;
  image->manifestDigest = record.manifest;
  image->targetDigest = record.target;
  ASSIGN_OR_RETURN(auto manifestText, content->read(record.manifest, kMaxDocument));
  ASSIGN_OR_RETURN(auto manifest, parseManifest(manifestText));
  ASSIGN_OR_RETURN(image->configJson, content->read(record.id, kMaxDocument));
  ASSIGN_OR_RETURN(image->config, parseImageConfig(image->configJson));
  image->manifestType = manifest.mediaType;
  image->layers = manifest.layers;
  image->contentSize = manifestText.size() + image->configJson.size();
  for (const auto& layer : manifest.layers) {
    if (!content->has(layer.digest)) return Error(Code::kDataLoss, "layer " + layer.digest + " is missing");
    image->contentSize += static_cast<uint64_t>(layer.size);
  }
  for (const auto& diffId : image->config.diffIds) {
    if (auto layer = layers->find(diffId)) image->size += layer->size;
  }
  image->created = image->config.created;
  image->lastTagged = WallTime(Duration(record.lastTagged));
  for (const auto& tag : record.tags) {
    if (auto reference = Reference::parse(tag); reference.ok()) image->repoTags.push_back(reference->familiar());
  }
  for (const auto& digest : record.digests) {
    if (auto reference = Reference::parse(digest); reference.ok()) image->repoDigests.push_back(reference->familiar());
  }
  return ImagePtr(std::move(image));
}

Task<Result<>> ImageStore::Rep::update(std::function<Result<>(Records&)> change) {
  auto held = co_await writing.take();
  Records next = records;
  auto changed = change(next);
  if (!changed.ok()) co_return std::move(changed).error();
  std::map<std::string, ImagePtr> loaded;
  auto write = [this, &next, &loaded]() -> Result<> {
    for (const auto& [id, record] : next) {
      ASSIGN_OR_RETURN(loaded[id], loadImage(record));
    }
    return writeFileDurably(options.root + "/images.json", toJson(next));
  };
  auto written = co_await pool.run(loop, write);
  if (!written.ok()) co_return std::move(written).error();
  records = std::move(next);
  images = std::move(loaded);
  co_return Result<>();
}

Task<Result<ImagePtr>> ImageStore::Rep::adopt(NewImage image) {
  int64_t now = loop.wallNow().time_since_epoch().count();
  auto change = [&image, now](Records& all) -> Result<> {
    for (auto& [id, record] : all) {
      if (id == image.id) continue;
      for (const auto& tag : image.tags) record.tags.erase(tag);
    }
    auto& record = all[image.id];
    record.id = image.id;
    record.manifest = image.manifest;
    record.target = image.target.empty() ? image.manifest : image.target;
    record.tags.insert(image.tags.begin(), image.tags.end());
    record.digests.insert(image.digests.begin(), image.digests.end());
    record.lastTagged = now;
    return {};
  };
  auto done = co_await update(change);
  if (!done.ok()) co_return std::move(done).error();
  auto it = images.find(image.id);
  if (it == images.end()) co_return noSuchImage(image.id);
  co_return it->second;
}

Result<ImagePtr> ImageStore::Rep::find(std::string_view name) const {
  if (auto it = images.find(std::string(name)); it != images.end()) return it->second;
  // A name wins over an id prefix, as in Docker.
  auto reference = Reference::parse(name);
  if (reference.ok()) {
    auto wanted = reference->withDefaultTag();
    Reference byDigest = wanted;
    if (!wanted.digest.empty()) byDigest.tag.clear();
    for (const auto& [id, record] : records) {
      bool matches = wanted.digest.empty()
                         ? record.tags.contains(wanted.str())
                         : record.digests.contains(byDigest.str()) ||
                               ((record.id == wanted.digest || record.manifest == wanted.digest) &&
                                std::any_of(record.tags.begin(), record.tags.end(),
                                            [&](const auto& tag) { return tag.starts_with(wanted.name() + ":"); }));
      if (matches) return images.at(id);
    }
  }
  std::string_view hex = name;
  if (hex.starts_with("sha256:")) hex.remove_prefix(7);
  bool isPrefix = !hex.empty() && hex.size() <= 64 && std::all_of(hex.begin(), hex.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
  });
  if (isPrefix) {
    std::string low = "sha256:" + std::string(hex);
    auto it = images.lower_bound(low);
    if (it != images.end() && it->first.starts_with(low)) {
      if (auto after = std::next(it); after != images.end() && after->first.starts_with(low))
        return Error(Code::kBadRequest, "ambiguous reference: " + std::string(name));
      return it->second;
    }
  }
  if (!reference.ok() && !isPrefix && !name.starts_with("sha256:")) return reference.error();
  return noSuchImage(reference.ok() ? reference->withDefaultTag().familiar() : std::string(name));
}

Result<ImagePtr> ImageStore::get(std::string_view nameOrId) const {
  return rep_->find(nameOrId);
}

std::vector<ImagePtr> ImageStore::list() const {
  std::vector<ImagePtr> out;
  for (const auto& [id, image] : rep_->images) out.push_back(image);
  auto createdAt = [](const ImagePtr& image) { return parseTime(image->created).value_or(WallTime()); };
  std::sort(out.begin(), out.end(), [&](const auto& a, const auto& b) {
    auto first = createdAt(a), second = createdAt(b);
    return first != second ? first > second : a->id < b->id;
  });
  return out;
}

Task<Result<>> ImageStore::tag(std::string nameOrId, Reference target) {
  if (!target.digest.empty()) co_return Error(Code::kBadRequest, "refusing to create a tag with a digest reference");
  auto image = rep_->find(nameOrId);
  if (!image.ok()) co_return std::move(image).error();
  std::string id = (*image)->id, name = target.withDefaultTag().str();
  int64_t now = rep_->loop.wallNow().time_since_epoch().count();
  auto change = [id, name, now](Records& all) -> Result<> {
    auto it = all.find(id);
    if (it == all.end()) return noSuchImage(id);
    for (auto& [other, record] : all) record.tags.erase(name);
    it->second.tags.insert(name);
    it->second.lastTagged = now;
    return {};
  };
  co_return co_await rep_->update(change);
}

Task<Result<Snapshot>> ImageStore::prepare(std::string imageId, std::string containerId) {
  auto image = rep_->find(imageId);
  if (!image.ok()) co_return std::move(image).error();
  ImagePtr found = *image;
  auto attempt = [this, found, containerId] {
    return rep_->layers->prepare(found->id, found->config.diffIds, containerId);
  };
  auto snapshot = co_await rep_->pool.run(rep_->loop, attempt);
  if (snapshot.ok() || !snapshot.error().is(Code::kFailedPrecondition)) co_return snapshot;
  auto unpacked = co_await rep_->ensureUnpacked(found);
  if (!unpacked.ok()) co_return std::move(unpacked).error();
  auto again = co_await rep_->pool.run(rep_->loop, attempt);
  co_return again;
}

Result<Snapshot> ImageStore::snapshot(const std::string& containerId) const {
  return rep_->layers->snapshot(containerId);
}
std::vector<std::string> ImageStore::snapshots() const {
  return rep_->layers->snapshots();
}

Task<Result<>> ImageStore::removeSnapshot(std::string containerId) {
  auto work = [this, containerId] { return rep_->layers->removeSnapshot(containerId); };
  auto done = co_await rep_->pool.run(rep_->loop, work);
  co_return done;
}

}  // namespace dhow::image
