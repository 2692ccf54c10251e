// Certificate revocation lists (RFC 5280 §5): read, and looked into. Complete and direct ones only:
// a delta or an indirect CRL says nothing on its own that could be relied on.
#pragma once

#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "identity/bundle.h"
#include "identity/openssl.h"

namespace inlay::identity {

struct Crl {
  std::string der;
  std::string issuer;           // its name, for messages
  std::time_t this_update = 0;  // seconds since the epoch
  std::time_t next_update = 0;  // 0: it does not say; after it the list is stale
};

// Into library_context(); null when it is none, or something follows it.
X509CrlPtr crl_from_der(std::string_view der);

// X509 CRL blocks of PEM (at least one), or one CRL in DER. The error is one line.
tl::expected<std::vector<Crl>, std::string> parse_crls(std::string_view text);

// Whether one of `authorities` (DER certificates) has signed it. Says nothing of dates.
bool signed_by(const Crl &crl, std::span<const std::string> authorities);

// Puts it into the bundles with an authority that has signed it; there the newest list of that
// authority stands for all of its lists. False when there is none. Throws std::bad_alloc, for OpenSSL
// too: a list that is lost would let in whom it names.
bool add_crl(const Crl &crl, BundleSet &bundles, bool accept_stale);

// For one that no authority of a bundle has signed, from whom it is believed (an agent, the
// authority): an intermediate signed it. It counts where a chain holds that very intermediate, and is
// its newest. Throws std::bad_alloc.
void add_crl_of_intermediate(const Crl &crl, BundleSet &bundles, bool accept_stale);

// Whether `authority` (or intermediate) has signed it and may. Leaves OpenSSL's errors.
bool has_signed(const X509 *authority, const X509_CRL *crl);

// Whether one of `crls` (DER) names `certificate`: by its issuer and serial number.
bool revoked(const X509 *certificate, std::span<const std::string> crls);

}  // namespace inlay::identity
