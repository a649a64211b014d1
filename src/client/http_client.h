// The Client over HTTP(S), for agents and tools. Errors carry the code of the Kubernetes Status that the server sent;
// kUnavailable when no server answers. Of several servers the one that answered last is asked first.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/loop.h"
#include "client/client.h"
#include "http/client.h"

namespace dhow::client {

class HttpClient final : public Client {
 public:
  struct Options {
    std::vector<std::string> servers;  // "https://10.0.0.1:6443"
    std::shared_ptr<http::TlsClient> tls;
    std::string bearerToken;
    std::string userAgent = "dhow";
    std::string fieldManager;                            // sent with writes when not empty
    Duration requestTimeout = std::chrono::seconds(30);  // watches: only until the response starts
    Duration connectTimeout{0};                          // zero: 2 s where there are several servers, else 10 s
    bool dropOnTimeout = false;  // a request without an answer ends all connections; the next one dials anew
    // HTTP/2: a server that says nothing for `keepAlive` while it is asked or watched is pinged, and given up when it
    // does not answer within `keepAliveTimeout`: requests and watches end with kUnavailable.
    Duration keepAlive = std::chrono::seconds(5);
    Duration keepAliveTimeout = std::chrono::seconds(5);
    size_t watchLineLimit = 16 << 20;
    size_t bodyLimit = 256 << 20;
    std::function<Task<Result<std::unique_ptr<http::Stream>>>()> dial;  // as in http::Client::Options
    bool priorKnowledgeHttp2 = false;                                   // as there
  };
  HttpClient(Loop& loop, Options options);
  ~HttpClient() override;

  Task<Result<ObjectPtr>> get(const Resource& resource, std::string ns, std::string name) override;
  Task<Result<List>> list(const Resource& resource, ListOptions options) override;
  Task<Result<std::unique_ptr<Watcher>>> watch(const Resource& resource, ListOptions options,
                                               std::string resourceVersion) override;
  Task<Result<ObjectPtr>> create(const Resource& resource, std::string ns, boost::json::object body, std::string name,
                                 std::string subresource) override;
  Task<Result<ObjectPtr>> update(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                 boost::json::object body) override;
  Task<Result<ObjectPtr>> patch(const Resource& resource, std::string ns, std::string name, std::string subresource,
                                PatchType type, boost::json::value body) override;
  Task<Result<>> remove(const Resource& resource, std::string ns, std::string name, DeleteOptions options) override;

  // Any request: the raw body of a 2xx answer. `target` is path and query. Health checks, discovery, logs.
  Task<Result<std::string>> raw(std::string method, std::string target, std::string body = "",
                                std::string contentType = "application/json");
  // Takes effect with the next request.
  void setBearerToken(std::string token);
  // Other servers, at least one, from the next request on. The one that answered last stays first where it is among
  // them.
  void setServers(std::vector<std::string> servers);
  // Ends requests and watches under way. Comes before the destructor.
  Task<> stop();

 private:
  struct Rep;
  std::shared_ptr<Rep> rep_;
};

// "/apis/apps/v1/namespaces/ns/deployments/name/status"; empty parts are left out.
std::string resourcePath(const Resource& resource, std::string_view ns, std::string_view name = "",
                         std::string_view subresource = "");
// What a failed answer says: a Status body when there is one, else the HTTP status.
Error errorOfStatus(int httpStatus, std::string_view body);

}  // namespace dhow::client
