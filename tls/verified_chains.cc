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

std::optional<identity::SpiffeId> VerifiedChains::find(const Digest &digest, std::time_t now) {
  std::lock_guard guard(mutex_);
  for (const Entry &entry : entries_)
    if (entry.digest == digest && entry.from <= now && now < entry.until) return entry.id;
  return std::nullopt;
}

void VerifiedChains::remember(const Digest &digest, const STACK_OF(X509) *chain,
                              const identity::BundleSet &bundles, const identity::SpiffeId &id,
                              std::time_t now) {
  std::time_t until = std::numeric_limits<std::time_t>::max();
  for (int i = 0; i < sk_X509_num(chain); ++i)
    until = std::min(until, not_after(sk_X509_value(chain, i)));
  // Which authority the path ended at is not known here: any that is still good may have been it.
  if (auto bundle = bundles.find(id.trust_domain()); bundle != bundles.end())
    for (const identity::X509Ptr &authority : bundle->second.authorities)
      if (std::time_t end = not_after(authority.get()); end > now) until = std::min(until, end);
  if (until <= now) return;

  std::lock_guard guard(mutex_);
  Entry entry{digest, id, now, until};
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
