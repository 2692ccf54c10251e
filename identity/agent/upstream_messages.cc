#include "identity/agent/upstream_messages.h"

#include <fmt/format.h>
#include <openssl/x509.h>

#include <set>
#include <utility>

#include "identity/certificate.h"
#include "identity/crl.h"

namespace inlay::identity::agent {
namespace {

using Bytes = google::protobuf::RepeatedPtrField<std::string>;
using Bundles = google::protobuf::Map<std::string, std::string>;
using Result = tl::expected<void, std::string>;

tl::unexpected<std::string> bad(std::string message) { return tl::unexpected(std::move(message)); }

std::string der_of(const X509 *certificate) {
  std::string der(static_cast<std::size_t>(std::max(i2d_X509(certificate, nullptr), 0)), '\0');
  auto *position = reinterpret_cast<unsigned char *>(der.data());
  i2d_X509(certificate, &position);
  return der;
}

// "spiffe://example.org" -> "example.org"
tl::expected<std::string, std::string> trust_domain_of(const std::string &key) {
  const auto id = SpiffeId::parse(key);
  if (!id || !id->path().empty()) {
    return bad(fmt::format("\"{}\" is not the SPIFFE ID of a trust domain", printable(key)));
  }
  return std::string(id->trust_domain());
}

Result add_bundle(std::string_view trust_domain, const std::string &der, Trust &trust) {
  // An empty one is valid: everything of that trust domain is to be rejected.
  std::vector<std::string> authorities;
  if (!der.empty()) {
    const auto certificates = certificates_from_der(der);
    if (!certificates) {
      return bad(fmt::format("the bundle of {}: {}", trust_domain, certificates.error()));
    }
    for (const X509Ptr &certificate : *certificates) {
      authorities.push_back(der_of(certificate.get()));
    }
  }
  trust.bundles[std::string(trust_domain)].x509_authorities = std::move(authorities);
  return {};
}

Result add_bundles(const Bundles &bundles, Trust &trust) {
  for (const auto &[key, der] : bundles) {
    const auto trust_domain = trust_domain_of(key);
    if (!trust_domain) return bad(trust_domain.error());
    if (auto added = add_bundle(*trust_domain, der, trust); !added) return added;
  }
  return {};
}

Result add_crls(const Bytes &crls, Trust &trust) {
  for (const std::string &der : crls) {
    auto parsed = parse_crls(der);
    if (!parsed) return bad("a CRL: " + parsed.error());
    for (Crl &crl : *parsed) trust.crls.push_back(std::move(crl.der));
  }
  return {};
}

tl::expected<X509Svid, std::string> read_svid(const X509SVID &message,
                                              std::string_view trust_domain) {
  const auto id = SpiffeId::parse(message.spiffe_id());
  if (!id) {
    return bad(fmt::format("\"{}\" is no SPIFFE ID: {}", printable(message.spiffe_id()),
                           sentence(id.error())));
  }
  if (id->trust_domain() != trust_domain) {
    return bad(fmt::format("{} is of another trust domain than {}", id->uri(), trust_domain));
  }
  auto svid = parse_svid_der(message.x509_svid(), message.x509_svid_key());
  if (!svid) return bad(fmt::format("the SVID of {}: {}", id->uri(), svid.error().message));
  if (svid->id != *id) {
    return bad(fmt::format("the SVID of {} is one of {}", id->uri(), svid->id.uri()));
  }
  return std::move(*svid);
}

}  // namespace

tl::expected<X509State, std::string> read_message(const X509SVIDResponse &response,
                                                  std::string_view trust_domain) {
  if (response.svids().empty()) return bad("it has no SVID");
  X509State state;
  std::set<std::string> ids;
  for (const X509SVID &message : response.svids()) {
    auto svid = read_svid(message, trust_domain);
    if (!svid) return bad(svid.error());
    if (message.bundle().empty()) {
      return bad(fmt::format("there is no bundle with the SVID of {}", svid->id.uri()));
    }
    if (auto added = add_bundle(trust_domain, message.bundle(), state.trust); !added) {
      return bad(added.error());
    }
    // The first is the default one (§8): of two with one ID, it is the one to have.
    if (ids.insert(svid->id.uri()).second) state.svids.push_back(std::move(*svid));
  }
  Bundles federated = response.federated_bundles();
  federated.erase("spiffe://" + std::string(trust_domain));  // the SVIDs' own came with them
  if (auto added = add_bundles(federated, state.trust); !added) return bad(added.error());
  if (auto added = add_crls(response.crl(), state.trust); !added) return bad(added.error());
  return state;
}

tl::expected<X509State, std::string> read_message(const X509BundlesResponse &response,
                                                  std::string_view trust_domain) {
  X509State state;
  if (auto added = add_bundles(response.bundles(), state.trust); !added) return bad(added.error());
  if (auto added = add_crls(response.crl(), state.trust); !added) return bad(added.error());
  if (!state.trust.bundles.contains(trust_domain)) {
    return bad(fmt::format("it has no bundle of {}", trust_domain));
  }
  return state;
}

tl::expected<Trust, std::string> read_message(const JWTBundlesResponse &response,
                                              std::string_view trust_domain) {
  Trust trust;
  for (const auto &[key, document] : response.bundles()) {
    const auto name = trust_domain_of(key);
    if (!name) return bad(name.error());
    auto keys = parse_jwt_authorities(document);
    if (!keys) return bad(fmt::format("the JWT bundle of {}: {}", *name, keys.error().message));
    trust.bundles[*name].jwt_authorities = std::move(*keys);
  }
  if (!trust.bundles.contains(trust_domain)) {
    return bad(fmt::format("it has no JWT bundle of {}", trust_domain));
  }
  return trust;
}

}  // namespace inlay::identity::agent
