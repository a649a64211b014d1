#include "streaming.h"

#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "client/fields.h"
#include "client/streaming.h"
#include "errors.h"
#include "exec_relay.h"
#include "http/spdy.h"
#include "http/websocket.h"

namespace dhow::apiserver {

namespace streaming = client::streaming;
using client::array;
using client::text;

namespace {

constexpr std::string_view kPortForward = "portforward.k8s.io";
constexpr std::string_view kTunnelledSpdy = "SPDY/3.1+portforward.k8s.io";

bool isSpdyUpgrade(const http::Request& request) {
  return equalsIgnoreCase(request.headers.get("Upgrade"), "SPDY/3.1");
}

// Answers SPDY's upgrade with the first protocol of ours that the client offers.
Task<Result<std::unique_ptr<http::SpdySession>>> acceptSpdy(Loop& loop, http::Request& request,
                                                            http::ResponseWriter& writer,
                                                            std::vector<std::string> protocols, std::string* chosen) {
  for (const auto& protocol : protocols) {
    if (chosen->empty() && request.headers.hasToken("X-Stream-Protocol-Version", protocol)) *chosen = protocol;
    for (const auto& [name, value] : request.headers.all()) {
      if (chosen->empty() && equalsIgnoreCase(name, "X-Stream-Protocol-Version") && trim(value) == protocol)
        *chosen = protocol;
    }
  }
  if (chosen->empty())
    co_return Error(
        Code::kPermissionDenied,
        fmt::format("unable to upgrade: none of the stream protocols is known, available: {}", join(protocols, ", ")));
  http::Headers headers;
  headers.set("Connection", "Upgrade");
  headers.set("Upgrade", "SPDY/3.1");
  headers.set("X-Stream-Protocol-Version", *chosen);
  auto stream = co_await writer.hijack(101, std::move(headers));
  CO_RETURN_IF_ERROR(stream);
  co_return http::serveSpdy(loop, std::move(*stream));
}

}  // namespace

Result<Streaming::Target> Streaming::targetOf(const RequestInfo& info, const http::Query& query,
                                              bool needsContainer) const {
  Target target;
  target.ns = info.ns;
  target.pod = info.name;
  auto pod = caches_.of(object::resources::kPods).get(info.ns, info.name);
  if (!pod) return notFound(object::resources::kPods, info.name);
  target.node = text(pod->root(), {"spec", "nodeName"});
  if (target.node.empty())
    return Error(Code::kBadRequest, fmt::format("pod {} does not have a host assigned", info.name));
  if (needsContainer) {
    std::vector<std::string> names;
    for (std::string_view list : {"containers", "initContainers", "ephemeralContainers"}) {
      for (const auto& one : array(pod->root(), {"spec", list})) {
        if (one.is_object()) names.emplace_back(text(one.get_object(), "name"));
      }
    }
    size_t plain = array(pod->root(), {"spec", "containers"}).size();
    target.container = query.get("container");
    if (target.container.empty()) target.container = pod->annotation("kubectl.kubernetes.io/default-container");
    if (target.container.empty()) {
      if (plain != 1) {
        std::span<const std::string> choices(names.data(), std::min(plain, names.size()));
        return Error(Code::kBadRequest,
                     fmt::format("a container name must be specified for pod {}, choose one of: [{}]", info.name,
                                 join(choices, " ")));
      }
      target.container = names.front();
    }
    if (std::find(names.begin(), names.end(), target.container) == names.end()) {
      return Error(Code::kBadRequest, fmt::format("container {} is not valid for pod {}", target.container, info.name));
    }
  }
  target.agent = tunnels_.find(target.node);
  if (!target.agent) {
    return Error(
        Code::kUnavailable,
        fmt::format("node \"{}\" has no connection to this server: its agent is down or cannot reach it", target.node));
  }
  return target;
}

Task<Result<std::unique_ptr<http::Stream>>> Streaming::openAgent(Target target, std::string path) {
  http::Request request;
  request.method = "POST";
  request.headers.set("Connection", "Upgrade");
  request.headers.set("Upgrade", streaming::kStreamUpgrade);
  auto agent = target.agent;
  auto upgraded = co_await agent->upgrade("http://" + target.node + path, std::move(request));
  if (!upgraded.ok()) co_return std::move(upgraded).error();
  co_return std::move(upgraded->stream);
}

Task<Result<>> Streaming::serve(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info) {
  CO_RETURN_IF_ERROR(co_await caches_.catchUpIfPossible());
  if (info.plural == "nodes" && info.subresource == "proxy") co_return co_await serveNodeProxy(request, writer, info);
  if (info.plural != "pods" || info.ns.empty() || info.name.empty())
    co_return Error(Code::kNotFound, "the server could not find the requested resource");
  if (info.subresource == "log") co_return co_await serveLog(request, writer, info);
  if (info.subresource == "exec" || info.subresource == "attach") co_return co_await serveExec(request, writer, info);
  if (info.subresource == "portforward") co_return co_await servePortForward(request, writer, info);
  co_return Error(Code::kUnimplemented, fmt::format("{}/{} is not served", info.plural, info.subresource));
}

// Hands on an agent's answer as it comes.
Task<Result<>> Streaming::relay(http::ResponseWriter& writer, http::StreamingResponse response, bool asLog) {
  if (response.status >= 400) {
    auto body = co_await http::readAll(*response.body, 64 << 10);
    std::string why = body.ok() ? std::string(trim(*body)) : "the node's answer was cut off";
    Code code = response.status == 404 ? Code::kNotFound : response.status == 400 ? Code::kBadRequest : Code::kInternal;
    co_return Error(code, std::move(why));
  }
  http::Headers headers;
  auto type = response.headers.get("Content-Type");
  headers.set("Content-Type", asLog || type.empty() ? "text/plain" : type);
  headers.set("Cache-Control", "no-cache, private");
  CO_RETURN_IF_ERROR(co_await writer.start(response.status, std::move(headers)));
  std::vector<char> buffer(32 << 10);
  while (!writer.closed()) {
    auto count = co_await response.body->read(buffer);
    if (!count.ok() || *count == 0) break;
    CO_RETURN_IF_ERROR(co_await writer.write(std::string_view(buffer.data(), *count)));
  }
  if (writer.closed()) co_return Result<>();
  co_return co_await writer.finish();
}

Task<Result<>> Streaming::serveLog(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info) {
  CO_ASSIGN_OR_RETURN(Target target, targetOf(info, request.query, true));
  http::Query query;
  for (const auto& [name, value] : request.query.all()) {
    if (name == "container" || name == "pretty" || name == "insecureSkipTLSVerifyBackend") continue;
    query.add(name, value);
  }
  for (auto name : {"tailLines", "sinceSeconds", "limitBytes"}) {
    auto given = query.get(name);
    auto number = parseInt(given);
    bool least = std::string_view(name) != "tailLines";
    if (!given.empty() && (!number || *number < (least ? 1 : 0))) {
      co_return invalid(
          "PodLogOptions", "", info.name,
          {{"FieldValueInvalid",
            fmt::format("Invalid value: {}: must be greater than {}0", given, least ? "" : "or equal to "), name}});
    }
  }
  std::string url = fmt::format("http://{}/containerLogs/{}/{}/{}", target.node, percentEncode(target.ns),
                                percentEncode(target.pod), percentEncode(target.container));
  if (auto text = query.str(); !text.empty()) url += "?" + text;
  http::Request onward;
  auto response = co_await target.agent->send(std::move(url), std::move(onward));
  if (!response.ok())
    co_return std::move(response).error().wrap(
        fmt::format("read logs of {}/{} from node {}", target.ns, target.pod, target.node));
  co_return co_await relay(writer, std::move(*response), true);
}

Task<Result<>> Streaming::serveNodeProxy(http::Request& request, http::ResponseWriter& writer,
                                         const RequestInfo& info) {
  if (request.method != "GET") co_return Error(Code::kMethodNotAllowed, "only GET is proxied to a node");
  auto agent = tunnels_.find(info.name);
  if (!agent)
    co_return Error(Code::kUnavailable, fmt::format("node \"{}\" has no connection to this server", info.name));
  std::string url = fmt::format("http://{}{}", info.name, info.rest.empty() ? "/" : info.rest);
  if (auto query = request.query.str(); !query.empty()) url += "?" + query;
  http::Request onward;
  auto response = co_await agent->send(std::move(url), std::move(onward));
  if (!response.ok()) co_return std::move(response).error();
  co_return co_await relay(writer, std::move(*response), false);
}

Task<Result<>> Streaming::serveExec(http::Request& request, http::ResponseWriter& writer, const RequestInfo& info) {
  bool webSocket = http::isWebSocketUpgrade(request);
  if (!webSocket && !isSpdyUpgrade(request))
    co_return Error(
        Code::kBadRequest,
        "you must specify at least 1 of stdin, stdout, stderr over an upgraded connection: Upgrade request required");
  CO_ASSIGN_OR_RETURN(Target target, targetOf(info, request.query, true));
  if (info.subresource == "exec" && !request.query.has("command"))
    co_return Error(Code::kBadRequest, "you must specify at least 1 command for the container");
  http::Query query;
  StreamSet wanted;
  wanted.tty = truthy(request.query.get("tty"));
  wanted.in = truthy(request.query.get("stdin"));
  wanted.out = truthy(request.query.get("stdout"));
  wanted.err = truthy(request.query.get("stderr")) && !wanted.tty;
  if (!wanted.in && !wanted.out && !wanted.err)
    co_return Error(Code::kBadRequest, "you must specify at least 1 of stdin, stdout, stderr");
  for (const auto& value : request.query.getAll("command")) query.add("command", value);
  for (auto [name, value] : {std::pair("stdin", wanted.in), std::pair("stdout", wanted.out),
                             std::pair("stderr", wanted.err), std::pair("tty", wanted.tty)}) {
    query.add(name, value ? "true" : "false");
  }
  std::string path = fmt::format("/{}/{}/{}/{}?{}", info.subresource, percentEncode(target.ns),
                                 percentEncode(target.pod), percentEncode(target.container), query.str());
  auto opened = co_await openAgent(target, std::move(path));
  if (!opened.ok()) co_return std::move(opened).error();
  std::shared_ptr<http::Stream> agent = std::move(*opened);
  if (webSocket) {
    auto socket = co_await http::acceptWebSocket(request, writer, {"v5.channel.k8s.io", "v4.channel.k8s.io"},
                                                 streaming::kMaxFrame);
    if (!socket.ok()) {
      agent->close();
      co_return std::move(socket).error();
    }
    co_await relayWebSocket(loop_, std::move(agent), std::move(*socket));
    co_return Result<>();
  }
  std::string protocol;
  auto session = co_await acceptSpdy(loop_, request, writer,
                                     {"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"}, &protocol);
  if (!session.ok()) {
    agent->close();
    co_return std::move(session).error();
  }
  co_await relaySpdy(loop_, std::move(agent), std::move(*session), wanted, protocol);
  co_return Result<>();
}

Task<Result<>> Streaming::servePortForward(http::Request& request, http::ResponseWriter& writer,
                                           const RequestInfo& info) {
  bool webSocket = http::isWebSocketUpgrade(request);
  if (!webSocket && !isSpdyUpgrade(request)) co_return Error(Code::kBadRequest, "Upgrade request required");
  CO_ASSIGN_OR_RETURN(Target target, targetOf(info, request.query, false));
  std::unique_ptr<http::SpdySession> session;
  if (webSocket) {
    auto socket = co_await http::acceptWebSocket(request, writer, {std::string(kTunnelledSpdy)});
    CO_RETURN_IF_ERROR(socket);
    session = http::serveSpdy(loop_, http::streamOver(loop_, std::move(*socket)));
  } else {
    std::string protocol;
    CO_ASSIGN_OR_RETURN(session, co_await acceptSpdy(loop_, request, writer, {std::string(kPortForward)}, &protocol));
  }
  OpenPort open = [this, target](std::string port) {
    return openAgent(target, fmt::format("/portForward/{}/{}?port={}", percentEncode(target.ns),
                                         percentEncode(target.pod), percentEncode(port)));
  };
  co_await relayPorts(loop_, std::move(session), std::move(open));
  co_return Result<>();
}

}  // namespace dhow::apiserver
