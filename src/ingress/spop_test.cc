#include "spop.h"

#include <gtest/gtest.h>

#include "filter_session.h"
#include "mirror.h"

namespace dhow::ingress {
namespace {

using namespace spop;

std::string frame(FrameType type, std::string_view payload, uint64_t stream = 7, uint64_t id = 300) {
  std::string out(1, static_cast<char>(type));
  out += std::string_view("\0\0\0\1", 4);
  writeNumber(out, stream);
  writeNumber(out, id);
  out += payload;
  const auto size = static_cast<uint32_t>(out.size());
  std::string head;
  for (int shift = 24; shift >= 0; shift -= 8) head += static_cast<char>(size >> shift);
  return head + out;
}

std::string hello(std::string_view version = "2.0", uint64_t size = 16380) {
  std::string out;
  writeText(out, "supported-versions");
  out += '\x08';
  writeText(out, version);
  writeText(out, "max-frame-size");
  out += '\x03';
  writeNumber(out, size);
  writeText(out, "capabilities");
  out += '\x08';
  writeText(out, "pipelining,async");
  return frame(FrameType::kHaproxyHello, out, 0, 0);
}

TEST(Spop, NumbersAreAsHaproxyWritesThem) {
  for (uint64_t number : {uint64_t{0}, uint64_t{239}, uint64_t{240}, uint64_t{2287}, uint64_t{2288}, uint64_t{264431},
                          uint64_t{264432}, uint64_t{1} << 32, UINT64_MAX}) {
    std::string bytes = "\x03\0\0\0\1";
    bytes = std::string("\x03\0\0\0\1", 5);
    writeNumber(bytes, number);
    writeNumber(bytes, 1);
    auto read = readFrame(bytes);
    ASSERT_TRUE(read.ok()) << number;
    EXPECT_EQ(read->stream, number);
    EXPECT_EQ(read->id, 1u);
    EXPECT_TRUE(read->fin && !read->abort && read->payload.empty());
  }
  std::string bytes;
  writeNumber(bytes, 239);
  writeNumber(bytes, 240);
  writeNumber(bytes, 2288);
  EXPECT_EQ(bytes, std::string("\xef\xf0\x00\xf0\x80\x00", 6));  // section 3.1
}

TEST(Spop, WhatIsCutOffIsRefused) {
  std::string payload;
  writeText(payload, "inspect");
  payload += '\x02';
  writeText(payload, "client");
  payload += std::string("\x06\x0a\x00\x00\x01", 5);
  writeText(payload, "method");
  payload += '\x08';
  writeText(payload, "GET");
  auto whole = readMessages(payload);
  ASSERT_TRUE(whole.ok());
  EXPECT_EQ(addressText(*(*whole)[0].find("client")), "10.0.0.1");
  EXPECT_EQ((*whole)[0].find("method")->bytes, "GET");
  EXPECT_EQ((*whole)[0].find("none"), nullptr);
  for (size_t size = 1; size < payload.size(); ++size)
    EXPECT_FALSE(readMessages(std::string_view(payload).substr(0, size)).ok()) << size;
  EXPECT_FALSE(readFrame("\x03").ok());
  EXPECT_FALSE(readHeaders("").ok());
  EXPECT_FALSE(readFrame(std::string("\x03\0\0\0\1", 5) + std::string(20, '\xff')).ok());
}

// What is said to the filter, and what it answers.
class Said final : public http::Stream {
 public:
  Said(std::string bytes, std::string* answers) : bytes_(std::move(bytes)), answers_(answers) {}
  Task<Result<size_t>> read(std::span<char> into) override {
    const size_t count = std::min({into.size(), bytes_.size() - at_, size_t{13}});
    bytes_.copy(into.data(), count, at_);
    at_ += count;
    co_return count;
  }
  Task<Result<>> write(std::string_view bytes) override {
    *answers_ += bytes;
    co_return Result<>();
  }
  Task<> shutdownWrite() override { co_return; }
  void close() override {}

 private:
  std::string bytes_;
  size_t at_ = 0;
  std::string* answers_;
};

struct Counting final : FilterHandler {
  Task<> answer(const Message& message, Ack& ack) override {
    ++asked;
    ack.set("name", message.name);
    ack.set("yes", true);
    co_return;
  }
  int asked = 0;
};

std::string answersTo(const std::string& said, Counting& handler) {
  SimLoop loop;
  std::string out;
  spawn(loop, serveFilter(std::make_unique<Said>(said, &out), &handler));
  loop.runReady();
  return out;
}

TEST(Spop, AConnectionBeginsWithAGreeting) {
  Counting handler;
  std::string question;
  writeText(question, "inspect");
  question += '\0';
  Ack said(7, 300);
  said.set("name", "inspect");
  said.set("yes", true);
  EXPECT_EQ(answersTo(hello() + frame(FrameType::kNotify, question), handler), agentHello(16380) + said.frame());
  EXPECT_EQ(handler.asked, 1);
  EXPECT_EQ(answersTo(hello("3.0"), handler), agentDisconnect(Status::kBadVersion, "version 2 is spoken here"));
  EXPECT_EQ(answersTo(hello("2.0", 10), handler), agentDisconnect(Status::kBadFrameSize, "frames are too small"));
  EXPECT_EQ(answersTo(frame(FrameType::kNotify, question), handler),
            agentDisconnect(Status::kInvalid, "a greeting is expected"));
  EXPECT_EQ(answersTo(std::string("\x7f\xff\xff\xff", 4), handler),
            agentDisconnect(Status::kTooBig, "the frame is empty or too big"));
  EXPECT_EQ(answersTo(hello() + frame(FrameType::kHaproxyDisconnect, ""), handler),
            agentHello(16380) + agentDisconnect(Status::kNormal, "good-bye"));
  EXPECT_EQ(answersTo(hello() + frame(FrameType::kNotify, "\xff"), handler),
            agentHello(16380) + agentDisconnect(Status::kInvalid, "SPOP: a message is cut off"));
  EXPECT_EQ(handler.asked, 1);
}

TEST(Mirror, IsTheRequestToAnotherPlace) {
  MirrorRequest request{"10.96.0.9:8080/in*",
                        "",
                        "POST",
                        "/x?y=%27",
                        {{"host", "a.test"}, {"Content-Length", "2"}, {"te", "x"}, {"X", "1"}},
                        "ab"};
  auto copy = copyOf(request);
  ASSERT_TRUE(copy.ok());
  EXPECT_EQ(copy->address, "10.96.0.9");
  EXPECT_EQ(copy->port, 8080);
  EXPECT_EQ(copy->bytes,
            "POST /in/x?y=%27 HTTP/1.1\r\nX: 1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: 2\r\n\r\nab");
  request.target = "10.96.0.9:80/fixed";
  request.host = "mirror";
  EXPECT_TRUE(copyOf(request)->bytes.starts_with("POST /fixed HTTP/1.1\r\nX: 1\r\nHost: mirror\r\n"));
  for (std::string_view target : {"", "10.96.0.9", "10.96.0.9:0/", "10.96.0.9:x/", "10.96.0.9:99999/"}) {
    request.target = target;
    EXPECT_FALSE(copyOf(request).ok()) << target;
  }
  request.target = "10.96.0.9:80*";
  request.body = "a";  // the rest has not come
  EXPECT_FALSE(copyOf(request).ok());
  request.body = "ab";
  request.headers[3].second = "1\r\nY: 2";
  EXPECT_FALSE(copyOf(request).ok());
  request.headers[3] = {"upgrade", "websocket"};
  EXPECT_FALSE(copyOf(request).ok());
}

}  // namespace
}  // namespace dhow::ingress
