#include "identity/user_namespace.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <span>

namespace inlay::identity {
namespace {

constexpr std::uint32_t kOverflow = 65534;         // DEFAULT_OVERFLOWUID, and GID
constexpr std::uint32_t kEverybody = 4294967295U;  // all but -1, which is nobody's number

// What one read gives: these files are short. Empty when there is none.
std::string_view beginning(const char *path, std::span<char> room) noexcept {
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  ssize_t got;
  do {
    got = ::read(fd, room.data(), room.size());
  } while (got < 0 && errno == EINTR);
  ::close(fd);
  return {room.data(), got > 0 ? static_cast<std::size_t>(got) : 0};
}

// Takes spaces and a number from the front of `text`.
bool take(std::string_view &text, std::uint32_t &number) noexcept {
  const std::size_t begin = text.find_first_not_of(" \n");
  if (begin == std::string_view::npos) return false;
  const auto [end, error] = std::from_chars(text.data() + begin, text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool ambiguous(std::uint32_t id, const char *overflow_file, const char *map_file) noexcept {
  std::array<char, 256> room;
  std::string_view text = beginning(overflow_file, room);
  std::uint32_t overflow = kOverflow;
  if (!text.empty()) take(text, overflow);
  return id == overflow && !maps_everybody(beginning(map_file, room));
}

}  // namespace

bool maps_everybody(std::string_view map) noexcept {
  std::uint32_t inside = 0, outside = 0, count = 0;
  return take(map, inside) && take(map, outside) && take(map, count) && inside == 0 &&
         outside == 0 && count == kEverybody;
}

bool everybody_is_mapped() noexcept {
  std::array<char, 256> room;
  return maps_everybody(beginning("/proc/self/uid_map", room)) &&
         maps_everybody(beginning("/proc/self/gid_map", room));
}

bool may_be_anybody(uid_t user) noexcept {
  return ambiguous(user, "/proc/sys/kernel/overflowuid", "/proc/self/uid_map");
}

bool may_be_any_group(gid_t group) noexcept {
  return ambiguous(group, "/proc/sys/kernel/overflowgid", "/proc/self/gid_map");
}

}  // namespace inlay::identity
