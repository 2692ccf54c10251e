#include "identity/ca/signer.h"

#include <fmt/format.h>

#include <algorithm>

#include "identity/ca/authority_rows.h"
#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/jwk.h"
#include "identity/jwt_svid.h"

namespace inlay::identity::ca {
namespace {

constexpr std::string_view kServerPath = "/inlay/ca";

// Has it a key that signed leaves which may still be good?
bool signs_crls(const AuthorityRow &row) {
  return row.kind == AuthorityKind::intermediate && row.state != AuthorityState::revoked &&
         !row.sealed_key.empty();
}

std::string id_of(const Authority &upstream) {
  const auto digest = public_key_digest(upstream.certificate());
  return fmt::format("upstream-{:02x}", fmt::join(digest.begin(), digest.begin() + 8, ""));
}

}  // namespace

tl::expected<Signer, std::string> Signer::open(const AuthorityRows &rows, std::uint64_t generation,
                                               const Seal &seal, const std::string &trust_domain,
                                               std::optional<Authority> upstream) {
  Signer made;
  made.trust_domain_ = trust_domain;
  made.bundle_.sequence = generation;
  const bool by_files = upstream.has_value();
  if (upstream) {
    made.issuer_ = id_of(*upstream);
    for (const X509Ptr &anchor : upstream->anchors()) {
      made.bundle_.x509_authorities.push_back(certificate_der(anchor.get()));
    }
    made.issuers_.emplace(made.issuer_, std::move(*upstream));
  }
  for (const AuthorityRow &row : rows) {
    if (row.state == AuthorityState::revoked) continue;
    if (row.kind == AuthorityKind::jwt) {
      const PkeyPtr key = public_key_from_der(row.certificate);
      if (!key) return tl::unexpected(fmt::format("the JWT key {} is damaged", row.id));
      made.bundle_.jwt_authorities.emplace(jwt_key_id(key.get()), row.certificate);
      if (row.state != AuthorityState::active) continue;
      auto unsealed = seal.unseal(row.sealed_key, sealed_as(row));
      if (!unsealed) return tl::unexpected(std::move(unsealed.error()));
      made.jwt_key_ = std::move(*unsealed);
      made.jwt_not_after_ = row.not_after;
    } else if (by_files) {
      continue;  // of the time before it was an upstream's
    } else if (row.kind == AuthorityKind::root) {
      made.bundle_.x509_authorities.push_back(row.certificate);
      if (row.state != AuthorityState::tainted) continue;
      const X509Ptr root = certificate_of(row);
      if (!root) return tl::unexpected(fmt::format("the root {} is damaged", row.id));
      made.tainted_.push_back(public_key_digest(root.get()));
    } else if (signs_crls(row)) {
      const auto root = std::find_if(rows.begin(), rows.end(), [&](const AuthorityRow &other) {
        return other.id == row.issuer;
      });
      if (root == rows.end()) {
        return tl::unexpected(fmt::format("the intermediate {} has no root", row.id));
      }
      auto authority = unsealed_intermediate(row, *root, seal, trust_domain);
      if (!authority) return tl::unexpected(std::move(authority.error()));
      made.issuers_.emplace(row.id, std::move(*authority));
      if (row.state == AuthorityState::active) made.issuer_ = row.id;
    }
  }
  if (const auto current = made.issuers_.find(made.issuer_); current != made.issuers_.end()) {
    if (const X509 *const root = current->second.root()) made.pin_ = public_key_digest(root);
  }
  return made;
}

tl::expected<SignedX509, std::string> Signer::sign(const SpiffeId &id, EVP_PKEY *key,
                                                   std::time_t now, std::time_t lifetime,
                                                   std::span<const std::string> hosts) const {
  const auto issuer = issuers_.find(issuer_);
  if (issuer == issuers_.end()) {
    return tl::unexpected(
        std::string("there is no active authority to sign with: see inlay ca "
                    "rotate status"));
  }
  const Authority &authority = issuer->second;
  if (authority.not_after() <= now) {
    return tl::unexpected(
        fmt::format("the authority ended at {}, the clock here says {}: see inlay ca rotate status",
                    time_text(authority.not_after()), time_text(now)));
  }
  auto made = authority.sign(id, key, now, std::min(lifetime, authority.not_after() - now), hosts);
  if (!made) return tl::unexpected(std::move(made.error().message));
  return SignedX509{std::move(made->chain),
                    {.serial = std::move(made->serial),
                     .spiffe_id = id.uri(),
                     .node = "",
                     .issuer = issuer_,
                     .issued_at = now,
                     .not_after = made->not_after,
                     .revoked_at = 0,
                     .reason = ""}};
}

tl::expected<SignedJwt, std::string> Signer::sign_jwt(const SpiffeId &id,
                                                      std::span<const std::string> audience,
                                                      std::time_t now, std::time_t lifetime) const {
  if (id.trust_domain() != trust_domain_ || id.path().empty()) {
    return tl::unexpected(
        fmt::format("{} is no workload of the trust domain {}", id.uri(), trust_domain_));
  }
  if (!jwt_key_ || jwt_not_after_ <= now) {
    return tl::unexpected(
        std::string("there is no active key for JWT-SVIDs: see inlay ca rotate "
                    "status"));
  }
  lifetime = std::min(lifetime, jwt_not_after_ - now);
  auto token = issue_jwt_svid(id, audience, jwt_key_.get(), now, lifetime);
  if (!token) {
    return tl::unexpected(
        fmt::format("no JWT-SVID can be issued: {}{}{}", sentence(token.error().error),
                    token.error().detail.empty() ? "" : ": ", token.error().detail));
  }
  return SignedJwt{std::move(*token), now + lifetime};
}

std::vector<std::string> Signer::intermediates() const {
  std::vector<std::string> out;
  for (const auto &[id, authority] : issuers_) {
    for (std::string &der : authority.between()) {
      if (std::ranges::find(out, der) == out.end()) out.push_back(std::move(der));
    }
  }
  return out;
}

tl::expected<Signer::ServerSvid, std::string> Signer::server_svid(
    std::time_t now, std::time_t lifetime, std::span<const std::string> hosts) const {
  PkeyPtr key = make_authority_key();
  const auto id = SpiffeId::parse(fmt::format("spiffe://{}{}", trust_domain_, kServerPath));
  if (!key || !id) return tl::unexpected(std::string("OpenSSL could not make a key"));
  auto made = sign(*id, key.get(), now, lifetime, hosts);
  if (!made) return tl::unexpected(std::move(made.error()));
  std::vector<std::string> chain = std::move(made->chain);
  if (const X509 *const root = issuers_.at(issuer_).root()) chain.push_back(certificate_der(root));
  auto svid = parse_svid_without_key(chain);
  if (!svid) return tl::unexpected(std::move(svid.error().message));
  svid->key = std::move(key);
  return ServerSvid{std::move(*svid), std::move(made->issuance)};
}

std::shared_ptr<const BundleSet> Signer::bundle_set(std::span<const std::string> crls) const {
  auto set = std::make_shared<BundleSet>();
  Bundle &bundle = (*set)[trust_domain_];
  bundle.sequence = bundle_.sequence;
  for (const std::string &der : bundle_.x509_authorities) {
    if (X509Ptr authority = certificate_from_der(
            {reinterpret_cast<const unsigned char *>(der.data()), der.size()})) {
      bundle.authorities.push_back(std::move(authority));
    }
  }
  for (const std::string &der : crls) {
    const Crl crl{.der = der, .issuer = ""};
    if (!add_crl(crl, *set, true)) add_crl_of_intermediate(crl, *set, true);
  }
  return set;
}

tl::expected<std::vector<std::string>, std::string> Signer::crls(std::span<const Issuance> revoked,
                                                                 std::time_t now,
                                                                 std::time_t lifetime) const {
  std::vector<std::string> out;
  for (const auto &[id, authority] : issuers_) {
    std::vector<RevokedSerial> serials;
    for (const Issuance &issuance : revoked) {
      if (issuance.issuer == id) serials.push_back({issuance.serial, issuance.revoked_at});
    }
    auto crl = authority.make_crl(serials, now, lifetime);
    if (!crl) return tl::unexpected(std::move(crl.error().message));
    out.push_back(std::move(*crl));
  }
  return out;
}

}  // namespace inlay::identity::ca
