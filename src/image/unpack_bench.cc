// Unpacks a layer (tar, gzip or zstd) into a folder and tells how fast: image_bench LAYER FOLDER [ROUNDS]. Root only.
#include <fcntl.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/files.h"
#include "byte_source.h"
#include "unpack.h"

int main(int argc, char** argv) {
  using namespace dhow;
  if (argc < 3) {
    std::fprintf(stderr, "usage: image_bench LAYER FOLDER [ROUNDS]\n");
    return 2;
  }
  int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
  for (int i = 0; i < rounds; ++i) {
    std::string folder = std::string(argv[2]) + "/unpacked";
    if (!removeTree(folder).ok() || !makeDirs(folder).ok()) return 1;
    auto start = std::chrono::steady_clock::now();
    UniqueFd fd(::open(argv[1], O_RDONLY | O_CLOEXEC));
    auto plain = image::decompressed(image::fileSource(std::move(fd)));
    image::HashingSource tar(image::readAhead(std::move(plain)));
    auto done = image::unpackTar(tar, folder);
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!done.ok()) {
      std::fprintf(stderr, "%s\n", done.error().message().c_str());
      return 1;
    }
    std::printf("%.3f s, %.0f MB/s of tar, %llu entries, diff id %s\n", seconds,
                static_cast<double>(tar.count()) / seconds / 1e6, static_cast<unsigned long long>(done->entries),
                tar.digest().c_str());
    if (!removeTree(folder).ok()) return 1;
  }
  return 0;
}
