#include "byte_source.h"

#include <isa-l/igzip_lib.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

namespace dhow::image {
namespace {

constexpr size_t kPiece = 256 << 10;

class FileSource final : public ByteSource {
 public:
  explicit FileSource(UniqueFd fd) : fd_(std::move(fd)) {}
  Result<size_t> read(std::span<char> into) override {
    while (true) {
      ssize_t n = ::read(fd_.get(), into.data(), into.size());
      if (n >= 0) return static_cast<size_t>(n);
      if (errno != EINTR) return Error::fromErrno("read");
    }
  }

 private:
  UniqueFd fd_;
};

class GrowingFileSource final : public ByteSource {
 public:
  GrowingFileSource(UniqueFd fd, std::shared_ptr<Growth> growth) : fd_(std::move(fd)), growth_(std::move(growth)) {}
  Result<size_t> read(std::span<char> into) override {
    ASSIGN_OR_RETURN(uint64_t available, growth_->waitBeyond(offset_));
    size_t want = std::min<uint64_t>(into.size(), available - offset_);
    if (want == 0) return size_t{0};
    ssize_t n = ::pread(fd_.get(), into.data(), want, static_cast<off_t>(offset_));
    if (n < 0) return Error::fromErrno("read layer");
    offset_ += static_cast<uint64_t>(n);
    return static_cast<size_t>(n);
  }

 private:
  UniqueFd fd_;
  std::shared_ptr<Growth> growth_;
  uint64_t offset_ = 0;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::string bytes) : bytes_(std::move(bytes)) {}
  Result<size_t> read(std::span<char> into) override {
    size_t n = std::min(into.size(), bytes_.size() - offset_);
    std::memcpy(into.data(), bytes_.data() + offset_, n);
    offset_ += n;
    return n;
  }

 private:
  std::string bytes_;
  size_t offset_ = 0;
};

Error damaged(std::string_view what) {
  return Error(Code::kDataLoss, std::string(what));
}

class Decompressing final : public ByteSource {
 public:
  explicit Decompressing(std::unique_ptr<ByteSource> inner) : inner_(std::move(inner)) {}
  ~Decompressing() override { ZSTD_freeDStream(zstd_); }

  Result<size_t> read(std::span<char> into) override {
    if (form_ == Form::kUnknown) RETURN_IF_ERROR(detect());
    if (form_ == Form::kGzip) return readGzip(into);
    if (form_ == Form::kZstd) return readZstd(into);
    if (begin_ == end_) return inner_->read(into);
    size_t n = std::min(into.size(), end_ - begin_);
    std::memcpy(into.data(), buffer_.data() + begin_, n);
    begin_ += n;
    return n;
  }

 private:
  enum class Form { kUnknown, kPlain, kGzip, kZstd };

  Result<> detect() {
    buffer_.resize(kPiece);
    while (end_ < 4) {
      ASSIGN_OR_RETURN(size_t n, inner_->read({buffer_.data() + end_, buffer_.size() - end_}));
      if (n == 0) break;
      end_ += n;
    }
    auto* b = reinterpret_cast<const unsigned char*>(buffer_.data());
    bool zstdFrame = end_ >= 4 && b[0] == 0x28 && b[1] == 0xb5 && b[2] == 0x2f && b[3] == 0xfd;
    bool zstdSkippable = end_ >= 4 && (b[0] & 0xf0) == 0x50 && b[1] == 0x2a && b[2] == 0x4d && b[3] == 0x18;
    form_ = Form::kPlain;
    if (end_ >= 3 && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8) {
      form_ = Form::kGzip;
      gzip_ = std::make_unique<inflate_state>();
      startMember();
    } else if (zstdFrame || zstdSkippable) {
      form_ = Form::kZstd;
      zstd_ = ZSTD_createDStream();
      ZSTD_DCtx_setParameter(zstd_, ZSTD_d_windowLogMax, 27);
    }
    return {};
  }

  void startMember() {
    isal_inflate_init(gzip_.get());
    gzip_->crc_flag = ISAL_GZIP;
    inMember_ = true;
  }

  // Gives whether there are bytes.
  Result<bool> refill() {
    if (begin_ < end_) return true;
    begin_ = end_ = 0;
    ASSIGN_OR_RETURN(end_, inner_->read({buffer_.data(), buffer_.size()}));
    return end_ > 0;
  }

  Result<size_t> readGzip(std::span<char> into) {
    while (true) {
      if (!inMember_) {
        // Zeros may follow the last member; another member may too.
        ASSIGN_OR_RETURN(bool more, refill());
        if (!more) return size_t{0};
        if (buffer_[begin_] == 0) {
          ++begin_;
          continue;
        }
        startMember();
      }
      ASSIGN_OR_RETURN(bool more, refill());
      gzip_->next_in = reinterpret_cast<uint8_t*>(buffer_.data() + begin_);
      gzip_->avail_in = static_cast<uint32_t>(end_ - begin_);
      gzip_->next_out = reinterpret_cast<uint8_t*>(into.data());
      gzip_->avail_out = static_cast<uint32_t>(into.size());
      int status = isal_inflate(gzip_.get());
      begin_ = end_ - gzip_->avail_in;
      size_t produced = into.size() - gzip_->avail_out;
      if (status < 0 || status == ISAL_NEED_DICT) return damaged("gzip data is damaged");
      if (gzip_->block_state == ISAL_BLOCK_FINISH) inMember_ = false;
      if (produced > 0) return produced;
      if (inMember_ && !more) return damaged("gzip data ends early: unexpected EOF");
    }
  }

  Result<size_t> readZstd(std::span<char> into) {
    while (true) {
      ASSIGN_OR_RETURN(bool more, refill());
      ZSTD_inBuffer in{buffer_.data() + begin_, end_ - begin_, 0};
      ZSTD_outBuffer out{into.data(), into.size(), 0};
      if (!more && !inMember_) return size_t{0};
      size_t status = ZSTD_decompressStream(zstd_, &out, &in);
      begin_ += in.pos;
      if (ZSTD_isError(status)) return damaged(std::string("zstd data is damaged: ") + ZSTD_getErrorName(status));
      inMember_ = status != 0;
      if (out.pos > 0) return out.pos;
      if (!more && inMember_) return damaged("zstd data ends early: unexpected EOF");
    }
  }

  std::unique_ptr<ByteSource> inner_;
  Form form_ = Form::kUnknown;
  std::string buffer_;
  size_t begin_ = 0, end_ = 0;
  bool inMember_ = false;
  std::unique_ptr<inflate_state> gzip_;
  ZSTD_DStream* zstd_ = nullptr;
};

class ReadAhead final : public ByteSource {
 public:
  explicit ReadAhead(std::unique_ptr<ByteSource> inner) : inner_(std::move(inner)), thread_([this] { work(); }) {}
  ~ReadAhead() override {
    {
      std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  Result<size_t> read(std::span<char> into) override {
    if (offset_ == current_.size()) {
      std::unique_lock lock(mutex_);
      if (current_.capacity() > 0) free_.push_back(std::move(current_));
      current_.clear();
      offset_ = 0;
      changed_.wait(lock, [this] { return !ready_.empty() || ended_; });
      if (ready_.empty()) {
        if (problem_) return *problem_;
        return size_t{0};
      }
      current_ = std::move(ready_.front());
      ready_.pop_front();
      lock.unlock();
      changed_.notify_all();
    }
    size_t n = std::min(into.size(), current_.size() - offset_);
    std::memcpy(into.data(), current_.data() + offset_, n);
    offset_ += n;
    return n;
  }

 private:
  void work() {
    while (true) {
      std::vector<char> piece;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return ready_.size() < 8 || stopped_; });
        if (stopped_) return;
        if (!free_.empty()) {
          piece = std::move(free_.back());
          free_.pop_back();
        }
      }
      piece.resize(kPiece);
      auto n = inner_->read(piece);
      std::lock_guard lock(mutex_);
      if (!n.ok()) problem_ = n.error();
      if (!n.ok() || *n == 0) {
        ended_ = true;
        changed_.notify_all();
        return;
      }
      piece.resize(*n);
      ready_.push_back(std::move(piece));
      changed_.notify_all();
    }
  }

  std::unique_ptr<ByteSource> inner_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::vector<char>> ready_;
  std::vector<std::vector<char>> free_;
  std::vector<char> current_;
  size_t offset_ = 0;
  bool ended_ = false, stopped_ = false;
  std::optional<Error> problem_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<ByteSource> fileSource(UniqueFd fd) {
  return std::make_unique<FileSource>(std::move(fd));
}
std::unique_ptr<ByteSource> memorySource(std::string bytes) {
  return std::make_unique<MemorySource>(std::move(bytes));
}
std::unique_ptr<ByteSource> decompressed(std::unique_ptr<ByteSource> inner) {
  return std::make_unique<Decompressing>(std::move(inner));
}
std::unique_ptr<ByteSource> readAhead(std::unique_ptr<ByteSource> inner) {
  return std::make_unique<ReadAhead>(std::move(inner));
}
std::unique_ptr<ByteSource> growingFileSource(UniqueFd fd, std::shared_ptr<Growth> growth) {
  return std::make_unique<GrowingFileSource>(std::move(fd), std::move(growth));
}

Result<size_t> HashingSource::read(std::span<char> into) {
  ASSIGN_OR_RETURN(size_t n, inner_->read(into));
  hash_.update({into.data(), n});
  count_ += n;
  return n;
}

void Growth::advance(uint64_t size) {
  {
    std::lock_guard lock(mutex_);
    size_ = size;
  }
  changed_.notify_all();
}

void Growth::end(bool whole) {
  {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    whole_ = whole;
  }
  changed_.notify_all();
}

Result<uint64_t> Growth::waitBeyond(uint64_t offset) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return size_ > offset || ended_; });
  if (ended_ && !whole_) return Error(Code::kCancelled, "the download ended early");
  return size_;
}

struct GzipWriter::Rep {
  ByteSink sink;
  isal_zstream stream;
  std::vector<uint8_t> level = std::vector<uint8_t>(ISAL_DEF_LVL2_DEFAULT);
  std::vector<char> out = std::vector<char>(kPiece);

  Result<> run(std::string_view bytes, bool last) {
    stream.next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(bytes.data()));
    stream.avail_in = static_cast<uint32_t>(bytes.size());
    stream.end_of_stream = last ? 1 : 0;
    do {
      stream.next_out = reinterpret_cast<uint8_t*>(out.data());
      stream.avail_out = static_cast<uint32_t>(out.size());
      if (isal_deflate(&stream) != COMP_OK) return Error(Code::kInternal, "gzip compression failed");
      if (auto n = out.size() - stream.avail_out) RETURN_IF_ERROR(sink({out.data(), n}));
    } while (stream.avail_out == 0 || stream.avail_in > 0);
    return {};
  }
};

GzipWriter::GzipWriter(ByteSink sink) : rep_(std::make_unique<Rep>()) {
  rep_->sink = std::move(sink);
  isal_deflate_init(&rep_->stream);
  rep_->stream.gzip_flag = IGZIP_GZIP;
  rep_->stream.flush = NO_FLUSH;
  rep_->stream.level = 2;
  rep_->stream.level_buf = rep_->level.data();
  rep_->stream.level_buf_size = static_cast<uint32_t>(rep_->level.size());
}
GzipWriter::~GzipWriter() = default;

Result<> GzipWriter::write(std::string_view bytes) {
  while (!bytes.empty()) {
    auto piece = bytes.substr(0, 1 << 30);
    RETURN_IF_ERROR(rep_->run(piece, false));
    bytes.remove_prefix(piece.size());
  }
  return {};
}
Result<> GzipWriter::finish() {
  return rep_->run({}, true);
}

}  // namespace dhow::image
