// GET /dhow/v1/snapshot: the whole store at one revision (store/snapshot.h), secrets and all, for the administrators.
#include "store/snapshot.h"
#include "front.h"

namespace dhow::apiserver {

Task<Result<>> Front::serveSnapshot(Call& call) {
  if (call.request.method != "GET")
    co_return Error(Code::kMethodNotAllowed, "the server does not allow this method on the requested resource");
  if (!call.caller.in(kSystemMasters))
    co_return Error(Code::kPermissionDenied,
                    fmt::format("User \"{}\" cannot take a snapshot: it holds every secret, and is given to members of "
                                "{} alone",
                                call.caller.user, kSystemMasters));
  CO_ASSIGN_OR_RETURN(auto stream, co_await store::SnapshotStream::open(loop_, pool_, store_, clusterId_));
  http::Headers headers;
  headers.set("Content-Type", "application/octet-stream");
  headers.set("Cache-Control", "no-store");
  call.status = 200;
  ++counts_[{call.info.verb, call.status}];
  auto done = co_await call.writer.start(200, std::move(headers));
  CO_RETURN_IF_ERROR(done);
  while (true) {
    CO_ASSIGN_OR_RETURN(auto block, co_await stream->next());
    if (block.empty()) break;
    done = co_await call.writer.write(block);
    CO_RETURN_IF_ERROR(done);
  }
  done = co_await call.writer.finish();
  co_return done;
}

}  // namespace dhow::apiserver
