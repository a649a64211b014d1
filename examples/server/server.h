// What the examples' programs share: an HTTP/1.1 server with one thread and one epoll loop, and conversations
// (WebSockets, HTTP/2) on its connections. GET /healthz is for probes. On SIGTERM it takes no new connections, finishes
// open requests, the first request of a connection that has only just been made, and conversations, and ends: at the
// latest after `Options::grace` seconds. No dependencies, so that the programs can be static.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace examples {

// The value of a header in a head of lines, or empty. Names compare without case.
std::string_view header(std::string_view head, std::string_view name);
// The value of a cookie, or of a parameter of a query; empty when it is not there.
std::string_view cookie(std::string_view head, std::string_view name);
std::string_view parameter(std::string_view query, std::string_view name);
std::string escaped(std::string_view text);  // for HTML
std::string fromEnv(const char* name, std::string otherwise);

// Where it runs: POD_NAME, NODE_NAME and ZONE, which manifests fill through the downward API, or else the host's name.
struct Place {
  std::string pod, node, zone;
  static Place fromEnvironment();
};

struct Request {
  std::string head;  // with the request's line
  std::string method, path, query;
  std::string body;
  bool wantsPage() const { return header(head, "Accept").find("text/html") != std::string_view::npos; }
};

struct Response {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;
};

// What a connection speaks when it speaks HTTP/1.1 no more.
class Conversation {
 public:
  virtual ~Conversation() = default;
  // Bytes from the client; what it answers is appended to `out`. False: it is over once that is sent.
  virtual bool receive(std::string_view in, std::string& out) = 0;
  // SIGTERM came. What is under way may go on for the grace that is left; false as above.
  virtual bool stop(std::string& out) = 0;
};

class Application {
 public:
  virtual ~Application() = default;
  virtual Response answer(const Request& request) = 0;
  // Of a request with `Upgrade: websocket`; nothing refuses it.
  virtual std::unique_ptr<Conversation> webSocket(const Request&) { return nullptr; }
  // Of a connection that begins with HTTP/2's preface.
  virtual std::unique_ptr<Conversation> http2() { return nullptr; }
};

struct Options {
  bool logRequests = false;
  int grace = 10;  // seconds
};

// Listens on $PORT or 8080 until SIGTERM; gives main()'s result.
int serve(Application& application, const Options& options);

}  // namespace examples
