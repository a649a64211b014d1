#include "grpc.h"

#include <nghttp2/nghttp2.h>
#include <sys/types.h>
#include <algorithm>
#include <cstdint>
#include <unordered_map>

namespace examples {

namespace {

constexpr size_t kLongestMessage = 64 << 10;
constexpr size_t kPrefix = 5;  // of a message: a flag and its length
enum Status { kOk = 0, kResourceExhausted = 8, kUnimplemented = 12 };

struct Call {
  std::string path, in, out;
  bool begun = false;  // the answer's headers are sent
  bool ended = false;  // nothing follows what is in `out` but the status
  Status status = kOk;
};

nghttp2_nv field(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE};
}

class Calls final : public Conversation {
 public:
  explicit Calls(std::string method) : method_(std::move(method)) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, onHeader);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, onData);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, onFrame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, onClose);
    nghttp2_session_server_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    constexpr nghttp2_settings_entry kSettings{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 1000};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &kSettings, 1);
  }
  ~Calls() override { nghttp2_session_del(session_); }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  bool receive(std::string_view in, std::string& out) override {
    const ssize_t taken = nghttp2_session_mem_recv(session_, reinterpret_cast<const uint8_t*>(in.data()), in.size());
    return send(out) && taken >= 0;
  }

  // The client opens no further call here, and those that there are go on.
  bool stop(std::string& out) override {
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_),
                          NGHTTP2_NO_ERROR, nullptr, 0);
    return send(out) && !calls_.empty();
  }

 private:
  bool send(std::string& out) {
    while (true) {
      const uint8_t* data = nullptr;
      const ssize_t count = nghttp2_session_mem_send(session_, &data);
      if (count < 0) return false;
      if (count == 0) break;
      out.append(reinterpret_cast<const char*>(data), static_cast<size_t>(count));
    }
    return nghttp2_session_want_read(session_) != 0 || nghttp2_session_want_write(session_) != 0;
  }

  void begin(int32_t id, Call& call) {
    call.begun = true;
    if (call.path != method_) end(call, kUnimplemented);
    const nghttp2_nv fields[] = {field(":status", "200"), field("content-type", "application/grpc")};
    nghttp2_data_provider provider{};
    provider.source.ptr = &call;
    provider.read_callback = onRead;
    nghttp2_submit_response(session_, id, fields, 2, &provider);
  }

  static void end(Call& call, Status status) {
    if (!call.ended) call.status = status;
    call.ended = true;
  }

  static void take(Call& call, std::string_view data) {
    if (call.ended) return;
    call.in += data;
    while (call.in.size() >= kPrefix) {
      size_t length = 0;
      for (size_t i = 1; i < kPrefix; ++i) length = length << 8 | static_cast<uint8_t>(call.in[i]);
      if (length > kLongestMessage || call.out.size() > 16 * kLongestMessage) return end(call, kResourceExhausted);
      if (call.in.size() < kPrefix + length) return;
      call.out.append(call.in, 0, kPrefix + length);
      call.in.erase(0, kPrefix + length);
    }
  }

  static int onHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t nameSize,
                      const uint8_t* value, size_t valueSize, uint8_t, void* self) {
    if (std::string_view(reinterpret_cast<const char*>(name), nameSize) == ":path")
      static_cast<Calls*>(self)->calls_[frame->hd.stream_id].path.assign(reinterpret_cast<const char*>(value),
                                                                         valueSize);
    return 0;
  }

  static int onData(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
    Call& call = static_cast<Calls*>(self)->calls_[id];
    take(call, {reinterpret_cast<const char*>(data), size});
    nghttp2_session_resume_data(session, id);
    return 0;
  }

  static int onFrame(nghttp2_session* session, const nghttp2_frame* frame, void* context) {
    Calls* self = static_cast<Calls*>(context);
    auto found = self->calls_.find(frame->hd.stream_id);
    if (found == self->calls_.end() || (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA)) return 0;
    Call& call = found->second;
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) end(call, kOk);
    if (!call.begun)
      self->begin(frame->hd.stream_id, call);
    else
      nghttp2_session_resume_data(session, frame->hd.stream_id);
    return 0;
  }

  static int onClose(nghttp2_session*, int32_t id, uint32_t, void* self) {
    static_cast<Calls*>(self)->calls_.erase(id);
    return 0;
  }

  static ssize_t onRead(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t size, uint32_t* flags,
                        nghttp2_data_source* source, void*) {
    Call& call = *static_cast<Call*>(source->ptr);
    const size_t count = std::min(size, call.out.size());
    std::copy_n(call.out.begin(), count, buffer);
    call.out.erase(0, count);
    if (call.out.empty() && call.ended) {
      *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
      const std::string status = std::to_string(call.status);
      const nghttp2_nv trailer = field("grpc-status", status);
      nghttp2_submit_trailer(session, id, &trailer, 1);
    } else if (count == 0) {
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(count);
  }

  std::string method_;
  nghttp2_session* session_ = nullptr;
  std::unordered_map<int32_t, Call> calls_;
};

}  // namespace

std::unique_ptr<Conversation> answerCalls(std::string method) {
  return std::make_unique<Calls>(std::move(method));
}

}  // namespace examples
