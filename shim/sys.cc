#include "sys.h"

#include <linux/time_types.h>

extern "C" {
void* memcpy(void* to, const void* from, size_t n) {
#if defined(__x86_64__)
  void* result = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return result;
#else
  auto* t = static_cast<char*>(to);
  auto* f = static_cast<const char*>(from);
  while (n--) *t++ = *f++;
  return to;
#endif
}
void* memmove(void* to, const void* from, size_t n) {
  if (to <= from) return memcpy(to, from, n);
  auto* t = static_cast<char*>(to);
  auto* f = static_cast<const char*>(from);
  while (n--) t[n] = f[n];
  return to;
}
void* memset(void* to, int value, size_t n) {
  auto* t = static_cast<volatile char*>(to);
  while (n--) *t++ = static_cast<char>(value);
  return to;
}
int memcmp(const void* a, const void* b, size_t n) {
  auto* x = static_cast<const unsigned char*>(a);
  auto* y = static_cast<const unsigned char*>(b);
  for (; n; --n, ++x, ++y) {
    if (*x != *y) return *x < *y ? -1 : 1;
  }
  return 0;
}
size_t strlen(const char* s) {
  const char* end = s;
  while (*end) ++end;
  return static_cast<size_t>(end - s);
}
}

int64_t sys::wallNanos() {
  __kernel_timespec now{};
  nr<__NR_clock_gettime>(0, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

Text& Text::number(int64_t value, int width) {
  char digits[24];
  int n = 0;
  bool negative = value < 0;
  uint64_t left = negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  do digits[n++] = static_cast<char>('0' + left % 10);
  while (left /= 10);
  while (n < width) digits[n++] = '0';
  if (negative) *this << "-";
  while (n > 0) {
    char one[2] = {digits[--n], 0};
    *this << one;
  }
  return *this;
}
