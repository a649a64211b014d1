// Bodies that are whole in memory, and the error of one that broke off. Private to this folder.
#pragma once

#include <string>

#include "http/message.h"

namespace dhow::http::internal {

class StringBody final : public BodyReader {
 public:
  explicit StringBody(std::string bytes) : bytes_(std::move(bytes)) {}
  Task<Result<size_t>> read(std::span<char> into) override;
  // What has not been read yet; nothing is left after it.
  std::string take();
  size_t left() const { return bytes_.size() - offset_; }

 private:
  std::string bytes_;
  size_t offset_ = 0;
};

Error cancelled();
Code codeOfStatus(int status);

}  // namespace dhow::http::internal
