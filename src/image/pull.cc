#include <algorithm>

#include "base/log.h"
#include "base/strings.h"
#include "store_rep.h"

namespace dhow::image {
namespace {

struct Chosen {
  RemoteManifest top;       // what the name means
  RemoteManifest manifest;  // this platform's
};

std::string listOf(const std::vector<Platform>& platforms) {
  std::vector<std::string> names;
  for (const auto& platform : platforms) {
    auto name = platform.str();
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return join(names, ", ");
}

// Attestations and other artifacts ride in indexes as platform "unknown/unknown".
bool isImageEntry(const Descriptor& entry) {
  return entry.platform && entry.platform->os != "unknown" &&
         (entry.mediaType.empty() || isManifestType(entry.mediaType) || isIndexType(entry.mediaType));
}

Result<Descriptor> choose(const Index& index, const Platform& wanted) {
  const Descriptor* best = nullptr;
  int bestDistance = 0;
  std::vector<Platform> present;
  for (const auto& entry : index.manifests) {
    if (!isImageEntry(entry)) continue;
    present.push_back(*entry.platform);
    auto distance = platformDistance(wanted, *entry.platform);
    if (distance && (!best || *distance < bestDistance)) {
      best = &entry;
      bestDistance = *distance;
    }
  }
  if (best) return *best;
  // A list of one without a platform is what simple tools write.
  if (present.empty() && index.manifests.size() == 1 && !index.manifests[0].platform) return index.manifests[0];
  return Error(Code::kNotFound, "no matching manifest for " + wanted.str() +
                                    " in the manifest list entries\navailable platforms: " +
                                    (present.empty() ? "none" : listOf(present)));
}

Task<Result<Chosen>> resolve(RegistryClient& client, const Platform& wanted) {
  const auto& reference = client.reference();
  Chosen out;
  std::string target = reference.digest.empty() ? reference.tag : reference.digest;
  CO_ASSIGN_OR_RETURN(out.top, co_await client.manifest(target));
  out.manifest = out.top;
  for (int depth = 0; isIndexType(out.manifest.mediaType); ++depth) {
    if (depth > 2)
      co_return Error(Code::kInvalid, "manifest lists of " + reference.familiar() + " are nested too deeply");
    CO_ASSIGN_OR_RETURN(auto index, parseIndex(out.manifest.bytes));
    CO_ASSIGN_OR_RETURN(auto entry, choose(index, wanted));
    CO_ASSIGN_OR_RETURN(out.manifest, co_await client.manifest(entry.digest));
  }
  if (!isManifestType(out.manifest.mediaType)) {
    co_return Error(Code::kInvalid, "unsupported manifest media type \"" + out.manifest.mediaType.substr(0, 200) +
                                        "\" of " + reference.familiar());
  }
  co_return out;
}

struct LayerResults {
  explicit LayerResults(Loop& loop) : changed(loop) {}
  Signal changed;
  size_t left = 0;
  std::optional<Error> problem;
  bool abandoned = false;
};

}  // namespace

// A layer's share of a pull; the first failure ends the others' waiting.
static Task<> fetchOne(ImageStore::Rep* rep, std::shared_ptr<LayerResults> results,
                       std::shared_ptr<RegistryClient> client, Descriptor blob, std::string diffId, Progress progress,
                       std::function<bool()> cancelled) {
  auto giveUp = [results, cancelled] { return results->abandoned || (cancelled && cancelled()); };
  auto done = co_await rep->fetchLayer(client, std::move(blob), std::move(diffId), std::move(progress), giveUp);
  if (!done.ok() && !results->problem) {
    results->problem = done.error();
    results->abandoned = true;
  }
  --results->left;
  results->changed.notify();
}

Task<Result<ImagePtr>> ImageStore::Rep::pull(Reference asked, PullOptions pulling) {
  Reference reference = asked.withDefaultTag();
  Platform wanted = pulling.platform.empty() ? Platform::host() : pulling.platform;
  auto tell = [&pulling](std::string id, std::string status) {
    if (pulling.progress) pulling.progress(ProgressEvent{std::move(id), std::move(status), 0, 0});
  };
  auto cancelled = [this, &pulling] { return stopping || (pulling.cancelled && pulling.cancelled()); };
  auto client = std::make_shared<RegistryClient>(loop, access(), reference, pulling.credentials);
  std::string shownTag = reference.tag.empty() ? reference.digest : reference.tag;

  auto chosen = co_await resolve(*client, wanted);
  if (!chosen.ok()) {
    // Docker has told by then where it pulls from.
    if (chosen.error().message().starts_with("no matching manifest")) tell(shownTag, "Pulling from " + reference.path);
    co_return std::move(chosen).error();
  }
  tell(shownTag, "Pulling from " + reference.path);
  CO_ASSIGN_OR_RETURN(auto manifest, parseManifest(chosen->manifest.bytes));
  bool isImage = manifest.config.mediaType == media::kOciConfig || manifest.config.mediaType == media::kDockerConfig;
  if (!isImage)
    co_return Error(Code::kInvalid, "unsupported config media type \"" + manifest.config.mediaType.substr(0, 200) +
                                        "\": " + reference.familiar() + " is not a container image");

  Pins held(this);
  co_await sweepEnded();
  held.add(chosen->top.digest);
  held.add(chosen->manifest.digest);
  held.add(manifest.config.digest);
  for (const auto& layer : manifest.layers) held.add(layer.digest);

  std::string configText;
  if (content->has(manifest.config.digest)) {
    CO_ASSIGN_OR_RETURN(configText, content->read(manifest.config.digest, kMaxDocument));
  } else {
    CO_ASSIGN_OR_RETURN(configText, co_await client->blob(manifest.config.digest, manifest.config.size));
  }
  CO_ASSIGN_OR_RETURN(auto config, parseImageConfig(configText));
  if (config.platform.os != "linux")
    co_return Error(Code::kBadRequest, "image operating system \"" + config.platform.os.substr(0, 64) +
                                           "\" cannot be used on this platform: operating system is not supported");
  // Told apart from the host's only when the platform was asked for: a single manifest is what it is.
  if (!pulling.platform.empty() && !platformDistance(wanted, config.platform))
    co_return Error(Code::kNotFound, "image with reference " + reference.familiar() + " was found but its platform (" +
                                         config.platform.str() + ") does not match the specified platform (" +
                                         wanted.str() + ")");
  if (config.diffIds.size() != manifest.layers.size())
    co_return Error(Code::kInvalid, "image " + reference.familiar() +
                                        " is damaged: " + std::to_string(manifest.layers.size()) + " layers, but " +
                                        std::to_string(config.diffIds.size()) + " diff ids");
  for (const auto& diffId : config.diffIds) held.add(diffId);

  auto results = std::make_shared<LayerResults>(loop);
  results->left = manifest.layers.size();
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    gate.spawn(fetchOne(this, results, client, manifest.layers[i], config.diffIds[i], pulling.progress, cancelled));
  }
  if (gate.closed()) co_return Error(Code::kCancelled, "the image store is stopping");
  while (results->left > 0) co_await results->changed.wait();
  if (results->problem) co_return std::move(*results->problem);

  auto storeDocuments = [this, &chosen, &configText]() -> Result<> {
    for (const auto* bytes : {&configText, &chosen->manifest.bytes, &chosen->top.bytes}) {
      auto put = content->put(*bytes);
      if (!put.ok()) return std::move(put).error();
    }
    return {};
  };
  auto stored = co_await pool.run(loop, storeDocuments);
  if (!stored.ok()) co_return std::move(stored).error();

  NewImage image;
  image.id = manifest.config.digest;
  image.manifest = chosen->manifest.digest;
  image.target = chosen->top.digest;
  if (reference.digest.empty()) image.tags.push_back(reference.str());
  image.digests.push_back(reference.name() + "@" + chosen->top.digest);
  auto before = records.find(image.id);
  bool sameAsBefore = before != records.end() && before->second.digests.contains(image.digests[0]) &&
                      (image.tags.empty() || before->second.tags.contains(image.tags[0]));
  auto adopted = co_await adopt(std::move(image));
  if (!adopted.ok()) co_return std::move(adopted).error();
  gate.spawn(syncLayers());
  tell("", "Digest: " + chosen->top.digest);
  tell("", std::string(sameAsBefore ? "Status: Image is up to date for " : "Status: Downloaded newer image for ") +
               reference.familiar());
  co_return adopted;
}

Task<Result<ImagePtr>> ImageStore::pull(Reference reference, PullOptions options) {
  auto image = co_await rep_->pull(std::move(reference), std::move(options));
  if (!image.ok() && !rep_->stopping) {
    // Layers that came before the failure are not kept: nobody would ever free them.
    auto freed = co_await rep_->sweep();
    if (!freed.ok()) log::warn("image", "freeing a failed pull: {}", freed.error().message());
  }
  co_return image;
}

Task<Result<ImagePtr>> ImageStore::ensure(std::string name, PullPolicy policy, Keyring secrets, Progress progress) {
  auto parsed = Reference::parse(name);
  if (policy != PullPolicy::kAlways) {
    auto local = rep_->find(name);
    if (local.ok()) co_return local;
    if (!local.error().is(Code::kNotFound)) co_return local;
    if (policy == PullPolicy::kNever)
      co_return Error(Code::kNotFound,
                      "Container image \"" + name.substr(0, 512) + "\" is not present with pull policy of Never");
  }
  if (!parsed.ok()) co_return std::move(parsed).error();
  Reference reference = parsed->withDefaultTag();
  PullOptions pulling;
  pulling.credentials = secrets.lookup(reference);
  pulling.progress = std::move(progress);
  auto image = co_await pull(std::move(reference), std::move(pulling));
  co_return image;
}

Task<Result<ImageStore::Remote>> ImageStore::inspectRemote(Reference asked, std::vector<Credentials> credentials) {
  Reference reference = asked.withDefaultTag();
  RegistryClient client(rep_->loop, rep_->access(), reference, std::move(credentials));
  CO_ASSIGN_OR_RETURN(auto top, co_await client.manifest(reference.digest.empty() ? reference.tag : reference.digest));
  Remote out;
  out.descriptor.mediaType = top.mediaType;
  out.descriptor.digest = top.digest;
  out.descriptor.size = top.size;
  if (isIndexType(top.mediaType)) {
    CO_ASSIGN_OR_RETURN(auto index, parseIndex(top.bytes));
    for (const auto& entry : index.manifests) {
      if (isImageEntry(entry)) out.platforms.push_back(*entry.platform);
    }
    co_return out;
  }
  CO_ASSIGN_OR_RETURN(auto manifest, parseManifest(top.bytes));
  CO_ASSIGN_OR_RETURN(auto text, co_await client.blob(manifest.config.digest, manifest.config.size));
  CO_ASSIGN_OR_RETURN(auto config, parseImageConfig(text));
  out.platforms.push_back(config.platform);
  co_return out;
}

Task<Result<>> ImageStore::login(std::string server, Credentials credentials) {
  if (server.empty() || server.find("index.docker.io") != std::string::npos) server = "docker.io";
  for (std::string_view scheme : {"https://", "http://"}) {
    if (server.starts_with(scheme)) server.erase(0, scheme.size());
  }
  server = server.substr(0, server.find('/'));
  auto reference = Reference::parse(server + "/login/check");
  if (!reference.ok()) co_return std::move(reference).error();
  reference->domain = server;
  RegistryClient client(rep_->loop, rep_->access(), *reference, {std::move(credentials)});
  auto done = co_await client.ping();
  co_return done;
}

}  // namespace dhow::image
