// Whether an HTTP/2 connection stays within what a client of the Workload API needs (RFC 9113).
// gRPC 1.51 holds a client to its limit of streams only when that has acknowledged the limit, takes
// 12 KiB for the head of each, and takes in a message whole before it looks at its size: without
// this a client in a hurry could have all memory. Looks at frame headers alone; gRPC judges the
// rest.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

namespace inlay::identity::rpc {

// How many streams a user has open in gRPC, over all connections.
using StreamCount = std::shared_ptr<std::atomic<std::size_t>>;

class Http2Police {
 public:
  Http2Police(StreamCount of_user, std::size_t most_of_user)
      : of_user_(std::move(of_user)), most_of_user_(most_of_user) {}
  ~Http2Police();
  Http2Police(const Http2Police &) = delete;
  Http2Police &operator=(const Http2Police &) = delete;

  // Each gets the bytes as they come, in any pieces. False: the connection is to be cut.
  bool from_client(std::span<const char> bytes);
  bool from_server(std::span<const char> bytes);

 private:
  struct Frame {
    std::uint32_t length = 0;
    std::uint8_t type = 0;
    std::uint8_t flags = 0;
    std::uint32_t stream = 0;
  };
  // Finds the frame headers in a direction's bytes.
  struct Scanner {
    std::size_t skip = 0;  // bytes until the next header
    std::array<unsigned char, 9> header{};
    std::size_t have = 0;
  };
  template <typename Judge>
  static bool scan(Scanner &scanner, std::span<const char> bytes, Judge judge);
  bool judge_client(const Frame &frame);
  bool judge_server(const Frame &frame);
  void close(std::uint32_t stream);

  static constexpr std::size_t kPreface = 24;  // RFC 9113 §3.4

  const StreamCount of_user_;
  const std::size_t most_of_user_;
  Scanner client_{kPreface, {}, 0};
  Scanner server_;
  std::map<std::uint32_t, std::size_t> open_;  // stream -> bytes of DATA from the client
  std::uint32_t last_stream_ = 0;
  std::size_t resets_ = 0;
};

}  // namespace inlay::identity::rpc
