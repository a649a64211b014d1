// Untagging, removing, pruning, and the sweep that frees what nothing names.
#include <algorithm>

#include "base/log.h"
#include "store_rep.h"

namespace dhow::image {

Task<> ImageStore::Rep::sweepEnded() {
  while (sweepRuns) co_await sweeping.wait();
}

// Pins are only taken while no sweep runs, so what is not pinned at its start stays unwanted until its end.
Task<Result<uint64_t>> ImageStore::Rep::sweep() {
  co_await sweepEnded();
  sweepRuns = true;
  while (builders > 0) co_await sweeping.wait();
  auto held = co_await writing.take();
  std::set<std::string> blobs, diffIds;
  for (const auto& [digest, count] : pins) {
    blobs.insert(digest);
    diffIds.insert(digest);
  }
  for (const auto& [id, record] : records) blobs.insert({record.id, record.manifest, record.target});
  for (const auto& [id, image] : images) {
    for (const auto& layer : image->layers) blobs.insert(layer.digest);
    diffIds.insert(image->config.diffIds.begin(), image->config.diffIds.end());
  }
  auto work = [this, &blobs, &diffIds]() -> Result<uint64_t> {
    uint64_t freed = 0;
    ASSIGN_OR_RETURN(auto present, content->list());
    for (const auto& digest : present) {
      if (blobs.contains(digest)) continue;
      freed += content->size(digest).valueOr(uint64_t{0});
      RETURN_IF_ERROR(content->remove(digest));
    }
    ASSIGN_OR_RETURN(uint64_t unpacked, layers->removeExcept(diffIds));
    return freed + unpacked;
  };
  auto freed = co_await pool.run(loop, work);
  sweepRuns = false;
  sweeping.notify();
  co_return freed;
}

Task<> ImageStore::Rep::syncLayers() {
  auto work = [this] { return layers->sync(); };
  auto done = co_await pool.run(loop, work);
  if (!done.ok()) log::warn("image", "{}", done.error().message());
}

namespace {

// What a removal does to the records; refuses as Docker does.
struct Removal {
  std::string id;
  std::set<std::string> tags;
  std::set<std::string> digests;
  bool whole = false;
};

Result<Removal> planRemoval(const Image& image, const ImageRecord& record, const std::string& name,
                            const RemoveOptions& options) {
  Removal out;
  out.id = image.id;
  auto reference = Reference::parse(name);
  bool byTag = reference.ok() && reference->digest.empty() && record.tags.contains(reference->withDefaultTag().str());
  Reference digestName;
  if (reference.ok() && !reference->digest.empty()) {
    digestName = *reference;
    digestName.tag.clear();
  }
  bool byDigest = reference.ok() && !reference->digest.empty() && record.digests.contains(digestName.str());
  std::vector<ImageUser> users;
  if (options.users) users = options.users(image.id);
  auto running = std::find_if(users.begin(), users.end(), [](const auto& user) { return user.running; });
  std::string shortId = shortDigest(image.id);
  if (byTag || byDigest) {
    if (byTag) out.tags.insert(reference->withDefaultTag().str());
    if (byDigest) out.digests.insert(digestName.str());
    bool lastTag = byTag && record.tags.size() == 1;
    // Digests of the repository that loses its last tag go along with it.
    if (byTag) {
      bool repositoryStays = std::any_of(record.tags.begin(), record.tags.end(), [&](const auto& tag) {
        return !out.tags.contains(tag) && tag.starts_with(reference->name() + ":");
      });
      for (const auto& digest : record.digests) {
        if (!repositoryStays && digest.starts_with(reference->name() + "@")) out.digests.insert(digest);
      }
    }
    out.whole = lastTag || (byDigest && record.tags.empty() && record.digests.size() == 1);
    if (out.whole && !users.empty() && !options.force) {
      const auto& user = running != users.end() ? *running : users.front();
      return Error(Code::kConflict, "conflict: unable to remove repository reference \"" + name +
                                        "\" (must force) - container " + user.containerId.substr(0, 12) +
                                        " is using its referenced image " + shortId);
    }
    // Forced while in use: only the name goes.
    if (out.whole && !users.empty()) out.whole = false;
    if (out.whole) {
      out.digests = record.digests;
    }
    return out;
  }
  out.whole = true;
  out.tags = record.tags;
  out.digests = record.digests;
  if (running != users.end())
    return Error(Code::kConflict, "conflict: unable to delete " + shortId +
                                      " (cannot be forced) - image is being used by running container " +
                                      running->containerId.substr(0, 12));
  if (!options.force && !users.empty())
    return Error(Code::kConflict, "conflict: unable to delete " + shortId +
                                      " (must be forced) - image is being used by stopped container " +
                                      users.front().containerId.substr(0, 12));
  if (!options.force && record.tags.size() > 1)
    return Error(Code::kConflict, "conflict: unable to delete " + shortId +
                                      " (must be forced) - image is referenced in multiple repositories");
  return out;
}

std::string familiar(const std::string& name) {
  auto reference = Reference::parse(name);
  return reference.ok() ? reference->familiar() : name;
}

}  // namespace

Task<Result<std::vector<Removed>>> ImageStore::remove(std::string nameOrId, RemoveOptions options) {
  std::vector<Removed> out;
  auto image = rep_->find(nameOrId);
  if (!image.ok()) co_return std::move(image).error();
  ImagePtr found = *image;
  std::set<std::string> layersBefore;
  auto change = [&](Records& all) -> Result<> {
    auto it = all.find(found->id);
    if (it == all.end()) return noSuchImage(nameOrId);
    ASSIGN_OR_RETURN(auto plan, planRemoval(*found, it->second, nameOrId, options));
    for (const auto& tag : plan.tags) {
      out.push_back({familiar(tag), ""});
      it->second.tags.erase(tag);
    }
    for (const auto& digest : plan.digests) {
      out.push_back({familiar(digest), ""});
      it->second.digests.erase(digest);
    }
    if (plan.whole) {
      out.push_back({"", found->id});
      all.erase(it);
    }
    return {};
  };
  auto done = co_await rep_->update(change);
  if (!done.ok()) co_return std::move(done).error();
  bool whole = std::any_of(out.begin(), out.end(), [](const auto& entry) { return !entry.deleted.empty(); });
  if (whole) {
    auto freed = co_await rep_->sweep();
    if (!freed.ok()) log::warn("image", "freeing what {} used: {}", found->id, freed.error().message());
    // Docker lists the chains of layers that went too.
    for (size_t n = found->config.diffIds.size(); n > 0; --n) {
      if (rep_->layers->find(found->config.diffIds[n - 1])) break;
      out.push_back({"", chainId(found->config.diffIds, n)});
    }
  }
  co_return out;
}

Task<Result<ImageStore::Pruned>> ImageStore::prune(bool all, std::function<bool(const Image&)> inUse) {
  Pruned out;
  auto current = rep_->images;
  auto change = [&](Records& records) -> Result<> {
    for (auto it = records.begin(); it != records.end();) {
      auto image = current.find(it->first);
      bool goes = image != current.end() && (all || it->second.tags.empty()) && !(inUse && inUse(*image->second));
      if (!goes) {
        ++it;
        continue;
      }
      for (const auto& tag : it->second.tags) out.removed.push_back({familiar(tag), ""});
      for (const auto& digest : it->second.digests) out.removed.push_back({familiar(digest), ""});
      out.removed.push_back({"", it->first});
      it = records.erase(it);
    }
    return {};
  };
  auto done = co_await rep_->update(change);
  if (!done.ok()) co_return std::move(done).error();
  auto freed = co_await rep_->sweep();
  if (!freed.ok()) co_return std::move(freed).error();
  out.bytes = *freed;
  co_return out;
}

}  // namespace dhow::image
