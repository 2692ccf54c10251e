#include "shim/session/agent_material.h"

#include "identity/certificate.h"
#include "identity/crl.h"
#include "tls/remote_key.h"

namespace inlay::shim {
namespace {

tl::unexpected<std::string> error(std::string message) {
  return tl::unexpected(std::move(message));
}

}  // namespace

tl::expected<identity::X509Svid, std::string> svid_of(const identity::AgentSnapshot &snapshot) {
  if (snapshot.svid.empty()) return error(snapshot.why_no_svid);
  auto svid = identity::parse_svid_without_key(snapshot.svid);
  if (!svid) return error("the agent's SVID: " + svid.error().message);
  svid->key = tls::make_remote_key(X509_get0_pubkey(svid->chain.front().get()));
  if (svid->key == nullptr) return error("the agent's SVID: a key that cannot be used");
  return *std::move(svid);
}

tl::expected<identity::BundleSet, std::string> bundles_of(const identity::AgentSnapshot &snapshot,
                                                          bool accept_stale_crls) {
  identity::BundleSet bundles;
  for (const auto &[trust_domain, authorities] : snapshot.bundles) {
    identity::Bundle &bundle = bundles[trust_domain];
    for (const std::string &der : authorities) {
      auto authority = identity::certificate_from_der(
          {reinterpret_cast<const unsigned char *>(der.data()), der.size()});
      // Half a bundle would look like a revocation of the other half.
      if (authority == nullptr) return error("the agent's bundle of " + trust_domain + ": not DER");
      bundle.authorities.push_back(std::move(authority));
    }
  }
  for (const std::string &der : snapshot.crls) {
    auto crls = identity::parse_crls(der);
    // One that is lost would let in whom it names.
    if (!crls) return error("the agent's CRL: " + crls.error());
    // Of an authority that has left the bundles meanwhile: nobody verifies by it any more.
    for (const identity::Crl &crl : *crls) {
      if (!identity::add_crl(crl, bundles, accept_stale_crls)) {
        identity::add_crl_of_intermediate(crl, bundles, accept_stale_crls);
      }
    }
  }
  return bundles;
}

}  // namespace inlay::shim
