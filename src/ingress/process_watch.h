// The end of a process, as an event on the loop. Private to this folder.
#pragma once

#include <fcntl.h>

#include <boost/asio/posix/stream_descriptor.hpp>

#include <functional>
#include <memory>

#include "base/fd.h"
#include "base/loop.h"

namespace dhow::ingress {

class ProcessWatch {
 public:
  // Once; while one is watched, or without a descriptor, nothing happens.
  void watch(Loop& loop, const UniqueFd& pidfd, std::function<void()> ended) {
    if (watched_) return;
    const int fd = pidfd ? ::fcntl(pidfd.get(), F_DUPFD_CLOEXEC, 3) : -1;
    if (fd < 0) return;
    watched_ = std::make_unique<boost::asio::posix::stream_descriptor>(loop.executor(), fd);
    watched_->async_wait(boost::asio::posix::stream_descriptor::wait_read,
                         [this, ended = std::move(ended)](const boost::system::error_code& error) {
                           if (error) return;
                           watched_.reset();
                           ended();
                         });
  }
  void reset() { watched_.reset(); }

 private:
  std::unique_ptr<boost::asio::posix::stream_descriptor> watched_;
};

}  // namespace dhow::ingress
