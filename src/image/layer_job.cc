// A layer from the registry to an unpacked folder: bytes are written and hashed as they come while another thread
// inflates, hashes and unpacks what is on disk already. Each blob once, however many pulls want it.
#include <fcntl.h>
#include <algorithm>

#include "base/log.h"
#include "store_rep.h"

namespace dhow::image {

namespace {

constexpr size_t kPiece = 512 << 10;
constexpr Duration kProgressEvery = std::chrono::milliseconds(100);

// Tells from the unpacking thread how far it has come.
class ReportingSource final : public ByteSource {
 public:
  ReportingSource(std::unique_ptr<ByteSource> inner, uint64_t total, std::function<void(uint64_t)> report)
      : inner_(std::move(inner)), step_(std::max<uint64_t>(total / 20, 1 << 20)), report_(std::move(report)) {}
  Result<size_t> read(std::span<char> into) override {
    ASSIGN_OR_RETURN(size_t n, inner_->read(into));
    read_ += n;
    if (read_ - told_ >= step_) {
      told_ = read_;
      report_(read_);
    }
    return n;
  }

 private:
  std::unique_ptr<ByteSource> inner_;
  uint64_t step_, read_ = 0, told_ = 0;
  std::function<void(uint64_t)> report_;
};

Error badLayer(const std::string& digest) {
  return Error(Code::kDataLoss, "filesystem layer verification failed for digest " + digest);
}

}  // namespace

Result<> unpackInto(LayerStore& layers, std::unique_ptr<ByteSource> source, const std::string& diffId) {
  ASSIGN_OR_RETURN(auto staging, layers.begin());
  HashingSource tar(decompressed(std::move(source)));
  ASSIGN_OR_RETURN(auto unpacked, unpackTar(tar, staging.files()));
  std::string found = tar.digest();
  if (found != diffId)
    return Error(Code::kDataLoss, "layer does not match its diff id: expected " + diffId + ", got " + found);
  auto stored = layers.commit(std::move(staging), diffId, unpacked);
  if (!stored.ok()) return std::move(stored).error();
  return {};
}

Task<Result<>> ImageStore::Rep::unpackBlob(std::string blob, std::string diffId) {
  auto work = [this, blob, diffId]() -> Result<> {
    if (layers->find(diffId)) return {};
    ASSIGN_OR_RETURN(auto fd, content->openBlob(blob));
    return unpackInto(*layers, fileSource(std::move(fd)), diffId);
  };
  auto done = co_await unpackPool.run(loop, work);
  co_return done;
}

Task<Result<>> ImageStore::Rep::ensureUnpacked(ImagePtr image) {
  Pins held(this);
  co_await sweepEnded();
  for (const auto& layer : image->layers) held.add(layer.digest);
  for (const auto& diffId : image->config.diffIds) held.add(diffId);
  for (size_t i = 0; i < image->layers.size() && i < image->config.diffIds.size(); ++i) {
    auto done = co_await unpackBlob(image->layers[i].digest, image->config.diffIds[i]);
    if (!done.ok()) co_return std::move(done).error().wrap("unpack layer " + image->layers[i].digest);
  }
  gate.spawn(syncLayers());
  co_return Result<>();
}

Task<Result<>> ImageStore::Rep::fetchLayer(std::shared_ptr<RegistryClient> client, Descriptor blob, std::string diffId,
                                           Progress progress, std::function<bool()> cancelled) {
  std::string shortId = shortDigest(blob.digest);
  auto tell = [&](const char* status) {
    if (progress) progress(ProgressEvent{shortId, status, 0, 0});
  };
  if (content->has(blob.digest) && layers->find(diffId)) {
    tell("Already exists");
    co_return Result<>();
  }
  std::shared_ptr<LayerJob> job;
  if (auto it = jobs.find(blob.digest); it != jobs.end() && it->second->diffId == diffId) {
    job = it->second;
    if (progress && !job->last.status.empty()) progress(job->last);
  } else {
    job = std::make_shared<LayerJob>(loop);
    job->blob = blob;
    job->diffId = diffId;
    job->shortId = shortId;
    jobs[blob.digest] = job;
  }
  bool isNew = job->nextWatcher == 0;
  int watcher = job->nextWatcher++;
  if (progress) job->watchers[watcher] = progress;
  ++job->interested;
  if (isNew) gate.spawn(runLayer(job, client));
  if (gate.closed()) co_return Error(Code::kCancelled, "the image store is stopping");
  while (!job->done) {
    // Cancellation is asked for by the downloads' pace; a stalled one is asked once a second.
    bool ended = co_await job->ended.waitFor(std::chrono::seconds(1));
    if (!ended && !job->done && ((cancelled && cancelled()) || stopping)) break;
  }
  --job->interested;
  job->watchers.erase(watcher);
  if (!job->done) co_return Error(Code::kCancelled, "the pull was cancelled");
  if (job->problem) co_return *job->problem;
  co_return Result<>();
}

Task<> ImageStore::Rep::runLayer(std::shared_ptr<LayerJob> job, std::shared_ptr<RegistryClient> client) {
  Pins held(this);
  co_await sweepEnded();
  held.add(job->blob.digest);
  held.add(job->diffId);
  job->tell({.status = "Pulling fs layer"});
  Result<> done;
  if (content->has(job->blob.digest)) {
    job->tell({.status = "Extracting", .current = job->blob.size, .total = job->blob.size});
    done = co_await unpackBlob(job->blob.digest, job->diffId);
  } else {
    if (!downloads.available()) job->tell({.status = "Waiting"});
    auto slot = co_await downloads.take();
    done = co_await downloadLayer(job, client, std::move(slot));
  }
  if (done.ok()) job->tell({.status = "Pull complete"});
  if (!done.ok()) job->problem = done.error();
  job->done = true;
  if (auto it = jobs.find(job->blob.digest); it != jobs.end() && it->second == job) jobs.erase(it);
  job->ended.notify();
}

namespace {

// The unpacking half, on its own thread.
struct Unpacking {
  explicit Unpacking(Loop& loop) : ended(loop) {}
  Signal ended;
  bool done = false;
  Result<> result;
};

Task<> runUnpacking(std::shared_ptr<Unpacking> state, BlockingPool* pool, Loop* loop, std::function<Result<>()> work) {
  state->result = co_await pool->run(*loop, std::move(work));
  state->done = true;
  state->ended.notify();
}

}  // namespace

Task<Result<>> ImageStore::Rep::downloadLayer(std::shared_ptr<LayerJob> job, std::shared_ptr<RegistryClient> client,
                                              Permits::Held slot) {
  auto begun = content->begin();
  if (!begun.ok()) co_return std::move(begun).error();
  auto ingest = std::make_shared<ContentStore::Ingest>(std::move(*begun));
  auto growth = std::make_shared<Growth>();
  const std::string digest = job->blob.digest;
  const auto total = static_cast<uint64_t>(job->blob.size);

  auto unpacking = std::make_shared<Unpacking>(loop);
  if (layers->find(job->diffId)) {
    unpacking->done = true;
  } else {
    UniqueFd reader(::open(ingest->path().c_str(), O_RDONLY | O_CLOEXEC));
    if (!reader) co_return Error::fromErrno("open " + ingest->path());
    auto shared = std::make_shared<UniqueFd>(std::move(reader));
    std::weak_ptr<LayerJob> weak = job;
    auto report = [this, weak, total](uint64_t current) {
      loop.post([weak, current, total] {
        auto strong = weak.lock();
        if (strong && !strong->done && strong->last.status != "Downloading")
          strong->tell(
              {.status = "Extracting", .current = static_cast<int64_t>(current), .total = static_cast<int64_t>(total)});
      });
    };
    auto work = [this, shared, growth, report, total, diffId = job->diffId]() -> Result<> {
      auto source = std::make_unique<ReportingSource>(growingFileSource(std::move(*shared), growth), total, report);
      return unpackInto(*layers, std::move(source), diffId);
    };
    gate.spawn(runUnpacking(unpacking, &unpackPool, &loop, work));
  }

  std::optional<Error> problem;
  std::vector<char> buffer(kPiece);
  TimePoint told = loop.now() - kProgressEvery;
  for (int attempt = 1; !problem;) {
    auto opened = co_await client->openBlob(digest, ingest->size());
    std::optional<Error> broken;
    if (!opened.ok()) broken = opened.error();
    uint64_t skip = opened.ok() ? opened->skip : 0;
    uint64_t before = ingest->size();
    while (!broken) {
      if (stopping || job->interested == 0 || gate.closed()) {
        problem = Error(Code::kCancelled, "the pull was cancelled");
        break;
      }
      // Damaged bytes are read to their end, so that the digest tells; a full disk ends it now.
      if (unpacking->done && !unpacking->result.ok() && unpacking->result.error().errnum() != 0) {
        problem = unpacking->result.error();
        break;
      }
      // Pieces are gathered, so that the disk sees few large writes.
      size_t filled = 0;
      bool ended = false;
      while (filled < buffer.size() / 2 && !ended) {
        auto n = co_await opened->body->read({buffer.data() + filled, buffer.size() - filled});
        if (!n.ok()) {
          broken = n.error();
          break;
        }
        ended = *n == 0;
        filled += *n;
      }
      std::string_view bytes(buffer.data(), filled);
      auto dropped = std::min<uint64_t>(skip, bytes.size());
      bytes.remove_prefix(dropped);
      skip -= dropped;
      if (ingest->size() + bytes.size() > total) {
        problem = badLayer(digest);
        break;
      }
      if (!bytes.empty()) {
        auto work = [ingest, bytes] { return ingest->write(bytes); };
        auto written = co_await pool.run(loop, work);
        if (!written.ok()) {
          problem = std::move(written).error();
          break;
        }
        growth->advance(ingest->size());
      }
      if (loop.now() - told >= kProgressEvery) {
        told = loop.now();
        job->tell({.status = "Downloading", .current = static_cast<int64_t>(ingest->size()), .total = job->blob.size});
      }
      if (ended && !broken && ingest->size() < total) broken = Error(Code::kUnavailable, "unexpected EOF");
      if (ended) break;
    }
    if (problem || !broken) break;
    if (ingest->size() > before) attempt = 1;  // it goes on, if slowly
    if (!opened.ok() && !client->mayRetry(*broken)) {
      problem = std::move(broken);
    } else if (attempt >= client->attempts()) {
      problem = broken->wrap("download layer " + digest);
    } else {
      job->tell({.status = "Retrying after attempt " + std::to_string(attempt)});
      co_await client->backOff(attempt, *broken);
      ++attempt;
    }
  }

  if (!problem) {
    job->tell({.status = "Verifying Checksum"});
    auto work = [ingest, digest] { return ingest->finish(digest); };
    auto stored = co_await pool.run(loop, work);
    if (!stored.ok()) problem = std::move(stored).error();
  }
  slot.release();
  // The unpacker is let to its end only when the bytes are what they should be.
  growth->end(!problem);
  if (!problem) {
    job->tell({.status = "Download complete"});
    if (!unpacking->done) job->tell({.status = "Extracting", .current = job->blob.size, .total = job->blob.size});
  }
  while (!unpacking->done) co_await unpacking->ended.wait();
  if (problem) co_return std::move(*problem);
  co_return std::move(unpacking->result);
}

}  // namespace dhow::image
