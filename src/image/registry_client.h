// One repository in its registry: which endpoints serve it, who we are to it, and the requests of OCI distribution 1.1.
// Retries, redirects, mirrors and authentication happen inside; errors carry Docker's texts.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "http/client.h"
#include "image/hosts.h"
#include "image/reference.h"
#include "image/spec.h"

namespace dhow::image {

struct RegistryAccess {
  RegistryHosts hosts;
  std::vector<std::string> insecure;  // hosts that may be plain or unverified
  int attempts = 5;
  Duration retryDelay = std::chrono::seconds(1);
};

struct RemoteManifest {
  std::string bytes;  // empty after HEAD
  std::string mediaType;
  std::string digest;  // of the bytes; after HEAD what the registry says
  int64_t size = 0;
};

// What went wrong between us and the registry, told apart from what it answered.
class Endpoint;

class RegistryClient {
 public:
  RegistryClient(Loop& loop, const RegistryAccess& access, Reference reference, std::vector<Credentials> credentials);
  ~RegistryClient();
  RegistryClient(const RegistryClient&) = delete;

  const Reference& reference() const { return reference_; }
  // `target`: a tag or a digest; the bytes of a digest are verified.
  Task<Result<RemoteManifest>> manifest(std::string target);
  // HEAD; kNotFound also when the registry does not do it or tells no digest.
  Task<Result<RemoteManifest>> manifestHead(std::string target);
  // Opens a blob from `offset`; `skip` tells how many bytes in front must be dropped, since the server ignored the
  // range.
  struct Opened {
    std::unique_ptr<http::BodyReader> body;
    uint64_t skip = 0;
  };
  Task<Result<Opened>> openBlob(std::string digest, uint64_t offset);
  // Small blobs, whole and verified.
  Task<Result<std::string>> blob(std::string digest, int64_t size);

  // --- Push
  Task<Result<bool>> hasBlob(std::string digest);
  using BodyFactory = std::function<Result<std::unique_ptr<http::BodyReader>>()>;
  Task<Result<>> upload(std::string digest, uint64_t size, BodyFactory body);
  Task<Result<>> putManifest(std::string target, std::string mediaType, std::string bytes);

  // GET /v2/ with the credentials.
  Task<Result<>> ping();

  Loop& loop() { return loop_; }
  int attempts() const { return access_.attempts; }
  // Whether trying again can help. A registry that has never answered fails at once: it is named wrongly or is not
  // there, and whoever asked should know now.
  bool mayRetry(const Error& error) const;
  // Sleeps before attempt `n` (from 1) of what failed n times; honours the server's Retry-After.
  Task<> backOff(int n, const Error& error);

 private:
  struct Call {
    std::string method = "GET", path;
    http::Headers headers;
    BodyFactory body;
    std::string contentLength;
    bool push = false;
  };
  Task<Result<http::StreamingResponse>> call(Call call);
  Task<Result<http::StreamingResponse>> callRetrying(Call call);
  Error describe(int status, std::string body, const Call& call, const http::Headers& headers) const;
  std::string repositoryPath(const std::string& rest) const { return "/v2/" + reference_.path + rest; }

  Loop& loop_;
  RegistryAccess access_;
  Reference reference_;
  std::vector<Credentials> credentials_;
  std::vector<std::unique_ptr<Endpoint>> endpoints_;
  size_t preferred_ = 0;
  bool answered_ = false;  // whatever it said
};

// Whether trying again can help.
bool isTransient(const Error& error);

}  // namespace dhow::image
