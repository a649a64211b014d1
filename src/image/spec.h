// OCI image-spec 1.1 and Docker v2 schema 2 documents as C++ sees them: platform, descriptor, manifest, config.
// Parsing is bounded (documents of at most 4 MiB, 127 layers are usual, 1024 the most) and never throws; a bad document
// is kInvalid.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/loop.h"
#include "base/result.h"

namespace dhow::image {

namespace media {
inline constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kOciConfig = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kOciLayer = "application/vnd.oci.image.layer.v1.tar";
inline constexpr std::string_view kOciLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip";
inline constexpr std::string_view kOciLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd";
inline constexpr std::string_view kDockerList = "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr std::string_view kDockerConfig = "application/vnd.docker.container.image.v1+json";
inline constexpr std::string_view kDockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}  // namespace media

inline constexpr size_t kMaxDocument = 4 << 20;

struct Platform {
  std::string os;
  std::string architecture;
  std::string variant;
  std::string osVersion;

  static Platform host();
  // "linux/arm/v7", "arm64", "linux". Missing parts are the host's. kBadRequest when it is none.
  static Result<Platform> parse(std::string_view text);
  std::string str() const;  // "linux/amd64", "linux/arm/v7", "windows/amd64 10.0.20348.2"
  bool empty() const { return os.empty() && architecture.empty(); }
  bool operator==(const Platform&) const = default;
};
// How well an image of platform `have` serves `want`: 0 is exact, larger is further (arm/v6 for arm/v7), nothing: not
// at all.
std::optional<int> platformDistance(const Platform& want, const Platform& have);

struct Descriptor {
  std::string mediaType;
  std::string digest;
  int64_t size = 0;
  std::optional<Platform> platform;
  std::map<std::string, std::string> annotations;
  std::string artifactType;
};

struct Manifest {
  std::string mediaType;
  Descriptor config;
  std::vector<Descriptor> layers;  // lowest first
  std::optional<Descriptor> subject;
  std::string artifactType;
  std::map<std::string, std::string> annotations;
};

struct Index {
  std::string mediaType;
  std::vector<Descriptor> manifests;
  std::optional<Descriptor> subject;
  std::string artifactType;
  std::map<std::string, std::string> annotations;
};

struct HealthCheck {
  std::vector<std::string> test;  // {"NONE"}, {"CMD", args...}, {"CMD-SHELL", command}
  Duration interval{}, timeout{}, startPeriod{}, startInterval{};
  int retries = 0;
};

// What an image says about how it is run ("config" of the image config).
struct RunConfig {
  std::string user;
  std::vector<std::string> exposedPorts;  // "80/tcp", sorted
  std::vector<std::string> env;           // "NAME=value"
  std::vector<std::string> entrypoint;
  std::vector<std::string> cmd;
  std::vector<std::string> volumes;  // sorted
  std::string workingDir;
  std::map<std::string, std::string> labels;
  std::string stopSignal;
  std::optional<HealthCheck> healthcheck;
  std::vector<std::string> shell;
  std::vector<std::string> onBuild;
};

struct History {
  std::string created, createdBy, author, comment;
  bool emptyLayer = false;
};

struct ImageConfig {
  Platform platform;
  std::string created;  // RFC 3339 as written, may be empty
  std::string author;
  std::string comment;
  RunConfig run;
  std::vector<std::string> diffIds;  // lowest first
  std::vector<History> history;
};

Result<Manifest> parseManifest(std::string_view json);
Result<Index> parseIndex(std::string_view json);
Result<ImageConfig> parseImageConfig(std::string_view json);
std::string toJson(const Manifest& manifest);
std::string toJson(const Index& index);
std::string toJson(const ImageConfig& config);
bool isIndexType(std::string_view mediaType);
bool isManifestType(std::string_view mediaType);
// The type a document calls itself, or the one its shape tells when it says none.
std::string mediaTypeOf(std::string_view json);
// Chain ID of the first `count` layers (image-spec, config.md, "Layer ChainID").
std::string chainId(const std::vector<std::string>& diffIds, size_t count);

}  // namespace dhow::image
