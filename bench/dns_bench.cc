// Answers of the DNS server per second of one core's time, and how long each takes at 50,000 questions a second. The
// server's loop and the one that asks are threads of this process; what is measured is the server's own CPU time.
//   dns-bench [SERVICES [SECONDS]]
#include <arpa/inet.h>
#include <pthread.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <future>
#include <thread>

#include "base/fd.h"
#include "base/loop.h"
#include "network/dns.h"

using namespace dhow;
using Clock = std::chrono::steady_clock;

namespace {

constexpr size_t kWindow = 64;  // questions without an answer yet

double secondsOf(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

std::string question(uint16_t id, const std::string& name, uint16_t type) {
  std::string out{static_cast<char>(id >> 8), static_cast<char>(id & 0xff), 1, 0, 0, 1, 0, 0, 0, 0, 0, 1};
  for (size_t at = 0; at < name.size();) {
    const size_t end = std::min(name.find('.', at), name.size());
    out += static_cast<char>(end - at);
    out += name.substr(at, end - at);
    at = end + 1;
  }
  out += '\0';
  for (uint16_t value : {type, uint16_t{1}}) out += {static_cast<char>(value >> 8), static_cast<char>(value & 0xff)};
  return out + std::string("\0\0\x29\x04\xd0\0\0\0\0\0\0", 11);  // EDNS, as glibc and Go send it
}

struct Load {
  std::vector<std::string> questions;
  UniqueFd socket;
  size_t next = 0;

  void send(uint16_t id) {
    std::string& message = questions[next++ % questions.size()];
    message[0] = static_cast<char>(id >> 8);
    message[1] = static_cast<char>(id & 0xff);
    (void)::send(socket.get(), message.data(), message.size(), 0);
  }
  // The id of an answer; -1: there is none now.
  int receive(int flags) const {
    unsigned char buffer[2048];
    const ssize_t n = ::recv(socket.get(), buffer, sizeof buffer, flags);
    return n < 12 ? -1 : buffer[0] << 8 | buffer[1];
  }
};

// As fast as answers come; gives how many came.
size_t flood(Load& load, std::chrono::seconds span) {
  size_t answers = 0;
  for (size_t i = 0; i < kWindow; i++) load.send(static_cast<uint16_t>(i));
  for (const auto end = Clock::now() + span; Clock::now() < end;) {
    const int id = load.receive(0);
    if (id < 0) break;  // a second without any
    answers++;
    load.send(static_cast<uint16_t>(id));
  }
  while (load.receive(MSG_DONTWAIT) >= 0) {
  }
  return answers;
}

// At a rate, whether answers come or not; gives the time of each answer in microseconds, sorted.
std::vector<double> paced(Load& load, double perSecond, std::chrono::seconds span) {
  std::vector<Clock::time_point> sent(65536);
  std::vector<double> out;
  const auto begin = Clock::now();
  uint64_t asked = 0;
  for (auto now = begin; now < begin + span; now = Clock::now()) {
    const auto due = static_cast<uint64_t>(std::chrono::duration<double>(now - begin).count() * perSecond);
    for (; asked < due; asked++) {
      sent[asked & 0xffff] = Clock::now();
      load.send(static_cast<uint16_t>(asked));
    }
    for (int id = load.receive(MSG_DONTWAIT); id >= 0; id = load.receive(MSG_DONTWAIT))
      out.push_back(std::chrono::duration<double, std::micro>(Clock::now() - sent[static_cast<size_t>(id)]).count());
  }
  std::sort(out.begin(), out.end());
  printf("  %zu of %llu answered\n", out.size(), static_cast<unsigned long long>(asked));
  return out;
}

size_t argument(int argc, char** argv, int index, size_t otherwise) {
  size_t value = otherwise;
  if (argc > index) (void)std::from_chars(argv[index], argv[index] + strlen(argv[index]), value);
  return value;
}

Task<> finish(DnsServer* server, std::promise<void>* done) {
  co_await server->stop();
  done->set_value();
}

}  // namespace

int main(int argc, char** argv) {
  const size_t services = argument(argc, argv, 1, 10000);
  const std::chrono::seconds span(argument(argc, argv, 2, 5));
  ClusterDns cluster({.domain = "cluster.local", .ttl = 5, .reverseRanges = {IpPrefix::parse("10.96.0.0/12").value()}});
  Load plain, headless;
  const IpAddress first = IpAddress::parse("10.96.0.1").value(), pods = IpAddress::parse("10.244.0.1").value();
  for (size_t i = 0; i < services; i++) {
    ClusterDns::Service service{.ns = fmt::format("ns-{}", i % 50), .name = fmt::format("service-{}", i)};
    service.ports = {{"http", Protocol::kTcp, 80}};
    const std::string name = fmt::format("{}.{}.svc.cluster.local", service.name, service.ns);
    if (i % 10 == 0) {
      for (uint64_t k = 0; k < 10; k++) service.endpoints.push_back({pods.plus(i * 10 + k), "", {}});
      headless.questions.push_back(question(0, name, kDnsA));
    } else {
      service.clusterIps = {first.plus(i)};
      plain.questions.push_back(question(0, name, i % 2 ? kDnsA : kDnsAaaa));
    }
    cluster.set(service);
  }
  RealLoop loop;
  Timer keep = loop.after(std::chrono::hours(1), [] {});
  DnsServer server(loop, cluster, {.listen = {{IpAddress::parse("127.0.0.1").value(), 0}}, .forwarding = {}});
  if (auto started = server.start(); !started.ok()) {
    fprintf(stderr, "%s\n", started.error().message().c_str());
    return 1;
  }
  std::thread thread([&] { loop.run(); });
  clockid_t clock{};
  pthread_getcpuclockid(thread.native_handle(), &clock);
  for (auto [label, load] : {std::pair("services", &plain), std::pair("headless, 10 addresses", &headless)}) {
    load->socket = UniqueFd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(server.port());
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    // What the one that asks cannot take in time is not the server's doing.
    const int room = 8 << 20;
    setsockopt(load->socket.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    const timeval limit{1, 0};
    setsockopt(load->socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (::connect(load->socket.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return 1;
    const double before = secondsOf(clock);
    const size_t answers = flood(*load, span);
    const double used = secondsOf(clock) - before;
    printf("%s, %zu in all: %.0f answers a second of one core (%.2f us each), %.0f a second here\n", label, services,
           static_cast<double>(answers) / used, used / static_cast<double>(answers) * 1e6,
           static_cast<double>(answers) / static_cast<double>(span.count()));
    const double again = secondsOf(clock);
    const auto times = paced(*load, 50000, span);
    if (times.empty()) return 1;
    auto at = [&](double share) { return times[static_cast<size_t>(share * static_cast<double>(times.size() - 1))]; };
    printf("  at 50,000 a second: median %.0f us, p99 %.0f us, p99.9 %.0f us; %.0f %% of one core\n", at(0.5), at(0.99),
           at(0.999), (secondsOf(clock) - again) / static_cast<double>(span.count()) * 100);
  }
  std::promise<void> stopped;
  loop.post([&] { spawn(loop, finish(&server, &stopped)); });
  stopped.get_future().wait();
  loop.stop();
  thread.join();
  return 0;
}
