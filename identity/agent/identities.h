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
#include <vector>

#include "identity/agent/source.h"

namespace inlay::identity::agent {

using KeyId = std::array<std::uint8_t, 32>;  // SHA-256 of the SubjectPublicKeyInfo

struct HeldSvid {
  X509Svid svid;
  std::vector<std::string> chain;  // DER, leaf first
  KeyId key_id{};
  std::time_t renew_at = 0;  // seconds since the epoch
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
  std::uint64_t generation = 0;  // grows with every change of what follows
  std::map<std::string, IdentityState, std::less<>> identities;  // by SPIFFE ID
  Trust trust;
  std::string trust_error;
};

class Identities {
 public:
  // `ids` as in the entries. Takes the first SVIDs before it returns where that needs no waiting.
  Identities(std::unique_ptr<Source> source, std::vector<SpiffeId> ids);
  ~Identities();
  Identities(const Identities &) = delete;
  Identities &operator=(const Identities &) = delete;

  // Any thread. Never null.
  std::shared_ptr<const View> view() const;
  // Called after every change, on the thread that renews. Before start().
  void on_change(std::function<void()> changed);
  void start();
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
