// Images made here: assembled from files, imported from a root file system, committed from a container.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/files.h"
#include "base/strings.h"
#include "base/time.h"
#include "pack.h"
#include "store_rep.h"

namespace dhow::image {

Result<ImageStore::Rep::NewLayer> ImageStore::Rep::packLayer(const std::function<Result<>(ByteSink)>& writeTar) {
  NewLayer out;
  out.blob.mediaType = media::kOciLayerGzip;
  ASSIGN_OR_RETURN(auto ingest, content->begin());
  Sha256 hash;
  GzipWriter gzip([&ingest](std::string_view bytes) { return ingest.write(bytes); });
  auto sink = [&](std::string_view bytes) -> Result<> {
    hash.update(bytes);
    return gzip.write(bytes);
  };
  RETURN_IF_ERROR(writeTar(sink));
  RETURN_IF_ERROR(gzip.finish());
  out.diffId = "sha256:" + hash.hex();
  out.blob.size = static_cast<int64_t>(ingest.size());
  ASSIGN_OR_RETURN(out.blob.digest, ingest.finish());
  if (!layers->find(out.diffId)) {
    ASSIGN_OR_RETURN(auto fd, content->openBlob(out.blob.digest));
    RETURN_IF_ERROR(unpackInto(*layers, fileSource(std::move(fd)), out.diffId));
  }
  return out;
}

Task<Result<ImagePtr>> ImageStore::Rep::publish(ImageConfig config, std::vector<Descriptor> blobs,
                                                std::vector<std::string> tags) {
  NewImage image;
  for (const auto& tag : tags) {
    CO_ASSIGN_OR_RETURN(auto reference, Reference::parse(tag));
    if (!reference.digest.empty())
      co_return Error(Code::kBadRequest, "refusing to create a tag with a digest reference");
    image.tags.push_back(reference.withDefaultTag().str());
  }
  auto work = [this, &config, &blobs, &image]() -> Result<> {
    std::string configText = toJson(config);
    Manifest manifest;
    manifest.mediaType = media::kOciManifest;
    manifest.layers = blobs;
    manifest.config.mediaType = media::kOciConfig;
    manifest.config.size = static_cast<int64_t>(configText.size());
    ASSIGN_OR_RETURN(image.id, content->put(configText));
    manifest.config.digest = image.id;
    ASSIGN_OR_RETURN(image.manifest, content->put(toJson(manifest)));
    return {};
  };
  auto done = co_await pool.run(loop, work);
  if (!done.ok()) co_return std::move(done).error();
  auto adopted = co_await adopt(std::move(image));
  if (adopted.ok()) gate.spawn(syncLayers());
  co_return adopted;
}

namespace {

std::string relative(std::string_view path) {
  std::vector<std::string> parts;
  for (auto& part : split(path, '/')) {
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
    } else if (!part.empty() && part != ".") {
      parts.push_back(std::move(part));
    }
  }
  return join(parts, "/");
}

Result<> copyTar(TarWriter& out, Packer& packer, const Addition& addition) {
  UniqueFd fd(::open(addition.source.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + addition.source);
  auto source = decompressed(fileSource(std::move(fd)));
  TarReader in(*source);
  TarEntry entry;
  std::string prefix = relative(addition.target);
  while (true) {
    ASSIGN_OR_RETURN(bool more, in.next(entry));
    if (!more) return {};
    std::string name = relative(entry.name);
    if (entry.name.find("..") != std::string::npos && entry.name != name && split(entry.name, '/').front() == "..")
      return Error(Code::kInvalid, "invalid path in " + addition.source);
    if (name.empty()) continue;
    entry.name = prefix.empty() ? name : prefix + "/" + name;
    if (entry.type == TarEntry::Type::kHardLink)
      entry.linkName = prefix.empty() ? relative(entry.linkName) : prefix + "/" + relative(entry.linkName);
    RETURN_IF_ERROR(packer.addParents(entry.name));
    if (entry.type == TarEntry::Type::kFolder) entry.name += "/";
    if (entry.sparse) return Error(Code::kInvalid, addition.source + " holds sparse files");
    if (entry.type != TarEntry::Type::kFile) entry.size = 0;
    RETURN_IF_ERROR(out.add(entry));
    while (entry.type == TarEntry::Type::kFile) {
      ASSIGN_OR_RETURN(auto bytes, in.data());
      if (bytes.empty()) break;
      RETURN_IF_ERROR(out.write(bytes));
    }
  }
}

Result<> writeAdditions(const std::vector<Addition>& additions, ByteSink sink) {
  TarWriter tar(std::move(sink));
  Packer packer(tar);
  for (const auto& addition : additions) {
    if (addition.extract) {
      RETURN_IF_ERROR(copyTar(tar, packer, addition));
      continue;
    }
    struct stat info;
    if (::stat(addition.source.c_str(), &info) != 0) return Error::fromErrno("stat " + addition.source);
    std::string name = relative(addition.target);
    // "file to folder/" keeps the file's name.
    if (!S_ISDIR(info.st_mode) && (addition.target.empty() || addition.target.ends_with('/'))) {
      std::string leaf = addition.source.substr(addition.source.rfind('/') + 1);
      name = name.empty() ? leaf : name + "/" + leaf;
    }
    RETURN_IF_ERROR(packer.addParents(name));
    PackOptions options;
    options.owner = std::pair(addition.uid, addition.gid);
    options.mode = addition.mode;
    RETURN_IF_ERROR(packer.add(addition.source, name, options));
  }
  return tar.finish();
}

void mergeNames(std::vector<std::string>& into, const std::vector<std::string>& from) {
  into.insert(into.end(), from.begin(), from.end());
  std::sort(into.begin(), into.end());
  into.erase(std::unique(into.begin(), into.end()), into.end());
}

void mergeRun(RunConfig& into, const RunConfig& from) {
  if (!from.user.empty()) into.user = from.user;
  mergeNames(into.exposedPorts, from.exposedPorts);
  mergeNames(into.volumes, from.volumes);
  for (const auto& variable : from.env) {
    std::string name = variable.substr(0, variable.find('=') + 1);
    auto same =
        std::find_if(into.env.begin(), into.env.end(), [&](const auto& other) { return other.starts_with(name); });
    if (same != into.env.end()) {
      *same = variable;
    } else {
      into.env.push_back(variable);
    }
  }
  // A new entrypoint forgets the base's arguments, as in a Dockerfile.
  if (!from.entrypoint.empty()) {
    into.entrypoint = from.entrypoint;
    into.cmd.clear();
  }
  if (!from.cmd.empty()) into.cmd = from.cmd;
  if (!from.workingDir.empty()) into.workingDir = from.workingDir;
  for (const auto& [name, value] : from.labels) into.labels[name] = value;
  if (!from.stopSignal.empty()) into.stopSignal = from.stopSignal;
  if (from.healthcheck) into.healthcheck = from.healthcheck;
  if (!from.shell.empty()) into.shell = from.shell;
  if (!from.onBuild.empty()) into.onBuild = from.onBuild;
}

}  // namespace

Task<Result<ImagePtr>> ImageStore::assemble(AssembleOptions options) {
  Rep* rep = rep_.get();
  co_await rep->sweepEnded();
  Rep::Building building(rep);
  ImageConfig config;
  std::vector<Descriptor> blobs;
  config.platform = Platform::host();
  config.platform.variant.clear();
  if (!options.base.empty()) {
    CO_ASSIGN_OR_RETURN(auto base, rep->find(options.base));
    config = base->config;
    blobs = base->layers;
  }
  if (!options.platform.empty()) config.platform = options.platform;
  mergeRun(config.run, options.config);
  config.created = options.created.empty() ? nowText(rep->loop) : options.created;
  if (!options.author.empty()) config.author = options.author;
  config.comment = options.comment;
  History history{config.created, "dhow build", options.author, options.comment, options.additions.empty()};
  if (!options.additions.empty()) {
    auto work = [rep, &options] {
      return rep->packLayer([&options](ByteSink sink) { return writeAdditions(options.additions, std::move(sink)); });
    };
    CO_ASSIGN_OR_RETURN(auto layer, co_await rep->unpackPool.run(rep->loop, work));
    blobs.push_back(layer.blob);
    config.diffIds.push_back(layer.diffId);
  }
  config.history.push_back(std::move(history));
  auto image = co_await rep->publish(std::move(config), std::move(blobs), options.tags);
  co_return image;
}

Task<Result<ImagePtr>> ImageStore::importRootfs(std::string tarPath, RunConfig run, std::vector<std::string> tags,
                                                Platform platform) {
  AssembleOptions options;
  Addition addition;
  addition.source = tarPath;
  addition.target = "/";
  addition.extract = true;
  struct stat info;
  if (::stat(tarPath.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) addition.extract = false;
  options.additions.push_back(std::move(addition));
  options.config = std::move(run);
  options.platform = std::move(platform);
  options.comment = "Imported from -";
  options.tags = std::move(tags);
  auto image = co_await assemble(std::move(options));
  co_return image;
}

Task<Result<ImagePtr>> ImageStore::commit(std::string containerId, CommitOptions options) {
  Rep* rep = rep_.get();
  CO_ASSIGN_OR_RETURN(auto snapshot, rep->layers->snapshot(containerId));
  co_await rep->sweepEnded();
  Rep::Building building(rep);
  CO_ASSIGN_OR_RETURN(auto base, rep->find(options.imageId.empty() ? snapshot.imageId : options.imageId));
  ImageConfig config = base->config;
  std::vector<Descriptor> blobs = base->layers;
  auto work = [rep, upper = snapshot.upper] {
    return rep->packLayer([&upper](ByteSink sink) -> Result<> {
      TarWriter tar(std::move(sink));
      Packer packer(tar);
      PackOptions overlay;
      overlay.overlay = true;
      RETURN_IF_ERROR(packer.add(upper, "", overlay));
      return tar.finish();
    });
  };
  CO_ASSIGN_OR_RETURN(auto layer, co_await rep->unpackPool.run(rep->loop, work));
  blobs.push_back(layer.blob);
  config.diffIds.push_back(layer.diffId);
  if (options.config) config.run = *options.config;
  config.created = nowText(rep->loop);
  config.author = options.author;
  config.comment = options.comment;
  config.history.push_back(History{config.created, join(config.run.cmd, " "), options.author, options.comment, false});
  auto image = co_await rep->publish(std::move(config), std::move(blobs), options.tags);
  co_return image;
}

namespace {

Result<uint64_t> sizeBelow(const std::string& folder, int depth) {
  if (depth > 1000) return Error(Code::kInvalid, "folders too deep");
  uint64_t sum = 0;
  ASSIGN_OR_RETURN(auto names, listDir(folder));
  for (const auto& name : names) {
    struct stat info;
    std::string path = folder + "/" + name;
    if (::lstat(path.c_str(), &info) != 0) continue;  // it went meanwhile
    if (S_ISREG(info.st_mode)) sum += static_cast<uint64_t>(info.st_size);
    if (!S_ISDIR(info.st_mode)) continue;
    auto below = sizeBelow(path, depth + 1);
    if (below.ok()) sum += *below;
  }
  return sum;
}

bool inLower(const std::vector<std::string>& lowers, const std::string& path) {
  for (const auto& lower : lowers) {
    struct stat info;
    if (::lstat((lower + path).c_str(), &info) != 0) continue;
    return !(S_ISCHR(info.st_mode) && info.st_rdev == 0);
  }
  return false;
}

Result<> changesBelow(const Snapshot& snapshot, const std::string& path, std::vector<Change>& out, int depth) {
  if (depth > 1000) return Error(Code::kInvalid, "folders too deep");
  ASSIGN_OR_RETURN(auto names, listDir(snapshot.upper + path));
  for (const auto& name : names) {
    std::string below = path + "/" + name;
    struct stat info;
    if (::lstat((snapshot.upper + below).c_str(), &info) != 0) continue;
    if (S_ISCHR(info.st_mode) && info.st_rdev == 0) {
      out.push_back({Change::Kind::kDeleted, below});
      continue;
    }
    out.push_back({inLower(snapshot.lowers, below) ? Change::Kind::kModified : Change::Kind::kAdded, below});
    if (S_ISDIR(info.st_mode)) RETURN_IF_ERROR(changesBelow(snapshot, below, out, depth + 1));
  }
  return {};
}

}  // namespace

Task<Result<uint64_t>> ImageStore::snapshotSize(std::string containerId) {
  CO_ASSIGN_OR_RETURN(auto snapshot, rep_->layers->snapshot(containerId));
  auto work = [upper = snapshot.upper] { return sizeBelow(upper, 0); };
  auto size = co_await rep_->pool.run(rep_->loop, work);
  co_return size;
}

Task<Result<std::vector<Change>>> ImageStore::changes(std::string containerId) {
  CO_ASSIGN_OR_RETURN(auto snapshot, rep_->layers->snapshot(containerId));
  auto work = [&snapshot]() -> Result<std::vector<Change>> {
    std::vector<Change> out;
    RETURN_IF_ERROR(changesBelow(snapshot, "", out, 0));
    return out;
  };
  auto found = co_await rep_->pool.run(rep_->loop, work);
  co_return found;
}

}  // namespace dhow::image
