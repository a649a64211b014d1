#include "repositories.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/digest.h"
#include "base/files.h"
#include "image/reference.h"

namespace dhow::image {
namespace {

std::string hexOf(std::string_view digest) {
  return std::string(digest.substr(digest.find(':') + 1));
}

bool isForeign(const Descriptor& layer) {
  return layer.mediaType.find("foreign") != std::string::npos ||
         layer.mediaType.find("nondistributable") != std::string::npos;
}

}  // namespace

Result<std::unique_ptr<Repositories>> Repositories::open(std::string root) {
  auto out = std::make_unique<Repositories>();
  RETURN_IF_ERROR(makeDirs(root + "/repositories"));
  ASSIGN_OR_RETURN(out->content_, ContentStore::open(root));
  out->root_ = std::move(root);
  return out;
}

bool Repositories::exists(const std::string& name) const {
  return pathExists(folder(name) + "/_manifests");
}

bool Repositories::hasBlob(const std::string& name, const std::string& digest) const {
  std::string hex = hexOf(digest);
  return (pathExists(folder(name) + "/_blobs/" + hex) || pathExists(folder(name) + "/_manifests/" + hex)) &&
         content_->has(digest);
}

Result<> Repositories::linkBlob(const std::string& name, const std::string& digest) {
  std::string path = folder(name) + "/_blobs";
  if (pathExists(path + "/" + hexOf(digest))) return {};
  RETURN_IF_ERROR(makeDirs(path));
  return writeFileDurably(path + "/" + hexOf(digest), "");
}

// Removes the bytes when no repository holds them any more.
Result<> Repositories::collect(const std::string& digest) {
  ASSIGN_OR_RETURN(auto all, names());
  for (const auto& name : all) {
    if (pathExists(folder(name) + "/_blobs/" + hexOf(digest)) ||
        pathExists(folder(name) + "/_manifests/" + hexOf(digest)))
      return {};
  }
  return content_->remove(digest);
}

Result<> Repositories::removeBlob(const std::string& name, const std::string& digest) {
  if (::unlink((folder(name) + "/_blobs/" + hexOf(digest)).c_str()) != 0) {
    if (errno == ENOENT) return Error(Code::kNotFound, "blob unknown to registry");
    return Error::fromErrno("remove blob " + digest);
  }
  return collect(digest);
}

Result<Repositories::Stored> Repositories::manifest(const std::string& name, const std::string& target) const {
  Stored out;
  out.digest = target;
  if (!isDigest(target)) {
    std::string path = folder(name) + "/_tags/" + target;
    if (!pathExists(path)) return Error(Code::kNotFound, "manifest unknown");
    ASSIGN_OR_RETURN(out.digest, readFile(path, 256));
    if (!isDigest(out.digest)) return Error(Code::kDataLoss, "tag " + target + " of " + name + " is damaged");
  }
  std::string link = folder(name) + "/_manifests/" + hexOf(out.digest);
  if (!pathExists(link)) return Error(Code::kNotFound, "manifest unknown");
  ASSIGN_OR_RETURN(out.mediaType, readFile(link, 1024));
  ASSIGN_OR_RETURN(out.bytes, content_->read(out.digest, kMaxDocument));
  return out;
}

Result<Repositories::Put> Repositories::putManifest(const std::string& name, const std::string& target,
                                                    const std::string& mediaType, const std::string& bytes) {
  Put out;
  auto refuse = [&](int status, std::string code, std::string message) {
    out.refused = RegistryError{status, std::move(code), std::move(message)};
    return out;
  };
  out.digest = "sha256:" + sha256Hex(bytes);
  bool byDigest = isDigest(target);
  if (byDigest && target != out.digest)
    return refuse(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
  std::string own = mediaTypeOf(bytes);
  std::string type = mediaType.empty() ? own : mediaType;
  if (!own.empty() && own != type && (isIndexType(own) || isManifestType(own)) && isIndexType(own) != isIndexType(type))
    return refuse(400, "MANIFEST_INVALID", "the manifest says that it is " + own + ", the request that it is " + type);
  std::vector<std::string> needed;
  if (isIndexType(type)) {
    auto index = parseIndex(bytes);
    if (!index.ok()) return refuse(400, "MANIFEST_INVALID", index.error().message());
    for (const auto& entry : index->manifests) needed.push_back(entry.digest);
    if (index->subject) out.subject = index->subject->digest;
  } else if (isManifestType(type)) {
    auto manifest = parseManifest(bytes);
    if (!manifest.ok()) return refuse(400, "MANIFEST_INVALID", manifest.error().message());
    needed.push_back(manifest->config.digest);
    for (const auto& layer : manifest->layers) {
      if (!isForeign(layer)) needed.push_back(layer.digest);
    }
    if (manifest->subject) out.subject = manifest->subject->digest;
  } else {
    return refuse(400, "MANIFEST_INVALID", "unsupported manifest media type \"" + type.substr(0, 200) + "\"");
  }
  for (const auto& digest : needed) {
    if (!hasBlob(name, digest)) return refuse(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry: " + digest);
  }
  RETURN_IF_ERROR(makeDirs(folder(name) + "/_manifests"));
  auto put = content_->put(bytes);
  if (!put.ok()) return std::move(put).error();
  auto named = writeFileDurably(folder(name) + "/_manifests/" + hexOf(out.digest), type);
  if (!named.ok()) {
    (void)collect(out.digest);  // nobody could ever remove it
    return std::move(named).error();
  }
  if (!out.subject.empty()) {
    std::string path = folder(name) + "/_referrers/" + hexOf(out.subject);
    RETURN_IF_ERROR(makeDirs(path));
    RETURN_IF_ERROR(writeFileDurably(path + "/" + hexOf(out.digest), ""));
  }
  if (!byDigest) {
    RETURN_IF_ERROR(makeDirs(folder(name) + "/_tags"));
    RETURN_IF_ERROR(writeFileDurably(folder(name) + "/_tags/" + target, out.digest));
  }
  return out;
}

Result<> Repositories::removeManifest(const std::string& name, const std::string& target) {
  if (!isDigest(target)) {
    if (::unlink((folder(name) + "/_tags/" + target).c_str()) == 0) return {};
    return Error(Code::kNotFound, "manifest unknown");
  }
  ASSIGN_OR_RETURN(auto stored, manifest(name, target));
  ASSIGN_OR_RETURN(auto all, tags(name));
  for (const auto& tag : all) {
    auto named = readFile(folder(name) + "/_tags/" + tag, 256);
    if (named.ok() && *named == target) ::unlink((folder(name) + "/_tags/" + tag).c_str());
  }
  auto parsed = parseManifest(stored.bytes);
  if (parsed.ok() && parsed->subject)
    ::unlink((folder(name) + "/_referrers/" + hexOf(parsed->subject->digest) + "/" + hexOf(target)).c_str());
  if (::unlink((folder(name) + "/_manifests/" + hexOf(target)).c_str()) != 0)
    return Error::fromErrno("remove manifest " + target);
  return collect(target);
}

Result<std::vector<std::string>> Repositories::tags(const std::string& name) const {
  std::string path = folder(name) + "/_tags";
  if (!pathExists(path)) return std::vector<std::string>();
  ASSIGN_OR_RETURN(auto found, listDir(path));
  std::erase_if(found, [](const auto& tag) { return !isTag(tag) || tag.find(".tmp.") != std::string::npos; });
  return found;
}

Result<Index> Repositories::referrers(const std::string& name, const std::string& digest,
                                      const std::string& artifactType) const {
  Index out;
  out.mediaType = media::kOciIndex;
  std::string path = folder(name) + "/_referrers/" + hexOf(digest);
  if (!pathExists(path)) return out;
  ASSIGN_OR_RETURN(auto found, listDir(path));
  for (const auto& hex : found) {
    if (!isDigest("sha256:" + hex)) continue;
    auto stored = manifest(name, "sha256:" + hex);
    if (!stored.ok()) continue;
    Descriptor entry;
    entry.mediaType = stored->mediaType;
    entry.digest = stored->digest;
    entry.size = static_cast<int64_t>(stored->bytes.size());
    if (isIndexType(stored->mediaType)) {
      auto parsed = parseIndex(stored->bytes);
      if (!parsed.ok()) continue;
      entry.artifactType = parsed->artifactType;
      entry.annotations = parsed->annotations;
    } else {
      auto parsed = parseManifest(stored->bytes);
      if (!parsed.ok()) continue;
      entry.artifactType = parsed->artifactType.empty() ? parsed->config.mediaType : parsed->artifactType;
      entry.annotations = parsed->annotations;
    }
    if (artifactType.empty() || artifactType == entry.artifactType) out.manifests.push_back(std::move(entry));
  }
  return out;
}

Result<> Repositories::walk(const std::string& path, const std::string& name, std::vector<std::string>& out,
                            int depth) const {
  if (depth > 128) return {};
  ASSIGN_OR_RETURN(auto children, listDir(path));
  for (const auto& child : children) {
    if (child == "_manifests" || (child == "_blobs" && !pathExists(path + "/_manifests"))) out.push_back(name);
    if (child.starts_with('_')) continue;
    RETURN_IF_ERROR(walk(path + "/" + child, name.empty() ? child : name + "/" + child, out, depth + 1));
  }
  return {};
}

Result<std::vector<std::string>> Repositories::names() const {
  std::vector<std::string> out;
  RETURN_IF_ERROR(walk(root_ + "/repositories", "", out, 0));
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace dhow::image
