// docker save and docker load: one tar that is a docker-archive (manifest.json) and an OCI layout (index.json, blobs/)
// at once.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/files.h"
#include "base/log.h"
#include "base/strings.h"
#include "json_read.h"
#include "store_rep.h"
#include "tar.h"

namespace dhow::image {

namespace json = boost::json;
using namespace jsonread;

namespace {

std::string blobName(std::string_view digest) {
  return "blobs/sha256/" + std::string(digest.substr(7));
}

struct Saved {
  ImagePtr image;
  std::vector<Reference> names;
};

Result<> addBlob(ContentStore& content, TarWriter& tar, const std::string& digest, std::set<std::string>& written) {
  if (!written.insert(digest).second) return {};
  ASSIGN_OR_RETURN(auto size, content.size(digest));
  ASSIGN_OR_RETURN(auto fd, content.openBlob(digest));
  TarEntry entry;
  entry.name = blobName(digest);
  entry.mode = 0444;
  entry.size = size;
  RETURN_IF_ERROR(tar.add(entry));
  auto source = fileSource(std::move(fd));
  std::vector<char> buffer(256 << 10);
  while (true) {
    ASSIGN_OR_RETURN(size_t n, source->read(buffer));
    if (n == 0) return {};
    RETURN_IF_ERROR(tar.write({buffer.data(), n}));
  }
}

Result<> writeArchive(ContentStore& content, const std::vector<Saved>& all, ByteSink sink) {
  TarWriter tar(std::move(sink));
  std::set<std::string> written;
  json::array dockerManifest;
  json::object repositories;
  Index index;
  index.mediaType = media::kOciIndex;
  for (const char* folder : {"blobs/", "blobs/sha256/"}) {
    TarEntry entry;
    entry.type = TarEntry::Type::kFolder;
    entry.name = folder;
    entry.mode = 0755;
    RETURN_IF_ERROR(tar.add(entry));
  }
  for (const auto& saved : all) {
    const auto& image = *saved.image;
    RETURN_IF_ERROR(addBlob(content, tar, image.id, written));
    RETURN_IF_ERROR(addBlob(content, tar, image.manifestDigest, written));
    json::array layers, tags;
    for (const auto& layer : image.layers) {
      RETURN_IF_ERROR(addBlob(content, tar, layer.digest, written));
      layers.emplace_back(blobName(layer.digest));
    }
    Descriptor descriptor;
    descriptor.mediaType = image.manifestType;
    descriptor.digest = image.manifestDigest;
    ASSIGN_OR_RETURN(auto size, content.size(image.manifestDigest));
    descriptor.size = static_cast<int64_t>(size);
    descriptor.platform = image.config.platform;
    for (const auto& name : saved.names) {
      tags.emplace_back(name.familiar());
      std::string top = image.layers.empty() ? image.id : image.layers.back().digest;
      repositories[name.familiarName()].is_object() ? void() : void(repositories[name.familiarName()] = json::object());
      repositories[name.familiarName()].get_object()[name.tag] = top.substr(7);
      Descriptor named = descriptor;
      named.annotations = {{"io.containerd.image.name", name.str()}, {"org.opencontainers.image.ref.name", name.tag}};
      index.manifests.push_back(std::move(named));
    }
    if (saved.names.empty()) index.manifests.push_back(descriptor);
    dockerManifest.push_back(json::object{{"Config", blobName(image.id)},
                                          {"RepoTags", tags.empty() ? json::value() : json::value(tags)},
                                          {"Layers", std::move(layers)}});
  }
  TarEntry file;
  file.mode = 0444;
  file.name = "index.json";
  RETURN_IF_ERROR(tar.addFile(file, toJson(index)));
  file.name = "manifest.json";
  RETURN_IF_ERROR(tar.addFile(file, json::serialize(dockerManifest)));
  file.name = "oci-layout";
  RETURN_IF_ERROR(tar.addFile(file, R"({"imageLayoutVersion":"1.0.0"})"));
  file.name = "repositories";
  RETURN_IF_ERROR(tar.addFile(file, json::serialize(repositories)));
  return tar.finish();
}

// What an archive holds, by name: small files in memory, all of them as blobs of the store.
struct Contents {
  std::map<std::string, std::string> digests;  // name in the archive -> digest
  std::map<std::string, std::string> links;
  std::string find(const std::string& name) const {
    std::string current = name;
    for (int hops = 0; hops < 8; ++hops) {
      if (auto it = digests.find(current); it != digests.end()) return it->second;
      auto link = links.find(current);
      if (link == links.end()) return {};
      current = link->second;
    }
    return {};
  }
};

std::string plainName(std::string_view name) {
  std::vector<std::string> parts;
  for (auto& part : split(name, '/')) {
    if (part == ".." && !parts.empty()) {
      parts.pop_back();
    } else if (part != ".." && part != "." && !part.empty()) {
      parts.push_back(std::move(part));
    }
  }
  return join(parts, "/");
}

Result<Contents> readArchive(ContentStore& content, const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + path);
  auto source = decompressed(fileSource(std::move(fd)));
  TarReader tar(*source);
  Contents out;
  TarEntry entry;
  for (size_t count = 0;; ++count) {
    ASSIGN_OR_RETURN(bool more, tar.next(entry));
    if (!more) return out;
    if (count > 100000) return Error(Code::kInvalid, "image archive has too many entries");
    std::string name = plainName(entry.name);
    if (entry.type == TarEntry::Type::kSymlink || entry.type == TarEntry::Type::kHardLink) {
      auto slash = name.rfind('/');
      bool fromHere = entry.type == TarEntry::Type::kSymlink && slash != std::string::npos;
      out.links[name] = plainName(fromHere ? name.substr(0, slash + 1) + entry.linkName : entry.linkName);
      continue;
    }
    if (entry.type != TarEntry::Type::kFile || entry.sparse) continue;
    ASSIGN_OR_RETURN(auto ingest, content.begin());
    while (true) {
      ASSIGN_OR_RETURN(auto bytes, tar.data());
      if (bytes.empty()) break;
      RETURN_IF_ERROR(ingest.write(bytes));
    }
    ASSIGN_OR_RETURN(out.digests[name], ingest.finish());
  }
}

struct Found {
  std::string config;  // digest
  std::string manifest;
  std::vector<std::string> tags;  // normalized
};

std::string layerType(ContentStore& content, const std::string& digest) {
  auto fd = content.openBlob(digest);
  unsigned char magic[4] = {};
  if (!fd.ok() || ::read(fd->get(), magic, 4) != 4) return std::string(media::kOciLayer);
  if (magic[0] == 0x1f && magic[1] == 0x8b) return std::string(media::kOciLayerGzip);
  if (magic[0] == 0x28 && magic[1] == 0xb5) return std::string(media::kOciLayerZstd);
  return std::string(media::kOciLayer);
}

// docker-archive: the manifest is made here, around layers as they came.
Result<std::vector<Found>> fromDockerManifest(ContentStore& content, const Contents& contents,
                                              const json::array& list) {
  std::vector<Found> out;
  for (const auto& value : list) {
    if (!value.is_object()) return Error(Code::kInvalid, "invalid manifest.json in the archive");
    const auto& entry = value.get_object();
    Found found;
    found.config = contents.find(plainName(stringAt(entry, "Config")));
    if (found.config.empty())
      return Error(Code::kInvalid,
                   "invalid archive: the config " + stringAt(entry, "Config").substr(0, 200) + " is missing");
    Manifest manifest;
    manifest.mediaType = media::kOciManifest;
    ASSIGN_OR_RETURN(auto configSize, content.size(found.config));
    manifest.config.mediaType = media::kOciConfig;
    manifest.config.digest = found.config;
    manifest.config.size = static_cast<int64_t>(configSize);
    for (const auto& name : stringsAt(entry, "Layers")) {
      Descriptor layer;
      layer.digest = contents.find(plainName(name));
      if (layer.digest.empty())
        return Error(Code::kInvalid, "invalid archive: the layer " + name.substr(0, 200) + " is missing");
      ASSIGN_OR_RETURN(auto size, content.size(layer.digest));
      layer.size = static_cast<int64_t>(size);
      layer.mediaType = layerType(content, layer.digest);
      manifest.layers.push_back(std::move(layer));
    }
    ASSIGN_OR_RETURN(found.manifest, content.put(toJson(manifest)));
    for (const auto& tag : stringsAt(entry, "RepoTags")) {
      ASSIGN_OR_RETURN(auto reference, Reference::parse(tag));
      found.tags.push_back(reference.withDefaultTag().str());
    }
    out.push_back(std::move(found));
  }
  return out;
}

// OCI layout: index.json, perhaps with an index below it.
Result<> fromIndex(ContentStore& content, const Index& index, const std::string& inheritedName, const Platform& wanted,
                   std::vector<Found>& out, int depth) {
  if (depth > 2) return Error(Code::kInvalid, "invalid archive: indexes are nested too deeply");
  for (const auto& entry : index.manifests) {
    if (entry.platform && !platformDistance(wanted, *entry.platform)) continue;
    if (!content.has(entry.digest)) continue;
    std::string name = inheritedName;
    if (auto it = entry.annotations.find("io.containerd.image.name"); it != entry.annotations.end()) {
      name = it->second;
    } else if (auto ref = entry.annotations.find("org.opencontainers.image.ref.name");
               ref != entry.annotations.end() && name.empty()) {
      name = ref->second.find_first_of("/:") != std::string::npos ? ref->second : "";
    }
    ASSIGN_OR_RETURN(auto text, content.read(entry.digest, kMaxDocument));
    if (isIndexType(mediaTypeOf(text))) {
      ASSIGN_OR_RETURN(auto inner, parseIndex(text));
      RETURN_IF_ERROR(fromIndex(content, inner, name, wanted, out, depth + 1));
      continue;
    }
    ASSIGN_OR_RETURN(auto manifest, parseManifest(text));
    if (manifest.config.mediaType != media::kOciConfig && manifest.config.mediaType != media::kDockerConfig) continue;
    Found found;
    found.manifest = entry.digest;
    found.config = manifest.config.digest;
    if (!name.empty()) {
      ASSIGN_OR_RETURN(auto reference, Reference::parse(name));
      found.tags.push_back(reference.withDefaultTag().str());
    }
    out.push_back(std::move(found));
  }
  return {};
}

Result<std::vector<Found>> understand(ContentStore& content, const Contents& contents) {
  std::string manifestDigest = contents.find("manifest.json"), indexDigest = contents.find("index.json");
  if (!indexDigest.empty()) {
    ASSIGN_OR_RETURN(auto text, content.read(indexDigest, kMaxDocument));
    ASSIGN_OR_RETURN(auto index, parseIndex(text));
    std::vector<Found> out;
    RETURN_IF_ERROR(fromIndex(content, index, "", Platform::host(), out, 0));
    if (!out.empty()) return out;
  }
  if (manifestDigest.empty())
    return Error(Code::kInvalid, "invalid archive: it has neither manifest.json nor index.json");
  ASSIGN_OR_RETURN(auto text, content.read(manifestDigest, kMaxDocument));
  ASSIGN_OR_RETURN(auto value, parseValue(text, "manifest.json"));
  if (!value.is_array()) return Error(Code::kInvalid, "invalid manifest.json in the archive");
  return fromDockerManifest(content, contents, value.get_array());
}

}  // namespace

Task<Result<>> ImageStore::save(std::vector<std::string> names, std::string path) {
  std::vector<Saved> all;
  Rep::Pins held(rep_.get());
  co_await rep_->sweepEnded();
  for (const auto& name : names) {
    CO_ASSIGN_OR_RETURN(auto image, rep_->find(name));
    auto same = std::find_if(all.begin(), all.end(), [&](const auto& saved) { return saved.image->id == image->id; });
    if (same == all.end()) same = all.insert(all.end(), Saved{image, {}});
    for (const auto& layer : image->layers) held.add(layer.digest);
    held.add(image->id);
    held.add(image->manifestDigest);
    if (auto reference = Reference::parse(name);
        reference.ok() && reference->digest.empty() &&
        rep_->records[image->id].tags.contains(reference->withDefaultTag().str()))
      same->names.push_back(reference->withDefaultTag());
  }
  auto work = [this, &all, &path]() -> Result<> {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (!fd) return Error::fromErrno("create " + path);
    auto sink = [&fd](std::string_view bytes) -> Result<> {
      while (!bytes.empty()) {
        ssize_t n = ::write(fd.get(), bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return Error::fromErrno("write archive");
        bytes.remove_prefix(static_cast<size_t>(n));
      }
      return {};
    };
    return writeArchive(*rep_->content, all, sink);
  };
  auto done = co_await rep_->unpackPool.run(rep_->loop, work);
  co_return done;
}

Task<Result<std::vector<ImageStore::Loaded>>> ImageStore::load(std::string path) {
  Rep* rep = rep_.get();
  std::vector<Loaded> out;
  std::optional<Error> problem;
  {
    co_await rep->sweepEnded();
    Rep::Building building(rep);
    std::vector<Found> found;
    auto work = [rep, &path, &found]() -> Result<> {
      ASSIGN_OR_RETURN(auto contents, readArchive(*rep->content, path));
      ASSIGN_OR_RETURN(found, understand(*rep->content, contents));
      for (const auto& entry : found) {
        ASSIGN_OR_RETURN(auto configText, rep->content->read(entry.config, kMaxDocument));
        ASSIGN_OR_RETURN(auto config, parseImageConfig(configText));
        if (config.platform.os != "linux")
          return Error(Code::kBadRequest, "image operating system \"" + config.platform.os.substr(0, 64) +
                                              "\" cannot be used on this platform: operating system is not supported");
        ASSIGN_OR_RETURN(auto manifestText, rep->content->read(entry.manifest, kMaxDocument));
        ASSIGN_OR_RETURN(auto manifest, parseManifest(manifestText));
        if (manifest.layers.size() != config.diffIds.size())
          return Error(Code::kInvalid, "invalid archive: layers and diff ids do not match");
        for (size_t i = 0; i < manifest.layers.size(); ++i) {
          if (rep->layers->find(config.diffIds[i])) continue;
          ASSIGN_OR_RETURN(auto fd, rep->content->openBlob(manifest.layers[i].digest));
          RETURN_IF_ERROR(unpackInto(*rep->layers, fileSource(std::move(fd)), config.diffIds[i]));
        }
      }
      return {};
    };
    auto done = co_await rep->unpackPool.run(rep->loop, work);
    if (!done.ok()) problem = std::move(done).error();
    for (const auto& entry : found) {
      if (problem) break;
      Rep::NewImage image{entry.config, entry.manifest, "", entry.tags, {}};
      auto adopted = co_await rep->adopt(std::move(image));
      if (!adopted.ok()) {
        problem = std::move(adopted).error();
        break;
      }
      for (const auto& tag : entry.tags) {
        auto reference = Reference::parse(tag);
        out.push_back({*adopted, reference.ok() ? reference->familiar() : tag});
      }
      if (entry.tags.empty()) out.push_back({*adopted, ""});
    }
  }
  auto freed = co_await rep->sweep();
  if (!freed.ok()) log::warn("image", "freeing what a load left: {}", freed.error().message());
  if (problem) co_return std::move(*problem);
  rep->gate.spawn(rep->syncLayers());
  co_return out;
}

}  // namespace dhow::image
