#include "runtime/log_reader.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/fd.h"
#include "base/process.h"
#include "base/time.h"

namespace dhow::runtime {

namespace {

constexpr size_t kReadSize = 64 << 10;
constexpr int kMostFiles = 1000;

std::string rotated(const std::string& path, int generation) {
  return generation == 0 ? path : path + "." + std::to_string(generation);
}

// Offset in `content` after which at most `lines` whole lines stand; takes off `lines` what it found.
size_t tailOffset(std::string_view content, uint64_t& lines) {
  if (lines == 0) return content.size();
  size_t end = content.size();
  size_t start = end;
  while (start > 0) {
    size_t lineEnd = content[start - 1] == '\n' ? start - 1 : start;
    size_t before = lineEnd == 0 ? std::string_view::npos : content.rfind('\n', lineEnd - 1);
    size_t lineStart = before == std::string_view::npos ? 0 : before + 1;
    auto entry = parseLogLine(content.substr(lineStart, lineEnd - lineStart));
    // Pieces of one long line count once, by their last.
    if (entry && !entry->partial) {
      if (lines == 0) return start;
      --lines;
    }
    start = lineStart;
  }
  return 0;
}

class ReaderImpl final : public LogReader {
 public:
  ReaderImpl(Loop& loop, LogQuery query) : loop_(loop), query_(std::move(query)) {}

  Result<> start() {
    if (query_.follow) RETURN_IF_ERROR(watchFolder());
    return openOldest();
  }

  Result<std::optional<LogEntry>> tryNext() override {
    while (true) {
      if (auto entry = takeLine()) {
        if (query_.since && entry->time < *query_.since) continue;
        if (query_.until && entry->time > *query_.until) {
          closed_ = true;
          return std::optional<LogEntry>();
        }
        return entry;
      }
      ASSIGN_OR_RETURN(bool more, readMore());
      if (!more) return std::optional<LogEntry>();
    }
  }

  Task<Result<std::optional<LogEntry>>> next() override {
    while (!closed_) {
      bool last = finished_ || !query_.follow;
      auto entry = tryNext();
      if (!entry.ok() || *entry || last) co_return entry;
      auto waited = co_await waitForChange();
      CO_RETURN_IF_ERROR(waited);
    }
    co_return std::optional<LogEntry>();
  }

  void finish() override {
    finished_ = true;
    wake();
  }
  void close() override {
    closed_ = true;
    wake();
  }

 private:
  Result<> watchFolder() {
    notify_.reset(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    if (!notify_) return Error::fromErrno("watch a log");
    auto folder = query_.path.substr(0, query_.path.rfind('/'));
    if (::inotify_add_watch(notify_.get(), folder.c_str(), IN_MODIFY | IN_CREATE | IN_MOVED_TO) < 0)
      return Error::fromErrno("watch " + folder);
    // finish() and close() wake the wait through a pipe: the wait itself is on descriptors only.
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return Error::fromErrno("pipe");
    wakeRead_.reset(ends[0]);
    wakeWrite_.reset(ends[1]);
    epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    for (int fd : {notify_.get(), wakeRead_.get()}) {
      epoll_event event{};
      event.events = EPOLLIN;
      if (!epoll_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return Error::fromErrno("watch a log");
    }
    return {};
  }

  void wake() {
    if (wakeWrite_) (void)!::write(wakeWrite_.get(), "", 1);
  }

  Task<Result<>> waitForChange() {
    auto readable = co_await waitReadable(loop_, epoll_.get());
    CO_RETURN_IF_ERROR(readable);
    char buffer[4096];
    while (::read(notify_.get(), buffer, sizeof buffer) > 0) {
    }
    while (::read(wakeRead_.get(), buffer, sizeof buffer) > 0) {
    }
    co_return Result<>();
  }

  // The oldest file that the query reaches, at the right offset.
  Result<> openOldest() {
    int oldest = 0;
    while (oldest + 1 < kMostFiles && ::access(rotated(query_.path, oldest + 1).c_str(), F_OK) == 0) ++oldest;
    if (!query_.tail) return openFile(oldest, 0);
    uint64_t lines = *query_.tail;
    for (int generation = 0; generation <= oldest; ++generation) {
      size_t offset = 0;
      RETURN_IF_ERROR(withContent(generation, [&](std::string_view content) { offset = tailOffset(content, lines); }));
      if (offset > 0 || lines == 0 || generation == oldest) return openFile(generation, static_cast<off_t>(offset));
    }
    return {};
  }

  Result<> withContent(int generation, const std::function<void(std::string_view)>& use) {
    UniqueFd fd(::open(rotated(query_.path, generation).c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd && errno == ENOENT) return {};
    struct stat info;
    if (!fd || ::fstat(fd.get(), &info) != 0) return Error::fromErrno("open " + rotated(query_.path, generation));
    if (info.st_size == 0) return {};
    auto size = static_cast<size_t>(info.st_size);
    void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (memory == MAP_FAILED) return Error::fromErrno("map " + query_.path);
    use({static_cast<char*>(memory), size});
    ::munmap(memory, size);
    return {};
  }

  Result<> openFile(int generation, off_t offset) {
    fd_.reset(::open(rotated(query_.path, generation).c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd_) {
      if (errno == ENOENT) return {};
      return Error::fromErrno("open " + rotated(query_.path, generation));
    }
    struct stat info;
    if (::fstat(fd_.get(), &info) != 0) return Error::fromErrno("stat " + query_.path);
    inode_ = info.st_ino;
    if (offset > 0) ::lseek(fd_.get(), offset, SEEK_SET);
    return {};
  }

  // Reads on in this file, or in the one that came after it. False when nothing is there now.
  Result<bool> readMore() {
    if (!fd_) {
      RETURN_IF_ERROR(openFile(0, 0));
      if (!fd_) return false;
    }
    size_t had = buffer_.size();
    buffer_.resize(had + kReadSize);
    ssize_t n = ::read(fd_.get(), buffer_.data() + had, kReadSize);
    buffer_.resize(had + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0) return Error::fromErrno("read " + query_.path);
    if (n > 0) return true;
    return openNewer();
  }

  Result<bool> openNewer() {
    for (int generation = 0; generation < kMostFiles; ++generation) {
      struct stat info;
      if (::stat(rotated(query_.path, generation).c_str(), &info) != 0) return false;
      if (info.st_ino != inode_) continue;
      if (generation == 0) return false;
      // A last read: lines may have come between the end of file and the rotation.
      char c;
      if (::pread(fd_.get(), &c, 1, ::lseek(fd_.get(), 0, SEEK_CUR)) > 0) return true;
      RETURN_IF_ERROR(openFile(generation - 1, 0));
      return static_cast<bool>(fd_);
    }
    return false;
  }

  std::optional<LogEntry> takeLine() {
    while (true) {
      auto end = buffer_.find('\n', at_);
      if (end == std::string::npos) {
        buffer_.erase(0, at_);
        at_ = 0;
        return std::nullopt;
      }
      auto entry = parseLogLine(std::string_view(buffer_).substr(at_, end - at_));
      at_ = end + 1;
      if (entry) return entry;
    }
  }

  Loop& loop_;
  LogQuery query_;
  UniqueFd notify_, wakeRead_, wakeWrite_, epoll_, fd_;
  ino_t inode_ = 0;
  std::string buffer_;
  size_t at_ = 0;
  bool finished_ = false, closed_ = false;
};

}  // namespace

Result<std::unique_ptr<LogReader>> LogReader::open(Loop& loop, LogQuery query) {
  auto reader = std::make_unique<ReaderImpl>(loop, std::move(query));
  RETURN_IF_ERROR(reader->start());
  return std::unique_ptr<LogReader>(std::move(reader));
}

std::optional<LogEntry> parseLogLine(std::string_view line) {
  auto take = [&]() -> std::string_view {
    auto space = line.find(' ');
    auto word = line.substr(0, space);
    line.remove_prefix(space == std::string_view::npos ? line.size() : space + 1);
    return word;
  };
  auto time = parseTime(take());
  auto stream = take();
  auto tag = take();
  if (!time || (stream != "stdout" && stream != "stderr") || tag.empty() || (tag[0] != 'F' && tag[0] != 'P'))
    return std::nullopt;
  return LogEntry{*time, stream == "stderr", tag[0] == 'P', std::string(line)};
}

}  // namespace dhow::runtime
