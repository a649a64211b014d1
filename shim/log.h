// Container logs in CRI format, written line by line with rotation by size.
#pragma once

#include <stddef.h>
#include <stdint.h>

constexpr size_t kMaxLine = 16 << 10;  // longer lines are cut into partial ones

struct Log {
  int fd = -1;
  bool torn = false;     // the last write was cut short: the next one starts on a new line
  uint64_t size = 0;     // of the live file
  uint64_t maxSize = 0;  // 0: no rotation
  uint32_t maxFiles = 1;
  char path[1024] = {};
  struct Carry {
    size_t size = 0;
    char data[kMaxLine];
  } carry[2];  // unfinished lines of stdout and stderr

  long open();  // at `path`, appending
  void close();
  long reopen();
  // Bytes of stream `which` (0 stdout, 1 stderr); whole lines are written at once.
  void take(int which, const char* bytes, size_t n);
  void finish(int which);  // the stream has ended: what is left is written as a partial line

 private:
  void write(const char* bytes, size_t n);
  void rotate();
};
