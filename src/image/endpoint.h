// One base URL that serves a registry, with its TLS, scheme and authentication state.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "http/client.h"
#include "image/hosts.h"

namespace dhow::image {

struct Challenge {
  std::string scheme;  // lower case: "bearer", "basic"
  std::map<std::string, std::string> parameters;
};
// WWW-Authenticate values (RFC 9110, 11.6.1).
std::vector<Challenge> parseChallenges(std::string_view header);

// The first error of an OCI error document, "unauthorized: authentication required", or what a token server says
// instead; always kUnauthenticated.
std::optional<Error> registryError(std::string_view body);

class Endpoint {
 public:
  struct Options {
    std::string url;  // "https://host:port", or "host:port" when the scheme is still to be found
    bool mirror = false;
    bool insecure = false;  // no verification; plain http when https does not work
    bool loopback = false;  // plain http first
    std::string caPem, certificatePem, keyPem;
    std::vector<Credentials> credentials;  // tried in order, then anonymously
  };
  using BodyFactory = std::function<Result<std::unique_ptr<http::BodyReader>>()>;

  Endpoint(Loop& loop, Options options) : loop_(loop), options_(std::move(options)) {}
  bool mirror() const { return options_.mirror; }
  const std::string& name() const { return options_.url; }

  // Authenticates when asked to, follows redirects; any final status is a response. `target` is a path, or a whole URL.
  // kUnauthenticated: a token server refused, or there is no password to give to a registry that wants one.
  Task<Result<http::StreamingResponse>> request(std::string method, std::string target, http::Headers headers,
                                                BodyFactory body, std::string scope);

 private:
  Task<Result<>> findScheme();
  Result<http::Client*> client();
  // Fills authorization_; false when there is nothing more to try.
  Task<Result<bool>> authenticate(std::string header, std::string scope);
  Task<Result<bool>> fetchToken(Challenge challenge, std::string scope, Credentials credentials);
  Task<Result<http::StreamingResponse>> follow(std::string method, std::string url, http::Headers headers,
                                               BodyFactory body);

  Loop& loop_;
  Options options_;
  std::string base_;
  std::unique_ptr<http::Client> client_;
  size_t nextCredentials_ = 0;
  std::optional<Error> refusal_;                      // why the credentials tried for this request were worth nothing
  std::map<std::string, std::string> authorization_;  // by scope
};

}  // namespace dhow::image
