// The SVIDs the agent holds, one for each SPIFFE ID of its entries: obtained from the source,
// renewed at half their life, kept until they expire. What is in force is a View, immutable and
// swapped whole.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "identity/agent/clock.h"
#include "identity/agent/source.h"

namespace inlay::identity::agent {

using KeyId = std::array<std::uint8_t, 32>;  // SHA-256 of the SubjectPublicKeyInfo

struct HeldSvid {
  X509Svid svid;
  std::vector<std::string> chain;  // DER, leaf first
  KeyId key_id{};
  std::time_t renew_at = 0;  // seconds since the epoch; 0: when its source has another
};

// Why an ID has no newer SVID, for status, metrics and refusals.
struct IdentityState {
  std::shared_ptr<const HeldSvid> current;  // null when none was ever obtained, or it expired
  std::vector<std::shared_ptr<const HeldSvid>> previous;  // not expired: still signs for who has it
  std::string error;  // of the last attempt; "" when it went well
  std::time_t next_attempt = 0;
  std::uint64_t rotations = 0;
};

struct View {
  // Grows with every change of what follows, but not with next_attempt alone.
  std::uint64_t generation = 0;
  std::map<std::string, IdentityState, std::less<>> identities;  // by SPIFFE ID
  Trust trust;
  std::string trust_error;  // of the last look at the bundles; the last good ones are in force
  std::time_t clock_jump_at =
      0;                        // when the clock was last set by more than a few seconds; 0: never
  std::int64_t clock_jump = 0;  // by how many seconds
};

// Why there is no valid SVID for `id` at `now`: one line; "" when there is one.
std::string why_no_svid(const View &view, std::string_view id, std::time_t now);

class Identities {
 public:
  // `ids` as in the entries. Takes the first SVIDs before it returns unless its source waits.
  Identities(std::unique_ptr<Source> source, std::vector<SpiffeId> ids,
             Clock clock = system_clock());
  ~Identities();
  Identities(const Identities &) = delete;
  Identities &operator=(const Identities &) = delete;

  // Any thread. Never null.
  std::shared_ptr<const View> view() const;
  // Called after every change, on the thread that renews; all that were given. Before start().
  void on_change(std::function<void()> changed);
  // A thread that renews until the end of this object.
  void start();
  // What that thread does: takes news, obtains what is due, drops what has expired. Returns how
  // many milliseconds there are until something is due again. For tests, instead of start().
  std::int64_t renew();
  // Other entries: IDs that are new are obtained, those gone are dropped. Any thread.
  void want(std::vector<SpiffeId> ids);
  // Any thread; waits for the source.
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(const SpiffeId &id,
                                                  const std::vector<std::string> &audience);
  std::string source_name() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace inlay::identity::agent
