// The configuration file: TOML in, a Policy or one precise complaint out.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "policy/policy.h"

namespace inlay::policy {

struct LoadError {
  std::string file;
  std::uint32_t line = 0;  // 1-based; 0 when the whole file is meant
  std::uint32_t column = 0;
  std::string message;       // what is wrong and what to do, one line
  std::string text() const;  // "FILE:LINE:COLUMN: MESSAGE"
};

// No configuration is longer.
inline constexpr std::size_t kMaxConfigSize = 1024 * 1024;

// `base`: the folder relative paths are relative to, absolute. `file`: only for messages. The
// first complaint is the only one. Needs some tens of KiB of stack.
tl::expected<Policy, LoadError> parse(std::string_view toml, std::string_view base,
                                      std::string_view file);

// A configuration file's text, and what it was read from.
struct ConfigurationText {
  std::string text;
  std::string path;    // absolute
  std::string folder;  // of the file as named: relative paths in it start there
  struct stat stat;
};
// Refuses the file when it, or a folder on the way to it, may be written by anyone but root, the
// effective user or `owners` (trusted_file.h).
tl::expected<ConfigurationText, LoadError> read_configuration(const std::string &file,
                                                              std::span<const uid_t> owners = {});

// Reads the file and refuses it when it, or a folder on the way to it, may be written by anyone but
// root, the effective user or `owners` (trusted_file.h). Relative paths in it are relative to the
// folder of `file` as written, not as resolved: a Kubernetes volume swaps the folder its links
// resolve to.
tl::expected<Policy, LoadError> load(const std::string &file, std::span<const uid_t> owners = {});

// `file` behind the current folder when it is relative; unchanged when there is none.
std::string absolute_path(std::string file);
Source source_of(std::string file, const struct stat &stat);

}  // namespace inlay::policy
