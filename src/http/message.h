// The vocabulary of requests and responses, the same for HTTP/1.1 and HTTP/2, server and client.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"

namespace dhow::http {

// Name-value pairs in order; names compare without case.
class Headers {
 public:
  void add(std::string_view name, std::string_view value);
  void set(std::string_view name, std::string_view value);  // replaces all of that name
  void remove(std::string_view name);
  // First value of that name, or empty.
  std::string_view get(std::string_view name) const;
  bool has(std::string_view name) const;
  // Whether a comma-separated header holds the token, without case ("Connection: keep-alive, Upgrade").
  bool hasToken(std::string_view name, std::string_view token) const;
  const std::vector<std::pair<std::string, std::string>>& all() const { return fields_; }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

// Decoded query parameters, in order, repeats kept.
class Query {
 public:
  static Query parse(std::string_view text);
  std::string_view get(std::string_view name) const;  // first value, or empty
  bool has(std::string_view name) const;
  std::vector<std::string_view> getAll(std::string_view name) const;
  void add(std::string_view name, std::string_view value);
  std::string str() const;  // encoded, without "?"
  const std::vector<std::pair<std::string, std::string>>& all() const { return fields_; }

 private:
  std::vector<std::pair<std::string, std::string>> fields_;
};

// Bytes that arrive over time. read() gives at most the size of `into`, 0 at the end.
class BodyReader {
 public:
  virtual ~BodyReader() = default;
  virtual Task<Result<size_t>> read(std::span<char> into) = 0;
  // After the end: the fields that came behind the body; null when there are none. HTTP/2 responses only.
  virtual const Headers* trailers() const { return nullptr; }
};

// The whole body; kTooLarge beyond `limit`.
Task<Result<std::string>> readAll(BodyReader& body, size_t limit);

// Who is at the other end.
struct Peer {
  std::string address;                // "10.0.0.1:4711", or empty for a unix socket
  std::string certificateCommonName;  // of a client certificate that the server's CA signed, else empty
  std::vector<std::string> certificateOrganizations;
  std::optional<std::pair<unsigned, unsigned>> unixCredentials;  // uid, gid
  bool tls = false;
};

struct Request {
  std::string method = "GET";
  std::string path = "/";  // decoded per segment only where the handler does so; as sent, without the query
  Query query;
  Headers headers;
  std::string version = "1.1";  // "1.0", "1.1", "2"
  Peer peer;
  std::unique_ptr<BodyReader> body;  // never null on the server; null is empty on the client
};

struct Response {
  int status = 200;
  Headers headers;
  std::string body;
};

std::string_view statusText(int status);

}  // namespace dhow::http
