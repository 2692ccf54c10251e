#include "tools/identity_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "identity/verify.h"

namespace inlay::tools {
namespace {

// Peers accept an SVID this long before its not-before, for clock skew (identity/verify.h).
constexpr std::time_t kNotBeforeSlack = 60;

bool needs_identity(const policy::Policy &policy) {
  auto strict = [](const auto &rule) { return rule.mode == policy::Mode::strict; };
  return policy.defaults.inbound == policy::Mode::strict ||
         policy.defaults.outbound == policy::Mode::strict ||
         std::any_of(policy.inbound.begin(), policy.inbound.end(), strict) ||
         std::any_of(policy.outbound.begin(), policy.outbound.end(), strict);
}

tl::unexpected<std::string> bad(std::string message) {
  return tl::make_unexpected(std::move(message));
}

identity::X509StackPtr stack_of(const identity::X509Svid &svid) {
  identity::X509StackPtr stack(sk_X509_new_null());
  for (const auto &certificate : svid.chain) {
    if (stack != nullptr && X509_up_ref(certificate.get()) == 1 &&
        sk_X509_push(stack.get(), certificate.get()) == 0) {
      X509_free(certificate.get());
    }
  }
  return stack;
}

}  // namespace

std::string utc_time(std::time_t time) {
  std::tm broken{};
  ::gmtime_r(&time, &broken);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", broken.tm_year + 1900,
                     broken.tm_mon + 1, broken.tm_mday, broken.tm_hour, broken.tm_min,
                     broken.tm_sec);
}

tl::expected<std::optional<CheckedIdentity>, std::string> check_identity(
    const policy::Policy &policy, std::time_t now) {
  const policy::IdentitySource &files = policy.identity;
  if (files.svid.empty()) {
    if (needs_identity(policy))
      return bad("rules are strict, but [identity] names no SVID; add it");
    return std::nullopt;
  }
  auto material = identity::load_files(
      {files.svid, files.key, files.bundle, policy.trust_domain, files.further_bundles, files.crl,
       files.accept_stale_crl});
  if (!material) return bad(material.error().message);
  const identity::X509Svid &svid = material->svid;
  auto own = material->bundles.find(policy.trust_domain);
  if (own == material->bundles.end() || own->second.authorities.empty()) {
    return bad(fmt::format("{}: holds no authority of trust domain {}; every peer would be refused",
                           files.bundle, policy.trust_domain));
  }
  if (svid.not_after <= now) {
    return bad(
        fmt::format("{}: the SVID of {} expired at {} and this clock says {}; issue a new one",
                    files.svid, svid.id.uri(), utc_time(svid.not_after), utc_time(now)));
  }
  if (svid.not_before > now + kNotBeforeSlack) {
    return bad(fmt::format(
        "{}: the SVID of {} is valid from {} but this clock says {}; set the clock, or wait",
        files.svid, svid.id.uri(), utc_time(svid.not_before), utc_time(now)));
  }
  identity::X509StackPtr chain = stack_of(svid);
  auto verified = identity::verify_x509_svid(chain.get(), material->bundles, now);
  if (!verified) {
    std::string detail = verified.error().detail;
    identity::VerifyError error = verified.error().error;
    if (error == identity::VerifyError::expired || error == identity::VerifyError::not_yet_valid) {
      detail += fmt::format("{}this clock says {}", detail.empty() ? "" : ", ", utc_time(now));
    }
    return bad(fmt::format(
        "{}: peers would refuse this SVID with {}: {}{}{}; issue it anew, or "
        "correct the bundle",
        files.svid, files.bundle, identity::sentence(error), detail.empty() ? "" : ": ", detail));
  }
  return CheckedIdentity{svid.id.uri(), svid.not_before, svid.not_after};
}

}  // namespace inlay::tools
