#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "store_rep.h"

namespace dhow::image {
namespace {

// A blob's file as a request body.
class BlobBody final : public http::BodyReader {
 public:
  BlobBody(Loop& loop, BlockingPool& pool, UniqueFd fd, std::function<void(size_t)> sent,
           std::function<bool()> cancelled)
      : loop_(loop), pool_(pool), fd_(std::move(fd)), sent_(std::move(sent)), cancelled_(std::move(cancelled)) {}
  Task<Result<size_t>> read(std::span<char> into) override {
    if (cancelled_()) co_return Error(Code::kCancelled, "the push was cancelled");
    if (begin_ == end_) {
      auto work = [this] { return ::read(fd_.get(), buffer_.data(), buffer_.size()); };
      ssize_t n = co_await pool_.run(loop_, work);
      if (n < 0) co_return Error(Code::kInternal, "read blob failed");
      begin_ = 0;
      end_ = static_cast<size_t>(n);
    }
    size_t n = std::min(into.size(), end_ - begin_);
    std::copy_n(buffer_.data() + begin_, n, into.data());
    begin_ += n;
    sent_(n);
    co_return n;
  }

 private:
  Loop& loop_;
  BlockingPool& pool_;
  UniqueFd fd_;
  std::function<void(size_t)> sent_;
  std::function<bool()> cancelled_;
  std::vector<char> buffer_ = std::vector<char>(512 << 10);
  size_t begin_ = 0, end_ = 0;
};

struct PushState {
  explicit PushState(Loop& loop) : changed(loop) {}
  Signal changed;
  size_t left = 0;
  std::optional<Error> problem;
};

Task<Result<>> pushBlob(ImageStore::Rep* rep, std::shared_ptr<PushState> state, std::shared_ptr<RegistryClient> client,
                        Descriptor blob, Progress progress, std::function<bool()> cancelled) {
  std::string id = shortDigest(blob.digest);
  auto tell = [progress, id](std::string status, int64_t current, int64_t total) {
    if (progress) progress(ProgressEvent{id, std::move(status), current, total});
  };
  tell("Preparing", 0, 0);
  if (!rep->uploads.available()) tell("Waiting", 0, 0);
  auto slot = co_await rep->uploads.take();
  if (state->problem || cancelled()) co_return Error(Code::kCancelled, "the push was cancelled");
  auto present = co_await client->hasBlob(blob.digest);
  if (!present.ok()) co_return std::move(present).error();
  if (*present) {
    tell("Layer already exists", 0, 0);
    co_return Result<>();
  }
  auto giveUp = [state, cancelled] { return state->problem.has_value() || cancelled(); };
  auto factory = [rep, blob, tell, giveUp]() -> Result<std::unique_ptr<http::BodyReader>> {
    ASSIGN_OR_RETURN(auto fd, rep->content->openBlob(blob.digest));
    auto current = std::make_shared<int64_t>(0);
    auto told = std::make_shared<TimePoint>();
    auto sent = [rep, tell, current, told, total = blob.size](size_t n) {
      *current += static_cast<int64_t>(n);
      if (rep->loop.now() - *told < std::chrono::milliseconds(100)) return;
      *told = rep->loop.now();
      tell("Pushing", *current, total);
    };
    return std::unique_ptr<http::BodyReader>(
        std::make_unique<BlobBody>(rep->loop, rep->pool, std::move(fd), sent, giveUp));
  };
  auto done = co_await client->upload(blob.digest, static_cast<uint64_t>(blob.size), factory);
  if (!done.ok()) co_return std::move(done).error();
  tell("Pushed", 0, 0);
  co_return Result<>();
}

Task<> pushOne(ImageStore::Rep* rep, std::shared_ptr<PushState> state, std::shared_ptr<RegistryClient> client,
               Descriptor blob, Progress progress, std::function<bool()> cancelled) {
  auto done = co_await pushBlob(rep, state, client, std::move(blob), std::move(progress), std::move(cancelled));
  if (!done.ok() && !state->problem) state->problem = done.error();
  --state->left;
  state->changed.notify();
}

}  // namespace

Task<Result<Pushed>> ImageStore::push(Reference asked, PushOptions options) {
  Reference reference = asked.withDefaultTag();
  if (!reference.digest.empty()) co_return Error(Code::kBadRequest, "cannot push a digest reference");
  auto found = rep_->find(reference.familiar());
  if (!found.ok())
    co_return Error(Code::kNotFound, "An image does not exist locally with the tag: " + reference.familiarName());
  ImagePtr image = std::move(*found);
  if (options.progress)
    options.progress(ProgressEvent{"", "The push refers to repository [" + reference.name() + "]", 0, 0});

  Rep::Pins held(rep_.get());
  co_await rep_->sweepEnded();
  auto client = std::make_shared<RegistryClient>(rep_->loop, rep_->access(), reference, options.credentials);
  CO_ASSIGN_OR_RETURN(auto manifestText, rep_->content->read(image->manifestDigest, kMaxDocument));
  CO_ASSIGN_OR_RETURN(auto manifest, parseManifest(manifestText));
  held.add(image->manifestDigest);
  held.add(manifest.config.digest);
  std::vector<Descriptor> blobs{};
  std::set<std::string> seen;
  for (const auto& layer : manifest.layers) {
    held.add(layer.digest);
    if (seen.insert(layer.digest).second) blobs.push_back(layer);
  }
  auto cancelled = [this, asked = options.cancelled] { return rep_->stopping || (asked && asked()); };
  auto state = std::make_shared<PushState>(rep_->loop);
  state->left = blobs.size();
  for (const auto& blob : blobs)
    rep_->gate.spawn(pushOne(rep_.get(), state, client, blob, options.progress, cancelled));
  if (rep_->gate.closed()) co_return Error(Code::kCancelled, "the image store is stopping");
  while (state->left > 0) co_await state->changed.wait();
  if (state->problem) co_return std::move(*state->problem);
  auto config = co_await pushBlob(rep_.get(), state, client, manifest.config, Progress(), cancelled);
  if (!config.ok()) co_return std::move(config).error();
  auto put = co_await client->putManifest(reference.tag, manifest.mediaType, manifestText);
  if (!put.ok()) co_return std::move(put).error();

  Pushed out{reference.tag, image->manifestDigest, static_cast<int64_t>(manifestText.size())};
  std::string digestName = reference.name() + "@" + image->manifestDigest, id = image->id;
  auto change = [digestName, id](Records& all) -> Result<> {
    if (auto it = all.find(id); it != all.end()) it->second.digests.insert(digestName);
    return {};
  };
  auto recorded = co_await rep_->update(change);
  if (!recorded.ok()) co_return std::move(recorded).error();
  if (options.progress)
    options.progress(
        ProgressEvent{"", out.tag + ": digest: " + out.digest + " size: " + std::to_string(out.size), 0, 0});
  co_return out;
}

}  // namespace dhow::image
