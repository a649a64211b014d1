#include "server_core.h"
namespace dhow::http::internal {
Task<> serveHttp2(std::shared_ptr<ServerCore>, std::shared_ptr<Input> input, Peer, std::unique_ptr<H2cUpgrade>) {
  input->close();
  co_return;
}
}  // namespace dhow::http::internal
