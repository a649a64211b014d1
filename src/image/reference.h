// Image references as Docker writes them: [domain/]path[:tag][@digest]. Names without a domain belong to docker.io, one
// part names to docker.io/library. Grammar: distribution/reference. A bad reference is kBadRequest with Docker's text.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace dhow::image {

struct Reference {
  std::string domain;  // "docker.io", "localhost:5000"
  std::string path;    // "library/nginx"
  std::string tag;     // empty when absent
  std::string digest;  // "sha256:<64 hex>", empty when absent

  // Normalizes: "nginx" becomes docker.io/library/nginx. Neither a tag nor a digest is added.
  static Result<Reference> parse(std::string_view text);

  std::string name() const;          // docker.io/library/nginx
  std::string familiarName() const;  // nginx
  std::string str() const;           // docker.io/library/nginx:1.27@sha256:...
  std::string familiar() const;      // nginx:1.27@sha256:...
  // The same with ":latest" when there is neither tag nor digest.
  Reference withDefaultTag() const;
  bool operator==(const Reference&) const = default;
};

// "sha256:" and 64 lower-case hexadecimal digits.
bool isDigest(std::string_view text);
// [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
bool isTag(std::string_view text);
// Lower-case path components of a repository, as the distribution spec has them; no domain.
bool isRepositoryPath(std::string_view text);

}  // namespace dhow::image
