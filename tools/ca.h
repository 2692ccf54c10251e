// A development authority in files: what `inlay ca init` and `inlay ca issue` do.
//
//   DIR/ca.pem      the root certificate
//   DIR/ca-key.pem  its key, 0600
//   DIR/bundle.pem  the trust bundle: the root, and whatever else its keeper adds
#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace inlay::tools {

// "30s", "5m", "1h", "7d" in seconds; empty for anything else, 0 included.
std::optional<std::time_t> parse_duration(std::string_view text);

// Both return what to tell the user, one line, or one line of complaint.

// Never overwrites an authority.
tl::expected<std::string, std::string> init_authority(const std::string &folder,
                                                      const std::string &trust_domain,
                                                      std::time_t now);
// Writes svid.pem, key.pem (0600) and bundle.pem into `out`, each replaced whole, so that a process
// that uses them takes the new ones without a restart.
tl::expected<std::string, std::string> issue_svid(const std::string &folder, const std::string &id,
                                                  const std::string &out, std::time_t lifetime,
                                                  std::time_t now);

}  // namespace inlay::tools
