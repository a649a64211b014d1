// A terminal or pipe here, joined with a process there.
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>

#include <csignal>
#include <cstdio>
#include <mutex>
#include <thread>

#include "base/gate.h"
#include "docker.h"
#include "http/stream.h"

namespace dhow::cli::docker {

namespace {

constexpr size_t kCopySize = 32 << 10;
constexpr char kDetach[] = {0x10, 0x11};  // ctrl-p ctrl-q

void writeAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

// Takes Docker's frames apart: stream id, three zero bytes, length in big endian.
class Unframer {
 public:
  void take(std::string_view bytes) {
    buffer_.append(bytes);
    size_t at = 0;
    while (buffer_.size() - at >= 8) {
      size_t length = 0;
      for (size_t i = 4; i < 8; ++i) length = length << 8 | static_cast<unsigned char>(buffer_[at + i]);
      if (buffer_.size() - at - 8 < length) break;
      writeAll(buffer_[at] == 2 ? STDERR_FILENO : STDOUT_FILENO, std::string_view(buffer_).substr(at + 8, length));
      at += 8 + length;
    }
    buffer_.erase(0, at);
  }

 private:
  std::string buffer_;
};

// Raw mode as long as the object lives.
class RawTerminal {
 public:
  explicit RawTerminal(bool wanted) : active_(wanted && ::tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (!active_) return;
    termios raw = before_;
    ::cfmakeraw(&raw);
    ::tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  ~RawTerminal() {
    if (active_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

 private:
  termios before_{};
  bool active_;
};

// Standard input, read on a thread of its own: it may be a file, which no event loop can wait for, and a terminal
// shared with the shell must not become non-blocking. The thread may outlive the conversation; it then ends with its
// next byte, or with the program.
struct Input {
  explicit Input(Loop& loop) : loop(loop), pieces(loop) {}
  Loop& loop;
  Queue<std::string> pieces;  // the loop's
  std::mutex mutex;           // guards ended: nothing is posted to a loop that may be gone
  bool ended = false;

  static void read(std::shared_ptr<Input> self) {
    std::string buffer(kCopySize, '\0');
    while (true) {
      ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (n < 0 && errno == EINTR) continue;
      std::lock_guard lock(self->mutex);
      if (self->ended) return;
      if (n <= 0) {
        self->loop.post([self] { self->pieces.close(); });
        return;
      }
      self->loop.post([self, piece = buffer.substr(0, static_cast<size_t>(n))] { self->pieces.push(piece); });
    }
  }
  void end() {
    std::lock_guard lock(mutex);
    ended = true;
  }
};

struct State {
  bool detached = false;
  bool sawFirstKey = false;
};

// True when the keys to detach are complete. Keys that begin them are held back until it is clear.
bool takeDetachKeys(State& state, std::string& piece) {
  std::string out;
  for (char c : piece) {
    if (state.sawFirstKey) {
      state.sawFirstKey = false;
      if (c == kDetach[1]) return true;
      out += kDetach[0];
    }
    if (c == kDetach[0])
      state.sawFirstKey = true;
    else
      out += c;
  }
  piece = out;
  return false;
}

Task<> sendInput(std::shared_ptr<Input> input, http::Stream* stream, State* state, bool tty) {
  while (auto piece = co_await input->pieces.pop()) {
    if (tty && takeDetachKeys(*state, *piece)) {
      state->detached = true;
      stream->close();
      co_return;
    }
    auto written = co_await stream->write(*piece);
    if (!written.ok()) co_return;
  }
  co_await stream->shutdownWrite();
}

Task<> resize(Engine* engine, std::string path) {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 && ::ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0) co_return;
  if (size.ws_row == 0 && size.ws_col == 0) co_return;
  http::Query query;
  query.add("h", std::to_string(size.ws_row));
  query.add("w", std::to_string(size.ws_col));
  (void)co_await engine->call("POST", path, std::move(query));
}

Task<> forward(Engine* engine, std::string path, int signal) {
  http::Query query;
  query.add("signal", std::to_string(signal));
  (void)co_await engine->call("POST", path, std::move(query));
}

// Handles signals until it is destroyed; what it starts enters the gate.
class Signals {
 public:
  Signals(Engine& engine, const Conversation& how, Gate& gate)
      : engine_(engine), how_(how), gate_(gate), set_(engine.loop.executor()) {
    if (how.tty)
      set_.add(SIGWINCH);
    else if (!how.killPath.empty())
      for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2}) set_.add(signal);
    next();
  }
  ~Signals() { set_.cancel(); }

 private:
  void next() {
    set_.async_wait([this](const boost::system::error_code& error, int signal) {
      if (error) return;
      gate_.spawn(signal == SIGWINCH ? resize(&engine_, how_.resizePath) : forward(&engine_, how_.killPath, signal));
      next();
    });
  }
  Engine& engine_;
  const Conversation& how_;
  Gate& gate_;
  boost::asio::signal_set set_;
};

}  // namespace

Task<Result<>> copyOutput(http::BodyReader& from, bool framed) {
  Unframer unframer;
  std::string buffer(kCopySize, '\0');
  while (true) {
    auto n = co_await from.read(buffer);
    CO_RETURN_IF_ERROR(n);
    if (*n == 0) co_return Result<>();
    auto piece = std::string_view(buffer).substr(0, *n);
    if (framed)
      unframer.take(piece);
    else
      writeAll(STDOUT_FILENO, piece);
  }
}

Task<Result<bool>> converse(Engine& engine, http::Stream& stream, Conversation how) {
  Gate gate(engine.loop);
  State state;
  auto input = std::make_shared<Input>(engine.loop);
  {
    RawTerminal raw(how.tty && how.input);
    Signals signals(engine, how, gate);
    if (how.tty) gate.spawn(resize(&engine, how.resizePath));
    if (how.input) {
      std::thread(Input::read, input).detach();
      gate.spawn(sendInput(input, &stream, &state, how.tty));
    }
    Unframer unframer;
    std::string buffer(kCopySize, '\0');
    while (true) {
      auto n = co_await stream.read(buffer);
      if (!n.ok() || *n == 0) break;
      auto piece = std::string_view(buffer).substr(0, *n);
      if (how.tty)
        writeAll(STDOUT_FILENO, piece);
      else
        unframer.take(piece);
    }
  }
  input->end();
  input->pieces.close();
  stream.close();
  co_await gate.close();
  co_return state.detached;
}

}  // namespace dhow::cli::docker
