// A policy as one flat, versioned, checksummed block: made once by the launcher or the first
// process, sealed in a memfd, read by children that then need not parse TOML.
#pragma once

#include <span>
#include <string>
#include <tl/expected.hpp>

#include "policy/policy.h"

namespace inlay::policy {

enum class SnapshotError : std::uint8_t {
  too_short,
  wrong_magic,
  wrong_version,
  checksum,
  malformed,
  out_of_memory,
};
std::string_view sentence(SnapshotError error) noexcept;

std::string serialize(const Policy &policy);
// Never trusts a length in the block; a torn or truncated one is an error, never a partial policy.
tl::expected<Policy, SnapshotError> deserialize(std::span<const char> block);

}  // namespace inlay::policy
