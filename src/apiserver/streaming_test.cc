// Logs, exec, attach and port-forward of the real kubectl, through the tunnel of an agent that the test plays.
#include "client/streaming.h"
#include "http/client.h"
#include "test_cluster.h"

namespace dhow::apiserver {
namespace {

namespace streaming = client::streaming;
using streaming::Channel;

// What the agent does with an exec: "cat" echoes its input, "fail" ends with exit code 3, others print their arguments.
Task<> runCommandStream(std::shared_ptr<http::Stream> stream, std::vector<std::string> command) {
  auto say = [](Channel channel, std::string_view text) { return streaming::encodeFrame(channel, text); };
  std::string verdict = R"({"metadata":{},"status":"Success"})";
  if (command[0] == "cat") {
    streaming::FrameDecoder decoder;
    std::vector<char> buffer(4096);
    for (bool open = true; open;) {
      auto count = co_await stream->read(buffer);
      if (!count.ok() || *count == 0) break;
      decoder.feed({buffer.data(), *count});
      while (auto frame = decoder.next()) {
        if (frame->channel == Channel::kClose) open = false;
        if (frame->channel != Channel::kStdin) continue;
        std::string out = say(Channel::kStdout, frame->payload);
        auto done = co_await stream->write(out);
        (void)done;
      }
    }
  } else if (command[0] == "fail") {
    std::string out = say(Channel::kStderr, "broken\n");
    auto done = co_await stream->write(out);
    (void)done;
    verdict =
        R"({"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code","details":{"causes":[{"reason":"ExitCode","message":"3"}]}})";
  } else {
    std::string out = say(Channel::kStdout, join(command, " ") + "\n");
    auto done = co_await stream->write(out);
    (void)done;
  }
  std::string end = say(Channel::kError, verdict);
  auto done = co_await stream->write(end);
  (void)done;
  co_await stream->shutdownWrite();
}

Task<> agentHandler(http::Request& request, http::ResponseWriter& writer) {
  if (request.path.starts_with("/containerLogs/")) {
    http::Response response;
    response.body = fmt::format("log of {} {}\n", request.path.substr(15), request.query.get("tailLines"));
    auto sent = co_await writer.send(std::move(response));
    (void)sent;
    co_return;
  }
  auto hijacked = co_await writer.hijack(101, {});
  if (!hijacked.ok()) co_return;
  std::shared_ptr<http::Stream> stream = std::move(*hijacked);
  if (request.path.starts_with("/portForward/")) {
    std::vector<char> buffer(4096);
    while (true) {
      auto count = co_await stream->read(buffer);
      if (!count.ok() || *count == 0) break;
      std::string answer =
          fmt::format("HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\nfrom port {}", request.query.get("port"));
      auto done = co_await stream->write(answer);
      (void)done;
      break;
    }
    co_await stream->shutdownWrite();
    co_return;
  }
  std::vector<std::string> command;
  for (auto part : request.query.getAll("command")) command.emplace_back(part);
  if (command.empty()) command = {"attached"};
  co_await runCommandStream(stream, std::move(command));
}

// Dials in as node n1 and serves until the connection ends.
struct Agent {
  std::unique_ptr<http::Client> client;
  std::unique_ptr<http::Server> server;
};
Task<> dialIn(Agent* agent, std::string url, std::promise<int>* done) {
  http::Request request;
  request.headers.set("Connection", "Upgrade");
  request.headers.set("Upgrade", streaming::kTunnelUpgrade);
  auto upgraded = co_await agent->client->upgrade(
      url + std::string(streaming::kTunnelPrefix) + "n1" + std::string(streaming::kTunnelSuffix), std::move(request));
  CHECK(upgraded.ok(), "{}", upgraded.error().message());
  done->set_value(upgraded->status);
  co_await agent->server->serve(std::move(upgraded->stream), {});
}
Task<> stopAgent(Agent* agent, std::promise<int>* done) {
  agent->client->close();
  co_await agent->server->stop();
  agent->server.reset();
  agent->client.reset();
  done->set_value(0);
}

class KubectlStreams : public KubectlTest {
 protected:
  void SetUp() override {
    KubectlTest::SetUp();
    if (!cluster_) return;
    good("create -f -",
         "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: n1, containers: [{name: c, image: i}]}\n");
    if (IsSkipped()) return;
    auto node = cluster_->identityOf("system:node:n1", {"system:nodes"});
    http::TlsClient::Options tls;
    tls.caPem = cluster_->authority().certificatePem;
    tls.keyPair = http::KeyPair{node.certificatePem, node.privateKeyPem};
    tls.http2 = false;
    http::Client::Options options;
    options.tls = http::TlsClient::create(tls).value();
    options.http2 = false;
    std::promise<int> done;
    auto ready = done.get_future();
    cluster_->loop().post([&, options] {
      agent_.client = std::make_unique<http::Client>(cluster_->loop(), options);
      agent_.server = std::make_unique<http::Server>(cluster_->loop(), http::Server::Options{}, agentHandler);
      spawn(cluster_->loop(), dialIn(&agent_, fmt::format("https://127.0.0.1:{}", cluster_->port()), &done));
    });
    ASSERT_EQ(ready.get(), 101);
  }
  void stop() {
    std::promise<int> done;
    auto ready = done.get_future();
    cluster_->loop().post([&] { spawn(cluster_->loop(), stopAgent(&agent_, &done)); });
    ready.get();
  }
  void TearDown() override {
    if (agent_.server) stop();
    KubectlTest::TearDown();
  }
  Agent agent_;
};

TEST_F(KubectlStreams, LogsComeThroughTheTunnel) {
  expectHas(good("logs p --tail=5"), "log of default/p/c 5");
  expectHas(bad("logs p -c other"), "container other is not valid for pod p");
}

TEST_F(KubectlStreams, ExecByWebSocketCarriesInputOutputAndExitCode) {
  EXPECT_EQ(good("exec p -- echo a b"), "echo a b\n");
  EXPECT_EQ(good("exec -i p -- cat", "some input"), "some input");
  auto failed = run("exec p -- fail");
  EXPECT_EQ(failed.status.code, 3);
  expectHas(failed.errors, "broken");
}

TEST_F(KubectlStreams, ExecBySpdyCarriesInputOutputAndExitCode) {
  auto spdy = [&](const std::string& line, const std::string& input = "") {
    auto out =
        runCommand({"sh", "-c",
                    fmt::format("KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false HOME={} KUBECONFIG={} timeout 20 kubectl {}",
                                dir_, admin_, line)},
                   input);
    return out.value();
  };
  EXPECT_EQ(spdy("exec p -- echo a b").output, "echo a b\n");
  EXPECT_EQ(spdy("exec -i p -- cat", "some input").output, "some input");
  EXPECT_EQ(spdy("exec p -- fail").status.code, 3);
  expectHas(spdy("attach p").output, "attached");
}

TEST_F(KubectlStreams, PortForwardReachesThePort) {
  good("patch pod p --subresource=status -p '{\"status\":{\"phase\":\"Running\"}}'");
  for (auto webSockets : {"true", "false"}) {
    auto out = runCommand(
        {"bash", "-c",
         fmt::format("export HOME={} KUBECONFIG={} KUBECTL_PORT_FORWARD_WEBSOCKETS={}; exec 3< <(timeout 10 kubectl "
                     "port-forward p :8080 2>&1 & echo pid $!; wait);"
                     " read -u3 _ pid; read -u3 line; port=$(echo $line | sed 's/.*:\\([0-9]*\\) ->.*/\\1/');"
                     " timeout 5 python3 -c \"import urllib.request; "
                     "print(urllib.request.urlopen('http://127.0.0.1:$port/').read().decode())\"; kill $pid",
                     dir_, admin_, webSockets)});
    ASSERT_TRUE(out.ok());
    expectHas(out->output + out->errors, "from port 80");
  }
}

TEST_F(KubectlStreams, ANodeWithoutConnectionIsNamed) {
  stop();
  std::string errors;
  for (int i = 0; i < 20 && errors.find("has no connection") == std::string::npos; ++i) errors = bad("logs p");
  expectHas(errors, "node \"n1\" has no connection to this server");
}

}  // namespace
}  // namespace dhow::apiserver
