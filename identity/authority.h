// An issuing authority: a root certificate and its key. Makes certificates, touches no file. Not
// used by libinlay.so.
#pragma once

#include <ctime>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

#include "identity/openssl.h"
#include "identity/spiffe_id.h"

namespace inlay::identity {

// How long a new root is good for, in seconds: a year. Long enough not to be in the way of
// development, short enough that a forgotten key on a laptop ends by itself; there is no
// revocation of a root but to take it out of every bundle.
inline constexpr std::time_t kAuthorityLifetime = 365 * 86400;
// What a leaf gets when nobody asks for something else.
inline constexpr std::time_t kLeafLifetime = 3600;
// New certificates begin this many seconds in the past, for peers whose clock is behind.
inline constexpr std::time_t kBackdate = 60;

struct AuthorityError {
  std::string message;  // one line: what is wrong, and what to do where something can be done
};

struct IssuedSvid {
  std::string chain_pem;
  std::string key_pem;  // PKCS#8; the caller cleanses it
  std::time_t not_after = 0;
};

class Authority {
 public:
  // A new P-256 key and a self-signed root with the SPIFFE ID spiffe://TRUST-DOMAIN, which may sign
  // leaves but no further authority (pathLen 0).
  static tl::expected<Authority, AuthorityError> create(std::string_view trust_domain,
                                                        std::time_t now);
  // Checks that the two belong together and can issue; not the dates.
  static tl::expected<Authority, AuthorityError> parse(std::string_view certificate_pem,
                                                       std::string_view key_pem);

  // A new P-256 key and a leaf for it: both extended key usages, an empty subject, a random serial
  // number, valid from `now` - kBackdate to `now` + `lifetime` seconds. Refuses an ID of another
  // trust domain or without a path, and a lifetime that ends after the root's. What it returns has
  // passed verify_x509_svid() against this root.
  tl::expected<IssuedSvid, AuthorityError> issue(const SpiffeId &id, std::time_t now,
                                                 std::time_t lifetime) const;

  std::string_view trust_domain() const noexcept { return id_.trust_domain(); }
  std::time_t not_after() const noexcept { return not_after_; }
  std::string certificate_pem() const;
  std::string key_pem() const;  // PKCS#8; the caller cleanses it

 private:
  Authority(SpiffeId id, X509Ptr certificate, PkeyPtr key, std::time_t not_after)
      : id_(std::move(id)),
        certificate_(std::move(certificate)),
        key_(std::move(key)),
        not_after_(not_after) {}

  SpiffeId id_;
  X509Ptr certificate_;
  PkeyPtr key_;
  std::time_t not_after_;
};

// A new P-256 key that signs JWT-SVIDs, PKCS#8; the caller cleanses it. "" when OpenSSL cannot.
std::string make_jwt_key_pem();

}  // namespace inlay::identity
