#include "identity/rpc/http2_police.h"

#include <algorithm>

namespace inlay::identity::rpc {
namespace {

// RFC 9113 §6
constexpr std::uint8_t kData = 0;
constexpr std::uint8_t kHeaders = 1;
constexpr std::uint8_t kRstStream = 3;
constexpr std::uint8_t kEndStream = 1;

constexpr std::size_t kMostOpen = 128;        // before a client knows the limit it may try so many
constexpr std::size_t kMostData = 48 * 1024;  // of one request: gRPC takes 32 KiB, plus padding
constexpr std::size_t kMostResets = 1000;     // then a client that cancels has to connect again

}  // namespace

Http2Police::~Http2Police() { of_user_->fetch_sub(open_.size()); }

template <typename Judge>
bool Http2Police::scan(Scanner &scanner, std::span<const char> bytes, Judge judge) {
  while (!bytes.empty()) {
    if (scanner.skip > 0) {
      const std::size_t skipped = std::min(scanner.skip, bytes.size());
      scanner.skip -= skipped;
      bytes = bytes.subspan(skipped);
      continue;
    }
    scanner.header[scanner.have++] = static_cast<unsigned char>(bytes.front());
    bytes = bytes.subspan(1);
    if (scanner.have < scanner.header.size()) continue;
    scanner.have = 0;
    const auto &h = scanner.header;
    const auto number = [&](std::size_t at) { return static_cast<std::uint32_t>(h[at]); };
    const Frame frame{number(0) << 16 | number(1) << 8 | number(2), h[3], h[4],
                      (number(5) & 0x7f) << 24 | number(6) << 16 | number(7) << 8 | number(8)};
    scanner.skip = frame.length;
    if (!judge(frame)) return false;
  }
  return true;
}

bool Http2Police::from_client(std::span<const char> bytes) {
  return scan(client_, bytes, [this](const Frame &frame) { return judge_client(frame); });
}

bool Http2Police::from_server(std::span<const char> bytes) {
  return scan(server_, bytes, [this](const Frame &frame) { return judge_server(frame); });
}

bool Http2Police::judge_client(const Frame &frame) {
  if (frame.type == kHeaders && frame.stream > last_stream_) {
    last_stream_ = frame.stream;
    open_.emplace(frame.stream, 0);
    return of_user_->fetch_add(1) < most_of_user_ && open_.size() <= kMostOpen;
  }
  if (frame.type == kData) {
    const auto found = open_.find(frame.stream);
    if (found == open_.end()) return true;  // ended by gRPC meanwhile
    found->second += frame.length;
    return found->second <= kMostData;
  }
  if (frame.type == kRstStream) {
    close(frame.stream);
    return ++resets_ <= kMostResets;
  }
  return true;
}

bool Http2Police::judge_server(const Frame &frame) {
  const bool ends = (frame.type == kData || frame.type == kHeaders) && (frame.flags & kEndStream);
  if (ends || frame.type == kRstStream) close(frame.stream);
  return true;
}

void Http2Police::close(std::uint32_t stream) {
  if (open_.erase(stream) != 0) of_user_->fetch_sub(1);
}

}  // namespace inlay::identity::rpc
