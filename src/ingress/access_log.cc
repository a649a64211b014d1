#include "access_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cerrno>

#include "access_record.h"
#include "base/log.h"

namespace dhow::ingress {

namespace asio = boost::asio;

namespace {

constexpr int kPipeSize = 1 << 20;  // the most that one without privileges may have
constexpr size_t kReadAtOnce = 64 << 10;
constexpr size_t kLongestLine = 64 << 10;
constexpr size_t kFileSize = 16 << 20;
constexpr int kFiles = 8;
constexpr Duration kRetry = std::chrono::seconds(1);         // when the disk takes nothing
constexpr Duration kGather = std::chrono::milliseconds(50);  // so that lines are taken by the hundred

}  // namespace

std::string recordsIn(std::string_view lines) {
  std::string out;
  out.reserve(lines.size());
  while (!lines.empty()) {
    const size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    if (line.starts_with("{\"time\":") && line.ends_with('}')) {
      out.append(line).push_back('\n');
    } else if (auto record = recordOf(line)) {
      out.append(*record).push_back('\n');
    }
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
  return out;
}

Result<UniqueFd> openLogPipe(const std::string& path) {
  if (::mkfifo(path.c_str(), 0600) != 0 && errno != EEXIST) return Error::fromErrno("make the pipe " + path);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return Error::fromErrno("open " + path);
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0 || !S_ISFIFO(info.st_mode)) return Error(Code::kInvalid, path + " is no pipe");
  (void)::fcntl(fd.get(), F_SETPIPE_SZ, kPipeSize);  // else it is smaller
  return fd;
}

struct AccessLog::Rep {
  Rep(Loop& l, BlockingPool& p, std::string pipePath, std::string file)
      : loop(l),
        pool(p),
        pipe(std::move(pipePath)),
        out({std::move(file), kFileSize, kFiles}),
        readable(l.executor()),
        gate(l),
        stopped(l) {}

  // What is in the pipe, into the file. False: there was nothing.
  Result<bool> drain() {
    buffer.resize(kReadAtOnce);
    for (bool any = false;; any = true) {
      const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno == EAGAIN) return any;
      if (count < 0) return Error::fromErrno("read " + pipe);
      rest.append(buffer.data(), static_cast<size_t>(count));
      const size_t end = rest.rfind('\n');
      if (end != std::string::npos) {
        const std::string records = recordsIn(std::string_view(rest).substr(0, end));
        rest.erase(0, end + 1);
        if (!records.empty()) RETURN_IF_ERROR(out.append(records));
      }
      if (rest.size() > kLongestLine) rest.clear();
      if (static_cast<size_t>(count) < buffer.size()) return true;
    }
  }

  static Task<> run(Rep* self) {
    bool complained = false;
    while (!self->stopping) {
      boost::system::error_code error;
      self->readable.assign(self->fd.get());
      co_await self->readable.async_wait(asio::posix::descriptor_base::wait_read,
                                         asio::redirect_error(asio::use_awaitable, error));
      // While lines come nobody waits for them: each one that HAProxy writes would wake who does.
      self->readable.release();
      if (error) break;
      for (bool more = true; more && !self->stopping;) {
        Result<bool> done = co_await self->pool.run(self->loop, [self] { return self->drain(); });
        if (!done.ok() && !std::exchange(complained, true))
          log::error("ingress", "lines are missing in the access log: {}", done.error().message());
        if (done.ok()) complained = false;
        more = done.valueOr(true);
        if (more && !self->stopping) co_await self->stopped.waitFor(done.ok() ? kGather : kRetry);
      }
    }
  }

  Loop& loop;
  BlockingPool& pool;
  const std::string pipe;
  RotatedFile out;
  std::string buffer;
  std::string rest;  // a line that has not ended
  UniqueFd fd;
  asio::posix::stream_descriptor readable;  // has `fd` while it is waited for
  bool stopping = false;
  Gate gate;
  Signal stopped;
};

AccessLog::AccessLog(Loop& loop, BlockingPool& pool, std::string pipe, std::string file)
    : rep_(std::make_unique<Rep>(loop, pool, std::move(pipe), std::move(file))) {}
AccessLog::~AccessLog() = default;

void AccessLog::start() {
  Result<UniqueFd> opened = openLogPipe(rep_->pipe);
  if (!opened.ok()) {
    log::error("ingress", "no access log: {}", opened.error().message());
    return;
  }
  rep_->fd = std::move(*opened);
  rep_->gate.spawn(Rep::run(rep_.get()));
}

Task<> AccessLog::stop() {
  rep_->stopping = true;
  rep_->stopped.notify();
  boost::system::error_code ignored;
  rep_->readable.cancel(ignored);
  co_await rep_->gate.close();
}

}  // namespace dhow::ingress
