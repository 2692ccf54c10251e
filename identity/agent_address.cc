#include "identity/agent_address.h"

#include <sys/un.h>

#include <algorithm>

namespace inlay::identity {
namespace {

constexpr std::string_view kScheme = "unix:";
constexpr std::size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;

}  // namespace

bool is_agent_address(std::string_view text) noexcept { return text.starts_with(kScheme); }

tl::expected<std::string, std::string> parse_agent_address(std::string_view text) {
  const auto wrong = [](std::string why) { return tl::unexpected(std::move(why)); };
  if (!is_agent_address(text)) {
    return wrong("an agent is named by its Unix socket, as \"unix:///run/inlay/agent.sock\"");
  }
  text.remove_prefix(kScheme.size());
  if (text.starts_with("//")) text.remove_prefix(2);  // an authority, which must be empty
  if (!text.starts_with('/')) {
    return wrong("the path of the agent's socket must be absolute: \"unix:///PATH\"");
  }
  const bool control = std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
  });
  if (control || text.find_first_of("?#") != std::string_view::npos) {
    return wrong("the path of the agent's socket has a character that does not belong there");
  }
  if (text.size() > kMaxPath)
    return wrong("the path of the agent's socket is longer than 107 bytes");
  return std::string(text);
}

}  // namespace inlay::identity
