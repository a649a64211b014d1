// System calls without a C library: each returns a value or -errno. Only what the shim needs.
#pragma once

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

extern "C" {
void* memcpy(void* to, const void* from, size_t n);
void* memmove(void* to, const void* from, size_t n);
void* memset(void* to, int value, size_t n);
int memcmp(const void* a, const void* b, size_t n);
size_t strlen(const char* s);
}

namespace sys {

#if defined(__x86_64__)
inline long call(long n, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
inline long call(long n, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  register long x8 asm("x8") = n;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
}
#else
#error "the shim knows x86-64 and arm64"
#endif

template <class T>
inline long word(T value) {
  return (long)value;
}

// sys::nr<__NR_read>(fd, buffer, size)
template <long N, class... Args>
inline long nr(Args... args) {
  return call(N, word(args)...);
}

inline long close(int fd) {
  return nr<__NR_close>(fd);
}
inline long read(int fd, void* into, size_t n) {
  return nr<__NR_read>(fd, into, n);
}
inline long write(int fd, const void* from, size_t n) {
  return nr<__NR_write>(fd, from, n);
}
inline long open(const char* path, int flags, int mode = 0) {
  return nr<__NR_openat>(-100, path, flags, mode);
}
[[noreturn]] inline void exit(int code) {
  for (;;) nr<__NR_exit_group>(code);
}
int64_t wallNanos();

}  // namespace sys

// Text without a library.
inline bool same(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

// Appends to a fixed buffer, cutting what does not fit; always NUL-terminated.
struct Text {
  char* data;
  size_t capacity;
  size_t size = 0;
  Text(char* buffer, size_t n) : data(buffer), capacity(n) { data[0] = 0; }
  Text& operator<<(const char* s) {
    while (*s && size + 1 < capacity) data[size++] = *s++;
    data[size] = 0;
    return *this;
  }
  Text& number(int64_t value, int width = 0);
};
