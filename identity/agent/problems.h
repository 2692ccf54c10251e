// What is wrong with a machine's identities, or will be, and what to do about it: for `inlay
// status` and the log. Anything long-lived is named 60, 30 and 7 days before it ends.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

#include "identity/agent/identities.h"

namespace inlay::identity::agent {

inline constexpr std::time_t kNoticeDays[] = {60, 30, 7};

enum class Severity : std::uint8_t { notice, warning, error };  // an error refuses connections now
std::string_view name(Severity severity) noexcept;

struct Problem {
  Severity severity{};
  std::string spiffe_id;  // that it is about; "" = about the trust domain or the machine
  std::string what;       // one line
  std::string to_do;      // one line; "" = nothing but wait
  bool operator==(const Problem &) const = default;
};

// Errors first. `view` as it is at `now`.
std::vector<Problem> problems_of(const View &view, std::time_t now);

// Whether the source gave what it was last asked for, at least for some ID.
bool source_is_up(const View &view);

// An authority of a bundle, as far as people want to know it.
struct AuthoritySummary {
  std::string trust_domain;
  std::string subject;
  std::time_t expires = 0;
};
std::vector<AuthoritySummary> authorities_of(const Trust &trust);

}  // namespace inlay::identity::agent
