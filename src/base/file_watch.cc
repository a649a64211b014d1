#include "base/file_watch.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>
#include <climits>

#include "base/log.h"
#include "base/process.h"

namespace dhow {

namespace {

constexpr int kMostLinks = 8;

std::string folderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Where a link leads; empty when it is none.
std::string linkTarget(const std::string& path) {
  char buffer[PATH_MAX];
  const ssize_t length = ::readlink(path.c_str(), buffer, sizeof buffer);
  if (length <= 0) return "";
  std::string target(buffer, static_cast<size_t>(length));
  return target.starts_with('/') ? target : folderOf(path) + "/" + target;
}

}  // namespace

FileWatch::FileWatch(Loop& loop, std::string path, std::function<void()> changed)
    : loop_(loop), path_(std::move(path)), changed_(std::move(changed)), gate_(loop) {}

Result<std::unique_ptr<FileWatch>> FileWatch::start(Loop& loop, std::string path, std::function<void()> changed) {
  if (!path.starts_with('/')) return Error(Code::kInvalid, "watch " + path + ": not an absolute path");
  std::unique_ptr<FileWatch> out(new FileWatch(loop, std::move(path), std::move(changed)));
  out->wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  out->poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event event{};
  event.events = EPOLLIN;
  if (!out->wake_ || !out->poll_ || ::epoll_ctl(out->poll_.get(), EPOLL_CTL_ADD, out->wake_.get(), &event) != 0)
    return Error::fromErrno("watch " + out->path_);
  RETURN_IF_ERROR(out->arm());
  out->gate_.spawn(run(out.get()));
  return out;
}

// Watches each link on the way, in its folder, and the file; anew, as any of them may be another one now.
Result<> FileWatch::arm() {
  UniqueFd notify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!notify) return Error::fromErrno("watch " + path_);
  std::map<int, std::set<std::string>> names;
  auto watch = [&](const std::string& what, uint32_t events, const std::string& name) {
    const int number = ::inotify_add_watch(notify.get(), what.c_str(), events);
    if (number >= 0) names[number].insert(name);
  };
  std::string at = path_;
  for (int links = 0; !at.empty() && links <= kMostLinks; ++links) {
    watch(folderOf(at), IN_CREATE | IN_CLOSE_WRITE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO,
          at.substr(at.rfind('/') + 1));
    std::string next = linkTarget(at);
    // A file that is mounted alone changes without its folder.
    if (next.empty()) watch(at, IN_CLOSE_WRITE, "");
    at = std::move(next);
  }
  if (names.empty()) return Error::fromErrno("watch " + path_);
  epoll_event event{};
  event.events = EPOLLIN;
  if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, notify.get(), &event) != 0) return Error::fromErrno("watch " + path_);
  notify_ = std::move(notify);
  names_ = std::move(names);
  return {};
}

bool FileWatch::concerned() {
  bool out = false;
  alignas(inotify_event) char buffer[16384];
  for (ssize_t size; (size = ::read(notify_.get(), buffer, sizeof buffer)) > 0;) {
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer + at);
      at += static_cast<ssize_t>(sizeof *event + event->len);
      auto watched = names_.find(event->wd);
      const bool known = watched != names_.end() && watched->second.contains(event->len > 0 ? event->name : "");
      out |= known || (event->mask & (IN_Q_OVERFLOW | IN_IGNORED)) != 0;
    }
  }
  return out;
}

Task<> FileWatch::run(FileWatch* self) {
  while (!self->stopping_) {
    auto readable = co_await waitReadable(self->loop_, self->poll_.get());
    if (!readable.ok() || self->stopping_) break;
    if (!self->concerned()) continue;
    if (auto armed = self->arm(); !armed.ok()) {
      log::warn("base", "{} is watched no more: {}", self->path_, armed.error().message());
      break;
    }
    self->changed_();
  }
}

Task<> FileWatch::stop() {
  stopping_ = true;
  const uint64_t one = 1;
  (void)!::write(wake_.get(), &one, sizeof one);
  co_await gate_.close();
}

}  // namespace dhow
