#include "image/spec.h"

#include <sys/utsname.h>

#include <algorithm>

#include "base/digest.h"
#include "base/strings.h"
#include "image/reference.h"
#include "json_read.h"

namespace dhow::image {

namespace json = boost::json;
using namespace jsonread;

Platform Platform::host() {
  Platform out;
  out.os = "linux";
  utsname name{};
  ::uname(&name);
  std::string_view machine = name.machine;
  if (machine == "x86_64") {
    out.architecture = "amd64";
  } else if (machine == "aarch64") {
    out.architecture = "arm64";
  } else if (machine.starts_with("armv7") || machine == "armv8l") {
    out.architecture = "arm";
    out.variant = "v7";
  } else if (machine.starts_with("armv6")) {
    out.architecture = "arm";
    out.variant = "v6";
  } else if (machine == "i686" || machine == "i386") {
    out.architecture = "386";
  } else {
    out.architecture = machine;  // riscv64, ppc64le, s390x, loong64
  }
  return out;
}

namespace {

bool knownOs(std::string_view os) {
  for (std::string_view known :
       {"linux", "windows", "darwin", "freebsd", "openbsd", "netbsd", "solaris", "wasip1", "android", "plan9"}) {
    if (os == known) return true;
  }
  return false;
}

bool knownArchitecture(std::string_view name) {
  for (std::string_view known : {"386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le",
                                 "ppc64", "ppc64le", "riscv64", "s390x", "wasm"}) {
    if (name == known) return true;
  }
  return false;
}

// The spellings that people use for an architecture.
void normalizeArchitecture(Platform& p) {
  p.architecture = toLower(p.architecture);
  p.variant = toLower(p.variant);
  if (p.architecture == "x86_64" || p.architecture == "x86-64") p.architecture = "amd64";
  if (p.architecture == "aarch64") p.architecture = "arm64";
  if (p.architecture == "i386" || p.architecture == "i686") p.architecture = "386";
  if (p.architecture == "armhf") {
    p.architecture = "arm";
    p.variant = "v7";
  }
  if (p.architecture == "armel") {
    p.architecture = "arm";
    p.variant = "v6";
  }
  if (p.architecture == "arm64" && (p.variant == "v8" || p.variant == "8")) p.variant.clear();
  if (p.architecture == "arm" && !p.variant.empty() && p.variant[0] != 'v') p.variant = "v" + p.variant;
  if (p.architecture == "amd64" && p.variant == "v1") p.variant.clear();
}

int variantNumber(const Platform& p) {
  std::string_view v = p.variant;
  if (v.empty()) return p.architecture == "arm" ? 7 : p.architecture == "arm64" ? 8 : 1;
  if (v.front() == 'v') v.remove_prefix(1);
  return static_cast<int>(parseInt(v.substr(0, v.find('.'))).value_or(-1));
}

}  // namespace

Result<Platform> Platform::parse(std::string_view text) {
  auto bad = [&](std::string_view why) {
    return Error(Code::kBadRequest, "\"" + std::string(text) + "\": " + std::string(why) + ": invalid argument");
  };
  auto parts = split(text, '/');
  if (text.empty() || parts.size() > 3) return bad("unknown operating system or architecture");
  for (const auto& part : parts) {
    bool fine = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
      return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
    });
    if (!fine) return bad("platform specifier component must match \"^[A-Za-z0-9_.-]+$\"");
  }
  Platform out;
  if (parts.size() == 1) {
    std::string os = toLower(parts[0]);
    if (os == "macos") os = "darwin";
    if (knownOs(os)) {
      out.os = os;
      out.architecture = host().architecture;
      return out;
    }
    out.os = "linux";
    out.architecture = parts[0];
    normalizeArchitecture(out);
    if (!knownArchitecture(out.architecture)) return bad("unknown operating system or architecture");
    return out;
  }
  out.os = toLower(parts[0]);
  out.architecture = parts[1];
  if (parts.size() == 3) out.variant = parts[2];
  normalizeArchitecture(out);
  return out;
}

std::string Platform::str() const {
  std::string out = os + "/" + architecture;
  if (!variant.empty()) out += "/" + variant;
  if (!osVersion.empty()) out += " " + osVersion;
  return out;
}

std::optional<int> platformDistance(const Platform& wantRaw, const Platform& haveRaw) {
  Platform want = wantRaw, have = haveRaw;
  normalizeArchitecture(want);
  normalizeArchitecture(have);
  if (want.os != have.os) return std::nullopt;
  int wanted = variantNumber(want), offered = variantNumber(have);
  if (want.architecture == have.architecture) {
    if (offered < 0 || wanted < 0) return want.variant == have.variant ? std::optional<int>(0) : std::nullopt;
    if (offered > wanted) return std::nullopt;
    return wanted - offered;
  }
  // A 64-bit host runs the 32-bit images of its family, as the last choice.
  if (want.architecture == "arm64" && have.architecture == "arm" && offered <= 8) return 100 + 8 - offered;
  if (want.architecture == "amd64" && have.architecture == "386") return 100;
  return std::nullopt;
}

namespace {

std::optional<Platform> readPlatform(const json::object& object) {
  const auto* p = objectAt(object, "platform");
  if (!p) return std::nullopt;
  return Platform{stringAt(*p, "os"), stringAt(*p, "architecture"), stringAt(*p, "variant"),
                  stringAt(*p, "os.version")};
}

Result<Descriptor> readDescriptor(const json::object& object, std::string_view what) {
  Descriptor out;
  out.mediaType = stringAt(object, "mediaType");
  out.digest = stringAt(object, "digest");
  out.size = intAt(object, "size", -1);
  out.platform = readPlatform(object);
  out.annotations = stringMapAt(object, "annotations");
  out.artifactType = stringAt(object, "artifactType");
  if (!isDigest(out.digest))
    return Error(Code::kInvalid, std::string(what) + " has no valid digest (sha256 is supported)");
  if (out.size < 0) return Error(Code::kInvalid, std::string(what) + " " + out.digest + " has no valid size");
  return out;
}

json::object writeDescriptor(const Descriptor& d) {
  json::object out{{"mediaType", d.mediaType}, {"digest", d.digest}, {"size", d.size}};
  if (d.platform) {
    json::object p{{"architecture", d.platform->architecture}, {"os", d.platform->os}};
    if (!d.platform->variant.empty()) p["variant"] = d.platform->variant;
    if (!d.platform->osVersion.empty()) p["os.version"] = d.platform->osVersion;
    out["platform"] = std::move(p);
  }
  if (!d.artifactType.empty()) out["artifactType"] = d.artifactType;
  if (!d.annotations.empty()) out["annotations"] = toObject(d.annotations);
  return out;
}

Result<std::optional<Descriptor>> readSubject(const json::object& object) {
  const auto* subject = objectAt(object, "subject");
  if (!subject) return std::optional<Descriptor>();
  ASSIGN_OR_RETURN(auto descriptor, readDescriptor(*subject, "subject"));
  return std::optional<Descriptor>(std::move(descriptor));
}

Result<json::object> readDocument(std::string_view text, std::string_view what) {
  if (text.size() > kMaxDocument) return Error(Code::kTooLarge, std::string(what) + " is larger than 4 MiB");
  ASSIGN_OR_RETURN(auto object, parseObject(text, what));
  if (intAt(object, "schemaVersion", 0) == 1)
    return Error(Code::kInvalid,
                 "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed");
  return object;
}

}  // namespace

std::string mediaTypeOf(std::string_view text) {
  auto object = parseObject(text, "document");
  if (!object.ok()) return {};
  auto type = stringAt(*object, "mediaType");
  if (!type.empty()) return type;
  if (arrayAt(*object, "manifests")) return std::string(media::kOciIndex);
  if (objectAt(*object, "config") && arrayAt(*object, "layers")) return std::string(media::kOciManifest);
  return {};
}

bool isIndexType(std::string_view type) {
  return type == media::kOciIndex || type == media::kDockerList;
}
bool isManifestType(std::string_view type) {
  return type == media::kOciManifest || type == media::kDockerManifest;
}

Result<Manifest> parseManifest(std::string_view text) {
  ASSIGN_OR_RETURN(auto object, readDocument(text, "manifest"));
  Manifest out;
  out.mediaType = stringAt(object, "mediaType");
  if (out.mediaType.empty()) out.mediaType = media::kOciManifest;
  const auto* config = objectAt(object, "config");
  const auto* layers = arrayAt(object, "layers");
  if (!config || !layers) return Error(Code::kInvalid, "manifest has no config or no layers");
  if (layers->size() > 1024) return Error(Code::kInvalid, "manifest has more than 1024 layers");
  ASSIGN_OR_RETURN(out.config, readDescriptor(*config, "config"));
  for (const auto& layer : *layers) {
    if (!layer.is_object()) return Error(Code::kInvalid, "manifest has a layer that is not an object");
    ASSIGN_OR_RETURN(auto descriptor, readDescriptor(layer.get_object(), "layer"));
    out.layers.push_back(std::move(descriptor));
  }
  ASSIGN_OR_RETURN(out.subject, readSubject(object));
  out.artifactType = stringAt(object, "artifactType");
  out.annotations = stringMapAt(object, "annotations");
  return out;
}

Result<Index> parseIndex(std::string_view text) {
  ASSIGN_OR_RETURN(auto object, readDocument(text, "index"));
  Index out;
  out.mediaType = stringAt(object, "mediaType");
  if (out.mediaType.empty()) out.mediaType = media::kOciIndex;
  const auto* manifests = arrayAt(object, "manifests");
  if (!manifests) return Error(Code::kInvalid, "index has no manifests");
  if (manifests->size() > 4096) return Error(Code::kInvalid, "index has more than 4096 manifests");
  for (const auto& entry : *manifests) {
    if (!entry.is_object()) return Error(Code::kInvalid, "index has an entry that is not an object");
    ASSIGN_OR_RETURN(auto descriptor, readDescriptor(entry.get_object(), "index entry"));
    out.manifests.push_back(std::move(descriptor));
  }
  ASSIGN_OR_RETURN(out.subject, readSubject(object));
  out.artifactType = stringAt(object, "artifactType");
  out.annotations = stringMapAt(object, "annotations");
  return out;
}

std::string toJson(const Manifest& manifest) {
  json::array layers;
  for (const auto& layer : manifest.layers) layers.push_back(writeDescriptor(layer));
  json::object out{{"schemaVersion", 2}, {"mediaType", manifest.mediaType}};
  if (!manifest.artifactType.empty()) out["artifactType"] = manifest.artifactType;
  out["config"] = writeDescriptor(manifest.config);
  out["layers"] = std::move(layers);
  if (manifest.subject) out["subject"] = writeDescriptor(*manifest.subject);
  if (!manifest.annotations.empty()) out["annotations"] = toObject(manifest.annotations);
  return json::serialize(out);
}

std::string toJson(const Index& index) {
  json::array manifests;
  for (const auto& entry : index.manifests) manifests.push_back(writeDescriptor(entry));
  json::object out{{"schemaVersion", 2}, {"mediaType", index.mediaType}, {"manifests", std::move(manifests)}};
  if (!index.annotations.empty()) out["annotations"] = toObject(index.annotations);
  return json::serialize(out);
}

std::string chainId(const std::vector<std::string>& diffIds, size_t count) {
  std::string chain;
  for (size_t i = 0; i < count && i < diffIds.size(); ++i) {
    chain = i == 0 ? diffIds[0] : "sha256:" + sha256Hex(chain + " " + diffIds[i]);
  }
  return chain;
}

}  // namespace dhow::image
