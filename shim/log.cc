#include "log.h"

#include <linux/fcntl.h>

#include "sys.h"

namespace {

char batch[160 << 10];  // what goes to the file in one write
size_t used = 0;
char stamp[40];  // "2026-01-01T00:00:00.000000000Z "
int64_t stampedSecond = -1;

void formatStamp(int64_t nanos) {
  int64_t second = nanos / 1000000000;
  constexpr size_t kFraction = 20;  // what stands before it is the second's
  if (second != stampedSecond) {
    Text text(stamp, sizeof stamp);
    // Days to a date: H. Hinnant, "chrono-compatible low-level date algorithms".
    int64_t days = second / 86400 + 719468, rest = second % 86400;
    int64_t era = days / 146097, dayOfEra = days % 146097;
    int64_t year = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146096) / 365;
    int64_t dayOfYear = dayOfEra - (365 * year + year / 4 - year / 100);
    int64_t shifted = (5 * dayOfYear + 2) / 153;
    int64_t month = shifted < 10 ? shifted + 3 : shifted - 9;
    text.number(year + era * 400 + (month <= 2), 4) << "-";
    text.number(month, 2) << "-";
    text.number(dayOfYear - (153 * shifted + 2) / 5 + 1, 2) << "T";
    text.number(rest / 3600, 2) << ":";
    text.number(rest / 60 % 60, 2) << ":";
    text.number(rest % 60, 2) << ".";
    stampedSecond = second;
  }
  Text(stamp + kFraction, sizeof stamp - kFraction).number(nanos % 1000000000, 9) << "Z ";
}

void append(const char* bytes, size_t n) {
  memcpy(batch + used, bytes, n);
  used += n;
}

}  // namespace

long Log::open() {
  if (!path[0]) return 0;
  long opened = sys::open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
  if (opened < 0) return opened;
  fd = static_cast<int>(opened);
  long end = sys::nr<__NR_lseek>(fd, 0, 2);
  size = end > 0 ? static_cast<uint64_t>(end) : 0;
  return 0;
}

void Log::close() {
  if (fd >= 0) sys::close(fd);
  fd = -1;
}

long Log::reopen() {
  int old = fd;
  long r = open();
  if (r < 0)
    fd = old;
  else if (old >= 0)
    sys::close(old);
  return r;
}

// The new file is made first: a full disk must not push the kept files out one by one.
void Log::rotate() {
  char next[1040], from[1040], to[1040];
  Text(next, sizeof next).operator<<(path).operator<<(".next");
  long made = sys::open(next, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
  if (made < 0) return;
  for (uint32_t i = maxFiles - 1; i > 0; --i) {
    Text(to, sizeof to).operator<<(path).operator<<(".").number(i);
    Text source(from, sizeof from);
    source << path;
    if (i > 1) (source << ".").number(i - 1);
    sys::nr<__NR_renameat2>(AT_FDCWD, from, AT_FDCWD, to, 0);
  }
  sys::nr<__NR_renameat2>(AT_FDCWD, next, AT_FDCWD, path, 0);
  sys::close(fd);
  fd = static_cast<int>(made);
  size = 0;
}

void Log::write(const char* bytes, size_t n) {
  if (fd < 0 || n == 0) return;
  if (maxSize && size > 0 && size + n > maxSize) rotate();
  if (torn) {
    if (sys::write(fd, "\n", 1) != 1) return;
    torn = false;
  }
  long written = sys::write(fd, bytes, n);
  // A full disk costs lines, never the container's progress.
  if (written > 0) size += static_cast<uint64_t>(written);
  if (written > 0 && static_cast<size_t>(written) < n) torn = true;
}

void Log::take(int which, const char* bytes, size_t n) {
  if (fd < 0) return;
  formatStamp(sys::wallNanos());
  const char* name = which ? "stderr " : "stdout ";
  Carry& left = carry[which];
  while (n > 0) {
    size_t room = kMaxLine - left.size;
    size_t length = 0;
    size_t limit = n < room ? n : room;
    while (length < limit && bytes[length] != '\n') ++length;
    bool whole = length < n && bytes[length] == '\n';
    if (!whole && length < room) {
      memcpy(left.data + left.size, bytes, length);
      left.size += length;
      break;
    }
    if (used + left.size + length + 64 > sizeof batch) {
      write(batch, used);
      used = 0;
    }
    append(stamp, 31);
    append(name, 7);
    append(whole ? "F " : "P ", 2);
    append(left.data, left.size);
    append(bytes, length);
    append("\n", 1);
    left.size = 0;
    if (whole) ++length;
    bytes += length;
    n -= length;
    // A rotation goes between lines: a batch must not grow far beyond what a file may hold.
    if (maxSize && size + used > maxSize) {
      write(batch, used);
      used = 0;
    }
  }
  write(batch, used);
  used = 0;
}

void Log::finish(int which) {
  Carry& left = carry[which];
  if (fd < 0 || left.size == 0) return;
  formatStamp(sys::wallNanos());
  append(stamp, 31);
  append(which ? "stderr " : "stdout ", 7);
  append("P ", 2);
  append(left.data, left.size);
  append("\n", 1);
  left.size = 0;
  write(batch, used);
  used = 0;
}
