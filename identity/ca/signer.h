// What signs: the keys that are in force at one generation of the store, unsealed. It does not
// change; a new one is opened when the store has changed. Any thread.
#pragma once

#include <array>
#include <cstdint>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/authority.h"
#include "identity/ca/rotation.h"
#include "identity/ca/seal.h"
#include "identity/ca/store.h"
#include "identity/svid.h"
#include "identity/trust_domain_bundle.h"

namespace inlay::identity::ca {

// An intermediate of another authority, by files: no root of ours, no rotation of one.
struct UpstreamFiles {
  std::string certificate;  // PEM: the intermediate, then those between it and the bundle
  std::string key;          // PEM, 0600
  std::string bundle;       // PEM or SPIFFE JSON
  bool empty() const noexcept { return certificate.empty(); }
};
// An Authority out of the three. The error names the file and says what to do.
tl::expected<Authority, std::string> load_upstream(const UpstreamFiles &files,
                                                   std::string_view trust_domain);

struct SignedX509 {
  std::vector<std::string> chain;  // DER, leaf first; without the root
  Issuance issuance;               // for Store::record(); the node is the caller's to fill in
};
struct SignedJwt {
  std::string token;
  std::time_t not_after = 0;
};

class Signer {
 public:
  // `upstream`: what load_upstream() gave, when the configuration has one.
  static tl::expected<Signer, std::string> open(const AuthorityRows &rows, std::uint64_t generation,
                                                const Seal &seal, const std::string &trust_domain,
                                                std::optional<Authority> upstream = std::nullopt);

  // `lifetime` seconds, or less where the authority itself ends before. `key` is what
  // public_key_of_csr() gave: nothing else of a request counts. What it gives has passed
  // verify_x509_svid() against bundle().
  tl::expected<SignedX509, std::string> sign(const SpiffeId &id, EVP_PKEY *key, std::time_t now,
                                             std::time_t lifetime,
                                             std::span<const std::string> hosts = {}) const;
  tl::expected<SignedJwt, std::string> sign_jwt(const SpiffeId &id,
                                                std::span<const std::string> audience,
                                                std::time_t now, std::time_t lifetime) const;

  // An SVID with a new key for the authority's own server, spiffe://TRUST-DOMAIN/inlay/ca. Its
  // chain ends with the root: who knows the authority by a pin has to see that.
  struct ServerSvid {
    X509Svid svid;
    Issuance issuance;
  };
  // `hosts` as Authority::sign().
  tl::expected<ServerSvid, std::string> server_svid(std::time_t now, std::time_t lifetime,
                                                    std::span<const std::string> hosts = {}) const;

  // X.509 and JWT authorities; its sequence number is the generation.
  const TrustDomainBundle &bundle() const noexcept { return bundle_; }
  // Those of the own trust domain alone, with the CRLs given: for TLS.
  std::shared_ptr<const BundleSet> bundle_set(std::span<const std::string> crls) const;

  // DER: one for each certificate that signed leaves which may still be good, good itself for
  // `lifetime` seconds. `revoked`: Store::revoked().
  tl::expected<std::vector<std::string>, std::string> crls(std::span<const Issuance> revoked,
                                                           std::time_t now,
                                                           std::time_t lifetime) const;

  // What lies between leaves that may still be good and their roots, DER.
  std::vector<std::string> intermediates() const;

  // public_key_digest() of the root that what is signed now ends at: the pin of tokens.
  const std::array<std::uint8_t, 32> &pin() const noexcept { return pin_; }
  // public_key_digest() of the roots in the bundle under which everything is to be replaced at
  // once.
  const std::vector<std::array<std::uint8_t, 32>> &tainted() const noexcept { return tainted_; }
  std::uint64_t generation() const noexcept { return bundle_.sequence; }
  const std::string &trust_domain() const noexcept { return trust_domain_; }

 private:
  Signer() = default;

  std::string trust_domain_;
  std::string issuer_;                        // its ID; the key of authorities_
  std::map<std::string, Authority> issuers_;  // that have signed leaves, by ID
  PkeyPtr jwt_key_;                           // null: none is active
  std::time_t jwt_not_after_ = 0;
  TrustDomainBundle bundle_;
  std::array<std::uint8_t, 32> pin_{};
  std::vector<std::array<std::uint8_t, 32>> tainted_;
};

}  // namespace inlay::identity::ca
