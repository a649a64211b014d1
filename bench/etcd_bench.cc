// Writes per second through EtcdStore, for comparison with `etcdctl check perf` against the same members: the same size
// of value, the same number of clients, each with one write under way.
#include <cstdio>
#include <cstdlib>

#include "base/gate.h"
#include "store/etcd_store.h"

namespace {

using namespace dhow;
using namespace dhow::store;

struct Counts {
  long done = 0;
  long failed = 0;
  bool stop = false;
};

Task<> write(EtcdStore* store, int writer, Counts* counts) {
  auto value = std::make_shared<const std::string>(1024, 'v');
  for (long i = 0; !counts->stop; ++i) {
    Txn txn;
    txn.operations.push_back({Operation::Type::kPut, fmt::format("/bench/{}/{}", writer, i % 1000), {value, nullptr}});
    auto written = co_await store->txn(std::move(txn));
    if (written.ok()) {
      ++counts->done;
    } else {
      ++counts->failed;
      std::fprintf(stderr, "%s\n", written.error().message().c_str());
      counts->stop = true;
    }
  }
}

Task<> run(Loop* loop, EtcdOptions options, int writers, int seconds, int* code) {
  auto store = co_await EtcdStore::open(*loop, std::move(options));
  if (!store.ok()) {
    std::fprintf(stderr, "%s\n", store.error().message().c_str());
    *code = 1;
    co_return;
  }
  Counts counts;
  Gate gate(*loop);
  TimePoint begin = loop->now();
  for (int i = 0; i < writers; ++i) gate.spawn(write(store->get(), i, &counts));
  co_await loop->sleep(std::chrono::seconds(seconds));
  double took = std::chrono::duration<double>(loop->now() - begin).count();
  long done = counts.done;
  counts.stop = true;
  co_await gate.close();
  std::printf("%d writers: %.0f writes/s, %ld failed\n", writers, static_cast<double>(done) / took, counts.failed);
  co_await (*store)->close();
}

Task<bool> runAll(Loop* loop, EtcdOptions options, int writers, int seconds, int* code) {
  co_await run(loop, std::move(options), writers, seconds, code);
  co_return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: etcd-bench URL [WRITERS [SECONDS]]\n");
    return 2;
  }
  RealLoop loop;
  EtcdOptions options;
  options.endpoints = {argv[1]};
  int code = 0;
  runOn(loop, runAll(&loop, std::move(options), argc > 2 ? std::atoi(argv[2]) : 200, argc > 3 ? std::atoi(argv[3]) : 10,
                     &code));
  return code;
}
