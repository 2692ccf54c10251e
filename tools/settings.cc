#include "tools/settings.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "identity/agent_address.h"
#include "identity/agent_client.h"

namespace inlay::tools {
namespace {

std::string variable(const char *name) {
  const char *value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

tl::expected<std::string, std::string> find_config(const std::string &given) {
  namespace fs = std::filesystem;
  std::string named = given.empty() ? variable("INLAY_CONFIG") : given;
  if (identity::is_agent_address(named)) return named;
  if (!named.empty()) {
    std::error_code error;
    fs::path absolute = fs::absolute(named, error);
    if (error) return tl::make_unexpected(named + ": " + error.message());
    return absolute.string();
  }
  std::vector<std::string> places;
  std::string home = variable("XDG_CONFIG_HOME");
  if (home.empty() && !variable("HOME").empty()) home = variable("HOME") + "/.config";
  if (!home.empty() && home[0] == '/') places.push_back(home + "/inlay/config.toml");
  places.emplace_back("/etc/inlay/config.toml");
  for (const std::string &place : places) {
    // Anything but its absence is for the loader to complain of: never fall through to another.
    if (::access(place.c_str(), F_OK) == 0 || errno != ENOENT) return place;
  }
  for (const std::string &socket : identity::standard_agent_sockets()) {
    if (::access(socket.c_str(), F_OK) == 0) return "unix://" + socket;
  }
  return tl::make_unexpected("no configuration: give --config FILE, write " + places.front() +
                             ", or start inlay-agent");
}

}  // namespace inlay::tools
