// The configuration file: TOML in, a Policy or one precise complaint out.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include <sys/types.h>

#include <tl/expected.hpp>

#include "policy/policy.h"

namespace inlay::policy {

struct LoadError {
  std::string file;
  std::uint32_t line = 0;    // 1-based; 0 when the whole file is meant
  std::uint32_t column = 0;
  std::string message;       // what is wrong and what to do, one line
  std::string text() const;  // "FILE:LINE:COLUMN: MESSAGE"
};

// `base`: the folder relative paths are relative to. `file`: only for messages.
tl::expected<Policy, LoadError> parse(std::string_view toml, std::string_view base,
                                      std::string_view file);

// Reads the file and refuses it when it, or a folder on its resolved path, may be written by
// anyone but root, the effective user or `owners`.
tl::expected<Policy, LoadError> load(const std::string &file, std::span<const uid_t> owners = {});

}  // namespace inlay::policy
