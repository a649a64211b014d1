// An OCI distribution 1.1 registry as an HTTP handler: blobs with upload sessions (monolithic, chunked, mounted),
// manifests, tags, referrers, catalog, deletes, ranges. Content in <root> in the ContentStore's format; tags and
// repositories are small files written durably. A crash loses no acknowledged push. Bounds: manifests 4 MiB, blobs
// `maxBlob`, `maxUploads` open sessions.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/blocking.h"
#include "base/loop.h"
#include "base/result.h"
#include "http/server.h"

namespace dhow::image {

class RegistryServer {
 public:
  struct Access {
    std::string repository;  // empty: the base or the catalog
    std::string action;      // "pull", "push", "delete", "catalog"
  };
  struct Options {
    std::string root;
    uint64_t maxBlob = 64ull << 30;
    size_t maxUploads = 256;
    // Whether the request may do it: nothing to allow, else the value of WWW-Authenticate for a 401, or empty for 403.
    std::function<std::optional<std::string>(const http::Request&, const Access&)> authorize;
  };
  // Blocks; for start-up.
  static Result<std::unique_ptr<RegistryServer>> open(Loop& loop, BlockingPool& pool, Options options);
  ~RegistryServer();

  // Serves everything under /v2/. The server must be stopped before this object goes.
  http::Handler handler();

  struct Rep;

 private:
  explicit RegistryServer(std::shared_ptr<Rep> rep);
  std::shared_ptr<Rep> rep_;
};

// authorize() for one user and password, HTTP basic.
std::function<std::optional<std::string>(const http::Request&, const RegistryServer::Access&)> basicAuth(
    std::string user, std::string password);

}  // namespace dhow::image
