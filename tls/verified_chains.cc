#include "tls/verified_chains.h"

#include <openssl/evp.h>

#include <algorithm>
#include <limits>

#include "identity/openssl.h"

namespace inlay::tls {
namespace {

std::time_t not_after(const X509 *certificate) noexcept {
  std::tm date{};
  return ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &date) == 1 ? timegm(&date) : 0;
}

// One that names no next update is never stale.
std::time_t next_update(const X509_CRL *crl) noexcept {
  const ASN1_TIME *time = X509_CRL_get0_nextUpdate(crl);
  std::tm date{};
  return time != nullptr && ASN1_TIME_to_tm(time, &date) == 1
             ? timegm(&date)
             : std::numeric_limits<std::time_t>::max();
}

}  // namespace

std::optional<VerifiedChains::Digest> VerifiedChains::digest(const STACK_OF(X509) *chain) {
  std::vector<std::uint8_t> bytes;
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    unsigned char *der = nullptr;
    int length = i2d_X509(sk_X509_value(chain, i), &der);
    if (length <= 0) return std::nullopt;
    bytes.insert(bytes.end(), der, der + length);
    OPENSSL_free(der);
  }
  Digest result;
  std::size_t length = 0;
  if (bytes.empty() || EVP_Q_digest(identity::library_context(), "SHA256", nullptr, bytes.data(),
                                    bytes.size(), result.data(), &length) != 1)
    return std::nullopt;
  return result;
}

std::optional<VerifiedChains::Verified> VerifiedChains::find(const Digest &digest, std::time_t now) {
  std::lock_guard guard(mutex_);
  for (const Entry &entry : entries_)
    if (entry.digest == digest && entry.from <= now && now < entry.until) return entry.verified;
  return std::nullopt;
}

void VerifiedChains::remember(const Digest &digest, const STACK_OF(X509) *chain,
                              const identity::BundleSet &bundles, const Verified &verified,
                              std::time_t now) {
  std::time_t until = std::numeric_limits<std::time_t>::max();
  for (int i = 0; i < sk_X509_num(chain); ++i)
    until = std::min(until, not_after(sk_X509_value(chain, i)));
  // Which authority the path ended at is not known here: any that is still good may have been it.
  if (auto bundle = bundles.find(verified.id.trust_domain()); bundle != bundles.end()) {
    for (const identity::X509Ptr &authority : bundle->second.authorities)
      if (std::time_t end = not_after(authority.get()); end > now) until = std::min(until, end);
    for (const identity::X509CrlPtr &crl : bundle->second.crls)
      if (!bundle->second.accept_stale_crls) until = std::min(until, next_update(crl.get()));
  }
  if (until <= now) return;

  std::lock_guard guard(mutex_);
  Entry entry{digest, verified, now, until};
  for (Entry &known : entries_)
    if (known.digest == digest) {
      known = std::move(entry);
      return;
    }
  if (entries_.size() < kCapacity) {
    entries_.push_back(std::move(entry));
  } else {
    entries_[oldest_] = std::move(entry);
    oldest_ = (oldest_ + 1) % kCapacity;
  }
}

}  // namespace inlay::tls
