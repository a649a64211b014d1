// A load of HTTP/1.1 requests from one thread: http-load ADDRESS:PORT HOST METHOD PATH EXPECTED RATE KEPT FRESH
// sends RATE requests a second, FRESH percent of them on a connection of their own, the others on KEPT connections that
// stay. An answer is right when its status is 200 and its body begins with EXPECTED.
//
// Says "running", goes on until its input ends or has a line, waits for what is under way, then tells what failed, a
// line each ("failed <time> <milliseconds> <when its connection was opened> <what>"), and counts as JSON. No request is
// sent twice: one whose connection was closed under it counts as failed, although a client may try such a one again. A
// connection that the server closed before is opened anew, as is one whose last answer said so.
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr auto kLimit = std::chrono::seconds(20);  // for one request
constexpr size_t kMostFresh = 500;                 // at once
constexpr size_t kMostTold = 200;
constexpr size_t kLongestAnswer = 1 << 20;

struct Plan {
  sockaddr_in to{};
  std::string request, requestAndClose, expected;
  double rate = 0, fresh = 0;
  size_t kept = 0;
};

struct Connection {
  int fd = -1;
  bool kept = false, busy = false, connecting = true;
  int answers = 0;
  std::string out, in;
  Clock::time_point opened, began;
};

struct Counts {
  uint64_t sent = 0, answered = 0, failed = 0, opened = 0;
  std::array<uint64_t, 20'001> milliseconds{};  // how many answers took that long
};

class Load {
 public:
  explicit Load(Plan plan) : plan_(std::move(plan)), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = STDIN_FILENO;
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, STDIN_FILENO, &event);
  }

  void run() {
    std::printf("running\n");
    std::fflush(stdout);
    const Clock::time_point begin = Clock::now();
    start_ = begin;
    while (!ended_ || busy_ > 0) {
      epoll_event events[256];
      const int count = ::epoll_wait(epoll_, events, 256, 1);
      for (int i = 0; i < count; ++i) {
        if (events[i].data.fd == STDIN_FILENO) {
          if (!ended_) took_ = Seconds(Clock::now() - begin).count();
          ended_ = true;
          ::epoll_ctl(epoll_, EPOLL_CTL_DEL, STDIN_FILENO, nullptr);
        } else {
          onEvent(events[i].data.fd, events[i].events);
        }
      }
      const Clock::time_point now = Clock::now();
      if (!ended_) sendDue(now);
      if (now - swept_ > std::chrono::milliseconds(100)) failLate(now);
    }
    tell();
  }

 private:
  void sendDue(Clock::time_point now) {
    // Behind its time it goes on from now: no burst.
    const double due = Seconds(now - start_).count() * plan_.rate;
    if (due > turn_ + plan_.rate / 10) {
      turn_ = 0;
      start_ = now;
      return;
    }
    for (; turn_ < due; turn_ += 1) {
      share_ += plan_.fresh;
      const bool fresh = share_ >= 1;
      if (fresh) share_ -= 1;
      if (fresh ? freshOnes_ < kMostFresh : idle_.empty() && keptOnes_ < plan_.kept) {
        open(!fresh, now);
      } else if (!fresh && !idle_.empty()) {
        Connection& c = connections_.at(idle_.back());
        idle_.pop_back();
        ask(c, now);
        onEvent(c.fd, EPOLLOUT);
      }
    }
  }

  void ask(Connection& c, Clock::time_point now) {
    c.busy = true;
    c.out = c.kept ? plan_.request : plan_.requestAndClose;
    c.began = now;
    ++counts_.sent;
    ++busy_;
  }

  void open(bool kept, Clock::time_point now) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    const int one = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    Connection& c = connections_[fd];
    c.fd = fd;
    c.kept = kept;
    c.opened = now;
    ++(kept ? keptOnes_ : freshOnes_);
    ++counts_.opened;
    ask(c, now);
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    event.data.fd = fd;
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&plan_.to), sizeof plan_.to) != 0 && errno != EINPROGRESS)
      fail(c, std::string("connect: ") + std::strerror(errno));
  }

  void close(Connection& c) {
    if (!c.busy) std::erase(idle_, c.fd);
    if (c.busy) --busy_;
    --(c.kept ? keptOnes_ : freshOnes_);
    ::close(c.fd);
    connections_.erase(c.fd);
  }

  void fail(Connection& c, const std::string& what) {
    ++counts_.failed;
    if (told_.size() < kMostTold) {
      const Seconds took = Clock::now() - c.began, age = Clock::now() - c.opened;
      const Seconds wall = std::chrono::system_clock::now().time_since_epoch();
      char line[256];
      std::snprintf(line, sizeof line, "failed %.3f %.0f %.3f %s request %d of its connection: %.150s",
                    (wall - took).count(), took.count() * 1000, (wall - age).count(), c.kept ? "kept" : "fresh",
                    c.answers + 1, what.c_str());
      told_.emplace_back(line);
    }
    close(c);
  }

  void failLate(Clock::time_point now) {
    swept_ = now;
    std::vector<int> late;
    for (const auto& [fd, c] : connections_)
      if (c.busy && now - c.began > kLimit) late.push_back(fd);
    for (int fd : late) {
      Connection& c = connections_.at(fd);
      fail(c,
           c.connecting ? "not connected in time" : "not answered in time, " + std::to_string(c.in.size()) + " bytes");
    }
  }

  void onEvent(int fd, uint32_t events) {
    auto found = connections_.find(fd);
    if (found == connections_.end()) return;
    Connection& c = found->second;
    if (c.connecting && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) {
      int error = 0;
      socklen_t length = sizeof error;
      ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
      if (error != 0) return fail(c, std::string("connect: ") + std::strerror(error));
      c.connecting = false;
    }
    if (c.connecting) return;
    while (!c.out.empty()) {
      const ssize_t n = ::send(fd, c.out.data(), c.out.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) break;
      if (n < 0) return fail(c, std::string("send: ") + std::strerror(errno));
      c.out.erase(0, static_cast<size_t>(n));
    }
    while (true) {
      char buffer[16 << 10];
      const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
      if (n < 0 && errno == EAGAIN) return;
      if (n <= 0) {
        if (!c.busy) return close(c);
        const std::string why = n == 0 ? "closed" : std::strerror(errno);
        return fail(c, c.in.empty() ? why + " before an answer" : why + " within an answer");
      }
      if (!c.busy) return close(c);  // nobody asked
      c.in.append(buffer, static_cast<size_t>(n));
      if (!takeAnswer(c)) return;
    }
  }

  // False: the connection is gone.
  bool takeAnswer(Connection& c) {
    const size_t end = c.in.find("\r\n\r\n");
    if (end == std::string::npos) {
      if (c.in.size() <= kLongestAnswer) return true;
      return fail(c, "too long an answer"), false;
    }
    std::string head = c.in.substr(0, end + 2);
    std::transform(head.begin(), head.end(), head.begin(), [](unsigned char x) { return std::tolower(x); });
    const size_t length = head.find("\r\ncontent-length:");
    const size_t size = length == std::string::npos ? 0 : std::strtoull(head.c_str() + length + 17, nullptr, 10);
    if (size > kLongestAnswer) return fail(c, "too long an answer"), false;
    if (c.in.size() < end + 4 + size) return true;
    const std::string_view body = std::string_view(c.in).substr(end + 4, size);
    if (!head.starts_with("http/1.1 200 ") || !body.starts_with(plan_.expected)) {
      std::string what = c.in.substr(0, c.in.find("\r\n")) + ", " + std::string(body);
      std::replace(what.begin(), what.end(), '\n', ' ');
      return fail(c, what), false;
    }
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - c.began).count();
    ++counts_.milliseconds[static_cast<size_t>(std::clamp<int64_t>(took, 0, counts_.milliseconds.size() - 1))];
    ++counts_.answered;
    ++c.answers;
    c.in.clear();
    if (!c.kept || ended_ || head.find("\r\nconnection: close") != std::string::npos) return close(c), false;
    c.busy = false;
    --busy_;
    idle_.insert(idle_.begin(), c.fd);  // the one that is idle for longest is next
    return true;
  }

  int64_t within(double part) const {
    uint64_t sum = 0;
    for (size_t i = 0; i < counts_.milliseconds.size(); ++i) {
      sum += counts_.milliseconds[i];
      if (static_cast<double>(sum) >= part * static_cast<double>(counts_.answered)) return static_cast<int64_t>(i);
    }
    return 0;
  }

  void tell() const {
    for (const std::string& line : told_) std::printf("%s\n", line.c_str());
    std::printf(
        "{\"sent\":%lu,\"answered\":%lu,\"failed\":%lu,\"opened\":%lu,\"seconds\":%.3f,\"rate\":%.0f,\"p50\":%ld,"
        "\"p99\":%ld,"
        "\"p999\":%ld,\"longest\":%ld}\n",
        counts_.sent, counts_.answered, counts_.failed, counts_.opened, took_,
        static_cast<double>(counts_.sent) / took_, within(0.5), within(0.99), within(0.999), within(1));
  }

  Plan plan_;
  int epoll_;
  bool ended_ = false;
  double turn_ = 0, share_ = 0, took_ = 1;
  Clock::time_point start_, swept_;
  size_t busy_ = 0, keptOnes_ = 0, freshOnes_ = 0;
  std::unordered_map<int, Connection> connections_;
  std::vector<int> idle_;
  std::vector<std::string> told_;
  Counts counts_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 9) {
    std::fprintf(stderr, "usage: http-load ADDRESS:PORT HOST METHOD PATH EXPECTED RATE KEPT FRESH\n");
    return 2;
  }
  Plan plan;
  const std::string to = argv[1];
  const size_t colon = to.rfind(':');
  plan.to.sin_family = AF_INET;
  if (colon == std::string::npos || ::inet_pton(AF_INET, to.substr(0, colon).c_str(), &plan.to.sin_addr) != 1) {
    std::fprintf(stderr, "%s is no address and port\n", argv[1]);
    return 2;
  }
  plan.to.sin_port = htons(static_cast<uint16_t>(std::atoi(to.c_str() + colon + 1)));
  const std::string method = argv[3];
  const std::string head =
      method + " " + argv[4] + " HTTP/1.1\r\nHost: " + argv[2] + (method == "POST" ? "\r\nContent-Length: 0" : "");
  plan.request = head + "\r\n\r\n";
  plan.requestAndClose = head + "\r\nConnection: close\r\n\r\n";
  plan.expected = argv[5];
  plan.rate = std::atof(argv[6]);
  plan.kept = static_cast<size_t>(std::atoi(argv[7]));
  plan.fresh = std::atof(argv[8]) / 100;
  Load(std::move(plan)).run();
  return 0;
}
