// The images of one machine: pulled, pushed, loaded, built; their layers unpacked for overlay mounts; containers'
// writable layers. State lives on `loop`; call everything there. Blocking work runs on pools. Everything acknowledged
// is on disk, and a crash at any moment leaves the old state or the new. One process holds a root at a time
// (kFailedPrecondition otherwise).
//
// Errors carry Docker's own texts; codes: kNotFound (no such image, manifest unknown, pull access denied), kBadRequest
// (bad reference, wrong operating system), kConflict (in use), kDataLoss (damaged layer), kUnavailable (registry
// unreachable).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "image/content.h"
#include "image/hosts.h"
#include "image/reference.h"
#include "image/spec.h"

namespace dhow::image {

struct Image {
  std::string id;              // digest of the config: "sha256:..."
  std::string manifestDigest;  // of this platform's manifest
  std::string manifestType;
  std::string targetDigest;              // what the tag names: an index, or the manifest
  std::vector<std::string> repoTags;     // familiar: "nginx:1.27", "localhost:5000/a:1"
  std::vector<std::string> repoDigests;  // familiar: "nginx@sha256:..."
  std::string created;                   // RFC 3339
  WallTime lastTagged{};
  uint64_t size = 0;               // bytes of the unpacked layers
  uint64_t contentSize = 0;        // bytes of the blobs
  std::vector<Descriptor> layers;  // lowest first; diffIds are in config
  ImageConfig config;
  std::string configJson;  // as stored
};
using ImagePtr = std::shared_ptr<const Image>;

// One line of `docker pull`'s or `docker push`'s JSON stream. id is the short layer id (12 digits), the tag, or empty.
struct ProgressEvent {
  std::string id;
  std::string status;  // "Downloading", "Pull complete", "Digest: sha256:...", "Status: Downloaded newer image for
                       // nginx:latest", ...
  int64_t current = 0;
  int64_t total = 0;  // 0: no progressDetail
};
using Progress = std::function<void(const ProgressEvent&)>;  // on the loop; must not block

struct PullOptions {
  Platform platform;                     // empty: the host's
  std::vector<Credentials> credentials;  // tried in order, then those of the hosts table, then none
  Progress progress;
  std::function<bool()> cancelled;  // asked between pieces; true ends with kCancelled and leaves nothing
};

struct PushOptions {
  std::vector<Credentials> credentials;
  Progress progress;
  std::function<bool()> cancelled;
};
struct Pushed {
  std::string tag, digest;
  int64_t size = 0;
};

enum class PullPolicy { kAlways, kIfNotPresent, kNever };

// What an overlay mount takes. Each path of `lowers` is short, but a deep image on a long root can pass mount(2)'s page
// of options: use fsconfig("lowerdir+") per layer, or chdir to `lowerBase` and use `lowerNames`.
struct Snapshot {
  std::vector<std::string> lowers;      // absolute, topmost first; never empty
  std::string lowerBase;                // <root>/layers
  std::vector<std::string> lowerNames;  // the same relative to it: "12/fs"
  std::string upper, work;
  std::string imageId;
};

struct Change {
  enum class Kind { kModified = 0, kAdded = 1, kDeleted = 2 };  // Docker's numbers
  Kind kind;
  std::string path;  // "/etc/passwd"
};

// Who uses an image: remove() asks, and refuses as Docker does.
struct ImageUser {
  std::string containerId;
  bool running = false;
};
struct RemoveOptions {
  bool force = false;
  bool prune = true;  // also dangling parents' content
  std::function<std::vector<ImageUser>(const std::string& imageId)> users;
};
struct Removed {
  std::string untagged, deleted;  // one of them
};

// A file, folder or tar from this machine that becomes part of an image.
struct Addition {
  std::string source;    // path; a folder is taken with all that is in it
  std::string target;    // where in the image: "/bin/hello"; a folder's content lands under it
  bool extract = false;  // source is a tar (gz, zstd): its content lands under target
  int mode = -1;         // -1: the source's own
  unsigned uid = 0, gid = 0;
};
struct AssembleOptions {
  std::string base;                 // reference or id of an image to start from; empty: scratch
  std::vector<Addition> additions;  // one layer
  RunConfig config;                 // replaces what it sets; env, labels, ports and volumes are merged into the base's
  Platform platform;                // empty: the base's, or the host's
  std::string author, comment;
  std::string created;  // RFC 3339; empty: now
  std::vector<std::string> tags;
};
struct CommitOptions {
  std::string imageId;              // parent
  std::optional<RunConfig> config;  // whole; empty: the parent's
  std::string author, comment;
  std::vector<std::string> tags;
};

class ImageStore {
 public:
  struct Options {
    std::string root;       // /var/lib/dhow/images
    std::string hostsFile;  // registries.yaml; may be missing; read again when it changes
    RegistryHosts hosts;    // from code; hostsFile wins
    std::vector<std::string> insecureRegistries;
    size_t parallelDownloads = 3, parallelUploads = 5;
    size_t unpackThreads = 4;
    int attempts = 5;
    Duration retryDelay = std::chrono::seconds(1);  // doubles each time
  };
  // Blocks; for start-up. Removes what a crash left.
  static Result<std::unique_ptr<ImageStore>> open(Loop& loop, BlockingPool& pool, Options options);
  ~ImageStore();
  // Cancels what is under way and waits for it.
  Task<> stop();

  // --- From and to registries
  Task<Result<ImagePtr>> pull(Reference reference, PullOptions options);
  Task<Result<Pushed>> push(Reference reference, PushOptions options);
  // By the node agent. Never and absent: kNotFound. Keeps working offline under kIfNotPresent.
  Task<Result<ImagePtr>> ensure(std::string reference, PullPolicy policy, Keyring secrets, Progress progress = {});
  // Descriptor and platforms of a reference in its registry, without pulling.
  struct Remote {
    Descriptor descriptor;
    std::vector<Platform> platforms;
  };
  Task<Result<Remote>> inspectRemote(Reference reference, std::vector<Credentials> credentials);
  // Whether the registry takes these credentials; kUnauthenticated with its text when not.
  Task<Result<>> login(std::string server, Credentials credentials);

  // --- What is here
  // By name (default tag), name@digest, id or a prefix of one. kNotFound "No such image: x".
  Result<ImagePtr> get(std::string_view nameOrId) const;
  std::vector<ImagePtr> list() const;  // newest first
  Task<Result<>> tag(std::string nameOrId, Reference target);
  Task<Result<std::vector<Removed>>> remove(std::string nameOrId, RemoveOptions options);
  struct Pruned {
    std::vector<Removed> removed;
    uint64_t bytes = 0;
  };
  // Images without a tag, or `all` that `inUse` does not name; then unreferenced content.
  Task<Result<Pruned>> prune(bool all, std::function<bool(const Image&)> inUse);
  uint64_t layersSize() const;
  ContentStore& content();

  // --- Archives and building
  // docker-archive and OCI layout in one tar, written to `path`.
  Task<Result<>> save(std::vector<std::string> names, std::string path);
  struct Loaded {
    ImagePtr image;
    std::string name;  // tag, or empty: then "Loaded image ID: <id>"
  };
  // Either form, plain, gzip or zstd.
  Task<Result<std::vector<Loaded>>> load(std::string path);
  // A rootfs tar as an image of one layer.
  Task<Result<ImagePtr>> importRootfs(std::string tarPath, RunConfig config, std::vector<std::string> tags,
                                      Platform platform = {});
  Task<Result<ImagePtr>> assemble(AssembleOptions options);

  // --- Containers' writable layers
  // Unpacks what is missing; idempotent for one id. Mounting is the caller's.
  Task<Result<Snapshot>> prepare(std::string imageId, std::string containerId);
  Result<Snapshot> snapshot(const std::string& containerId) const;
  std::vector<std::string> snapshots() const;
  Task<Result<>> removeSnapshot(std::string containerId);              // missing is fine; must be unmounted
  Task<Result<uint64_t>> snapshotSize(std::string containerId);        // bytes of the upper layer
  Task<Result<std::vector<Change>>> changes(std::string containerId);  // docker diff
  Task<Result<ImagePtr>> commit(std::string containerId, CommitOptions options);

  struct Rep;

 private:
  explicit ImageStore(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace dhow::image
