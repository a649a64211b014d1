#include "http_watch.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "base/strings.h"
#include "client/fields.h"
#include "client/http_client.h"

namespace dhow::client {

namespace {

constexpr size_t kAhead = 1000;

class HttpWatcher final : public Watcher {
 public:
  explicit HttpWatcher(std::shared_ptr<HttpWatch> watch) : watch_(std::move(watch)) {}
  ~HttpWatcher() override { watch_->close(); }
  Task<Result<WatchEvent>> next() override { return nextOf(watch_); }
  void close() override { watch_->close(); }

 private:
  static Task<Result<WatchEvent>> nextOf(std::shared_ptr<HttpWatch> watch) {
    Result<WatchEvent> event = co_await watch->next();
    co_return event;
  }
  std::shared_ptr<HttpWatch> watch_;
};

}  // namespace

std::unique_ptr<Watcher> HttpWatch::watcher(std::shared_ptr<HttpWatch> self) {
  return std::make_unique<HttpWatcher>(std::move(self));
}

Task<Result<WatchEvent>> HttpWatch::next() {
  std::optional<WatchEvent> event = co_await events_.pop();
  if (closed_) co_return Error(Code::kCancelled, "the watch was closed");
  if (event) {
    room_.notify();
    co_return std::move(*event);
  }
  if (end_) co_return *end_;
  co_return Error(Code::kCancelled, "the watch was closed");
}

void HttpWatch::close() {
  closed_ = true;
  events_.close();
  room_.notify();
}

Result<> HttpWatch::takeLine(std::string_view line) {
  line = trim(line);
  if (line.empty()) return {};
  boost::system::error_code error;
  json::parse_options options;
  options.max_depth = 200;
  json::value value = json::parse(line, error, {}, options);
  json::object* root = error ? nullptr : value.if_object();
  json::value* body = root == nullptr ? nullptr : root->if_contains("object");
  if (body == nullptr || !body->is_object())
    return Error(Code::kUnavailable, "the server sent a watch event that cannot be read");
  const std::string_view type = text(*root, "type");
  WatchEvent event;
  if (type == "ERROR")
    return errorOfStatus(static_cast<int>(number(body->get_object(), {"code"}, 500)), json::serialize(*body));
  if (type == "ADDED") {
    event.type = WatchEvent::Type::kAdded;
  } else if (type == "MODIFIED") {
    event.type = WatchEvent::Type::kModified;
  } else if (type == "DELETED") {
    event.type = WatchEvent::Type::kDeleted;
  } else if (type == "BOOKMARK") {
    event.type = WatchEvent::Type::kBookmark;
  } else {
    return {};
  }
  event.object = Object::make(std::move(body->get_object()));
  events_.push(std::move(event));
  return {};
}

Result<> HttpWatch::takeLines(std::string& buffer) {
  size_t from = 0;
  for (size_t end = buffer.find('\n'); end != std::string::npos; end = buffer.find('\n', from)) {
    RETURN_IF_ERROR(takeLine(std::string_view(buffer).substr(from, end - from)));
    from = end + 1;
  }
  buffer.erase(0, from);
  if (buffer.size() > lineLimit_) {
    return Error(Code::kUnavailable, fmt::format("the server sent a watch event of more than {} bytes", lineLimit_));
  }
  return {};
}

Task<> HttpWatch::pump(std::shared_ptr<HttpWatch> self, std::shared_ptr<http::StreamingResponse> response) {
  std::string buffer;
  std::vector<char> chunk(16 << 10);
  while (!self->closed_) {
    Result<size_t> count = co_await response->body->read(chunk);
    if (!count.ok()) {
      self->end_ = Error(Code::kUnavailable, count.error().message());
      break;
    }
    if (*count == 0) {
      // In order: its time was up, or the server ends.
      self->end_ = Error(Code::kDeadlineExceeded, "the server ended the watch");
      break;
    }
    // Once the end of a line is known to be missing, only what is new is searched.
    const bool ends = std::find(chunk.begin(), chunk.begin() + static_cast<ptrdiff_t>(*count), '\n') !=
                      chunk.begin() + static_cast<ptrdiff_t>(*count);
    buffer.append(chunk.data(), *count);
    if (ends || buffer.size() > self->lineLimit_) {
      Result<> taken = self->takeLines(buffer);
      if (!taken.ok()) {
        self->end_ = std::move(taken).error();
        break;
      }
    }
    while (self->events_.size() > kAhead && !self->closed_) co_await self->room_.wait();
  }
  self->events_.close();
}

}  // namespace dhow::client
