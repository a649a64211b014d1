// The disk of the registry server. All functions block; mutations must not run at the same time as others.
//
//   <root>/blobs, <root>/ingest                     ContentStore
//   <root>/repositories/<name>/_blobs/<hex>         the repository holds this blob
//   <root>/repositories/<name>/_manifests/<hex>     ... this manifest; the file tells its media type
//   <root>/repositories/<name>/_tags/<tag>          the digest it names
//   <root>/repositories/<name>/_referrers/<hex of the subject>/<hex>
#pragma once

#include <string>
#include <vector>

#include "image/content.h"
#include "image/spec.h"

namespace dhow::image {

// An error as the distribution spec lists them.
struct RegistryError {
  int status = 400;
  std::string code;
  std::string message;
};

class Repositories {
 public:
  static Result<std::unique_ptr<Repositories>> open(std::string root);
  ContentStore& content() { return *content_; }

  bool exists(const std::string& name) const;
  bool hasBlob(const std::string& name, const std::string& digest) const;
  Result<> linkBlob(const std::string& name, const std::string& digest);
  Result<> removeBlob(const std::string& name, const std::string& digest);  // kNotFound
  Result<> collect(const std::string& digest);  // removes the bytes when no repository holds them

  struct Stored {
    std::string bytes, mediaType, digest;
  };
  Result<Stored> manifest(const std::string& name, const std::string& target) const;  // tag or digest; kNotFound
  struct Put {
    std::optional<RegistryError> refused;
    std::string digest, subject;
  };
  Result<Put> putManifest(const std::string& name, const std::string& target, const std::string& mediaType,
                          const std::string& bytes);
  Result<> removeManifest(const std::string& name, const std::string& target);  // kNotFound
  Result<std::vector<std::string>> tags(const std::string& name) const;         // sorted
  Result<Index> referrers(const std::string& name, const std::string& digest, const std::string& artifactType) const;
  Result<std::vector<std::string>> names() const;  // sorted

 private:
  std::string folder(const std::string& name) const { return root_ + "/repositories/" + name; }
  Result<> walk(const std::string& path, const std::string& name, std::vector<std::string>& out, int depth) const;
  std::string root_;
  std::unique_ptr<ContentStore> content_;
};

}  // namespace dhow::image
