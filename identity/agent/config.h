// The agent's configuration: TOML in, a Config or one complaint out. Every key is in
// inlay-agent(8).
#pragma once

#include <sys/types.h>

#include <ctime>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/agent/entry.h"
#include "identity/agent/est_settings.h"
#include "identity/agent/files_source.h"
#include "policy/load.h"

namespace inlay::identity::agent {

// [source]: exactly one of the five is set.
struct SourceSettings {
  std::string enrolled;      // absolute path of what inlay enroll left (node_folder.h)
  std::string authority;     // absolute path of a folder of `inlay ca init`
  std::string workload_api;  // "unix:///run/spire/agent.sock"
  EstSettings est;           // with a url
  FilesSettings files;
};

struct Config {
  std::string file;  // absolute
  std::string trust_domain;
  std::string socket;  // absolute path
  SourceSettings source;
  std::time_t svid_lifetime = 3600;  // seconds; of what an authority issues
  std::string metrics;               // where to listen (metrics_server.h); "" = nowhere
  std::string log_file;              // absolute; "" = standard error
  std::uint32_t signatures = 2000;   // a second, of one process; four times that of one user's
  std::vector<Entry> entries;

  std::vector<SpiffeId> ids() const;  // each once
};

// `default_socket`: where it listens when the file does not say.
tl::expected<Config, policy::LoadError> parse_config(std::string_view toml, std::string_view base,
                                                     std::string_view file,
                                                     const std::string &default_socket);

// Reads it and the policies its entries name; refuses files that others may change
// (policy/trusted_file.h). Executables are those that their paths lead to now.
tl::expected<Config, policy::LoadError> load_config(const std::string &file,
                                                    std::span<const uid_t> owners = {});

// The kernel knows the file alone that a link leads to: Debian's redis-server is one.
void resolve_executable(Entry &entry);

// kAgentSocket for root; a user's own is in $XDG_RUNTIME_DIR, or /run/user/UID without that.
std::string default_socket_path();

}  // namespace inlay::identity::agent
