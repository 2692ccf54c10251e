// Private to tls/: chains that verified before, by digest. A chain is judged against one set of
// bundles, so the cache belongs to one Credentials and goes with it; an entry holds no longer than
// any certificate that may have had a part in it. Saves the path building and the signature checks
// of a peer that connects again; that the peer holds the key is proved anew in every handshake.
#pragma once

#include <openssl/x509.h>

#include <array>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <optional>
#include <vector>

#include "identity/bundle.h"
#include "identity/spiffe_id.h"
#include "identity/verify.h"

namespace inlay::tls {

class VerifiedChains {
 public:
  using Digest = std::array<std::uint8_t, 32>;

  // SHA-256 over the certificates in the order the peer sent them. Empty when OpenSSL fails.
  static std::optional<Digest> digest(const STACK_OF(X509) *chain);

  struct Verified {
    identity::SpiffeId id;
    identity::PathRecord path;
  };

  // Of a chain that verified earlier and would verify at `now`. Thread-safe.
  std::optional<Verified> find(const Digest &digest, std::time_t now);
  // Remembers a chain that verified at `now` against `bundles`. Thread-safe.
  void remember(const Digest &digest, const STACK_OF(X509) *chain,
                const identity::BundleSet &bundles, const Verified &verified, std::time_t now);

 private:
  struct Entry {
    Digest digest;
    Verified verified;
    std::time_t from;   // a clock set back behind the verification makes it void
    std::time_t until;
  };
  static constexpr std::size_t kCapacity = 256;

  std::mutex mutex_;
  std::vector<Entry> entries_;
  std::size_t oldest_ = 0;
};

}  // namespace inlay::tls
