#include "identity/agent/judgement.h"

#include <fmt/format.h>

#include <algorithm>

#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/private_key.h"
#include "identity/verify.h"

namespace inlay::identity::agent {
namespace {

std::string chain_complaint(const X509Svid &svid, const BundleSet &bundles, std::time_t now,
                            PathRecord *record = nullptr) {
  const X509StackPtr chain(sk_X509_new_null());
  if (!chain) return "out of memory";
  for (const X509Ptr &certificate : svid.chain) {
    if (sk_X509_push(chain.get(), certificate.get()) <= 0) return "out of memory";
    X509_up_ref(certificate.get());
  }
  const auto verified = verify_x509_svid(chain.get(), bundles, now, record);
  if (verified) return {};
  const VerifyFailure &failure = verified.error();
  return fmt::format("peers would refuse it: {}{}{}", sentence(failure.error),
                     failure.detail.empty() ? "" : ": ", failure.detail);
}

}  // namespace

Judge::Judge(const Trust &trust) : crls_(trust.crls), tainted_(trust.tainted) {
  for (const auto &[trust_domain, bundle] : trust.bundles) {
    auto &authorities = bundles_[trust_domain].authorities;
    for (const std::string &der : bundle.x509_authorities) {
      X509Ptr certificate =
          certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
      if (certificate) authorities.push_back(std::move(certificate));
    }
  }
}

bool Judge::is_revoked(const X509Svid &svid) const {
  return revoked(svid.chain.front().get(), crls_);
}

bool Judge::is_tainted(const X509Svid &svid, std::time_t now) const {
  if (tainted_.empty()) return false;
  PathRecord path;
  return chain_complaint(svid, bundles_, now, &path).empty() &&
         std::ranges::find(tainted_, path.authority) != tainted_.end();
}

std::string Judge::trust_complaint(const X509Svid &svid, std::time_t now) const {
  if (is_revoked(svid)) return "it is revoked by a CRL";
  return chain_complaint(svid, bundles_, now);
}

std::string Judge::complaint(const X509Svid &svid, const SpiffeId &id, std::time_t now) const {
  const ErrorMark mark;
  if (svid.chain.empty() || !svid.key) return "it has no certificate or no key";
  if (svid.id.uri() != id.uri()) return fmt::format("it is of {}", svid.id.uri());
  if (std::string dates = date_complaint(svid, now); !dates.empty()) return dates;
  const X509 *const leaf = svid.chain.front().get();
  if (const std::string weakness = key_weakness(leaf); !weakness.empty()) {
    return "its key is " + weakness;
  }
  if (X509_check_private_key(leaf, svid.key.get()) != 1 || !halves_match(svid.key.get())) {
    return "its key does not belong to its certificate";
  }
  return trust_complaint(svid, now);
}

std::string date_complaint(const X509Svid &svid, std::time_t now) {
  if (svid.not_after <= now) {
    return fmt::format("it expired at {}, the clock here says {}", time_text(svid.not_after),
                       time_text(now));
  }
  if (svid.not_before > now + kNotBeforeSlack) {
    return fmt::format("it is valid from {} on, the clock here says {}; set the clock right",
                       time_text(svid.not_before), time_text(now));
  }
  return {};
}

}  // namespace inlay::identity::agent
