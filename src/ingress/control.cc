#include "control.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "base/strings.h"

namespace dhow::ingress {

namespace {

constexpr time_t kPatienceSeconds = 5;

}  // namespace

std::string word(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == ';' || c == ' ' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

Result<std::string> exchange(const std::string& socket, std::string_view request, size_t limit) {
  struct sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) return Error(Code::kInvalid, socket + " is too long for a socket");
  std::memcpy(address.sun_path, socket.data(), socket.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return Error::fromErrno(errno, "socket");
  const struct timeval patience{kPatienceSeconds, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return Error::fromErrno(errno, "connect to HAProxy at " + socket);
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t count = ::send(fd.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Error::fromErrno(errno, "write to HAProxy");
    sent += static_cast<size_t>(count);
  }
  // Or else a master process waits for more.
  ::shutdown(fd.get(), SHUT_WR);
  std::string answer;
  char buffer[8192];
  while (answer.size() < limit) {
    const ssize_t count = ::recv(fd.get(), buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Error::fromErrno(errno, "read from HAProxy");
    if (count == 0) break;
    answer.append(buffer, static_cast<size_t>(count));
  }
  return answer;
}

Result<std::string> Control::ask(const std::string& command, const std::string& payload, size_t longest) const {
  const std::string request = payload.empty() ? command + "\n" : command + " <<\n" + payload + "\n";
  ASSIGN_OR_RETURN(std::string answer, exchange(socket_, request, longest));
  return std::string(trim(answer));
}

Result<> Control::tell(const std::string& command) const {
  ASSIGN_OR_RETURN(std::string answer, ask(command));
  if (!answer.empty()) return Error(Code::kFailedPrecondition, fmt::format("HAProxy: {}: {}", command, answer));
  return {};
}

Result<> Control::tell(const std::string& command, const std::string& payload, std::string_view done) const {
  ASSIGN_OR_RETURN(std::string answer, ask(command, payload));
  for (const std::string& one : split(done, '|'))
    if (answer.find(one) != std::string::npos) return {};
  return Error(Code::kFailedPrecondition, fmt::format("HAProxy: {}: {}", command, answer));
}

}  // namespace dhow::ingress
