// An issuing authority: a root certificate, or an intermediate one below a root, and its key. Makes
// certificates and CRLs, touches no file. Not used by libinlay.so.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

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

struct SignedSvid {
  std::vector<std::string> chain;  // DER: leaf first, then what is between it and the root
  std::string serial;              // serial_text() of the leaf
  std::time_t not_after = 0;
  // public_key_digest() of the root that a peer's verification ended at.
  std::array<std::uint8_t, 32> root{};
};

struct RootSettings {
  std::time_t lifetime = kAuthorityLifetime;         // seconds
  int path_length = 0;                               // 1: may sign an intermediate
  std::string name = "inlay development authority";  // its common name
};

struct RevokedSerial {
  std::string serial;  // serial_text()
  std::time_t at = 0;
};

class Authority {
 public:
  // A new P-256 key and a self-signed root with the SPIFFE ID spiffe://TRUST-DOMAIN, which may sign
  // leaves but, unless told otherwise, no further authority (pathLen 0).
  static tl::expected<Authority, AuthorityError> create(std::string_view trust_domain,
                                                        std::time_t now,
                                                        const RootSettings &settings = {});
  // From parts that are kept elsewhere. `chain`: its own certificate, then those between that and
  // one of `anchors`; a root has no anchors but itself. Checks what parse() does, but asks for no
  // SPIFFE ID.
  static tl::expected<Authority, AuthorityError> assemble(std::string_view trust_domain,
                                                          std::vector<X509Ptr> chain, PkeyPtr key,
                                                          std::vector<X509Ptr> anchors);
  // A new P-256 key and a certificate for it below this one, for leaves only (pathLen 0).
  tl::expected<Authority, AuthorityError> create_intermediate(std::time_t now, std::time_t lifetime,
                                                              const std::string &name) const;
  // Checks that the two belong together and can issue; not the dates.
  static tl::expected<Authority, AuthorityError> parse(std::string_view certificate_pem,
                                                       std::string_view key_pem);

  // A new P-256 key and a leaf for it: both extended key usages, an empty subject, a random serial
  // number, valid from `now` - kBackdate to `now` + `lifetime` seconds. Refuses an ID of another
  // trust domain or without a path, and a lifetime that ends after the root's. What it returns has
  // passed verify_x509_svid() against this root.
  tl::expected<IssuedSvid, AuthorityError> issue(const SpiffeId &id, std::time_t now,
                                                 std::time_t lifetime) const;

  // A leaf as issue() makes them, for a key whose other half is elsewhere. Nothing in it comes from
  // whoever asked but that key, which must be of a kind that peers accept.
  // `hosts`: names and addresses of the machine, beside the SPIFFE ID: for clients that judge by
  // those. Letters, digits, dots and dashes, or an IP address.
  tl::expected<SignedSvid, AuthorityError> sign(const SpiffeId &id, EVP_PKEY *key, std::time_t now,
                                                std::time_t lifetime,
                                                std::span<const std::string> hosts = {}) const;

  // DER; a complete one (RFC 5280 §5) for what this authority has signed.
  tl::expected<std::string, AuthorityError> make_crl(std::span<const RevokedSerial> revoked,
                                                     std::time_t now, std::time_t lifetime) const;

  std::string_view trust_domain() const noexcept { return id_.trust_domain(); }
  const X509 *certificate() const noexcept { return certificate_.get(); }
  EVP_PKEY *key() const noexcept { return key_.get(); }
  std::span<const X509Ptr> anchors() const noexcept { return anchors_; }
  // The one of them that has signed the last certificate of the chain; itself for a root. Null
  // when there is none.
  const X509 *root() const;
  std::time_t not_after() const noexcept { return not_after_; }
  // What lies between a leaf and the root, DER: its own certificate first, unless it is a root.
  std::vector<std::string> between() const;
  std::string certificate_pem() const;
  std::string key_pem() const;  // PKCS#8; the caller cleanses it

 private:
  Authority(SpiffeId id, X509Ptr certificate, PkeyPtr key, std::time_t not_after);
  tl::expected<X509Ptr, AuthorityError> make_leaf(const SpiffeId &id, EVP_PKEY *key,
                                                  std::time_t now, std::time_t lifetime,
                                                  std::span<const std::string> hosts,
                                                  std::array<std::uint8_t, 32> *root) const;

  SpiffeId id_;  // of the trust domain
  X509Ptr certificate_;
  std::vector<X509Ptr> above_;  // between it and the anchors
  std::vector<X509Ptr> anchors_;
  PkeyPtr key_;
  std::time_t not_after_;
};

// A new P-256 key that signs JWT-SVIDs, PKCS#8; the caller cleanses it. "" when OpenSSL cannot.
std::string make_jwt_key_pem();
PkeyPtr make_authority_key();  // P-256; null when OpenSSL cannot

}  // namespace inlay::identity
