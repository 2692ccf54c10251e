#include "identity/svid.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>
#include <climits>
#include <new>

#include "identity/certificate.h"
#include "identity/verify.h"

namespace inlay::identity {
namespace {

using PkeyContextPtr = std::unique_ptr<EVP_PKEY_CTX, OpensslDelete<EVP_PKEY_CTX_free>>;

tl::unexpected<SvidError> error(std::string message) {
  return tl::unexpected(SvidError{std::move(message)});
}

// OpenSSL would ask on the terminal of whoever is being protected.
int refuse_passphrase(char *, int, int, void *asked) {
  *static_cast<bool *>(asked) = true;
  return -1;
}

tl::expected<PkeyPtr, SvidError> parse_key(std::string_view pem) {
  if (pem.size() > INT_MAX) return error("the key is too large");
  const BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  bool encrypted = false;
  PkeyPtr key(bio ? PEM_read_bio_PrivateKey_ex(bio.get(), nullptr, refuse_passphrase, &encrypted,
                                               library_context(), nullptr)
                  : nullptr);
  if (key) return key;
  if (encrypted) return error("the key is encrypted; store it without a passphrase");
  return error("the key is not a private key in PEM");
}

// A key whose two halves do not belong together passes X509_check_private_key, which compares
// public halves only, and then fails in every handshake.
bool halves_match(EVP_PKEY *key) {
  const PkeyContextPtr context(EVP_PKEY_CTX_new_from_pkey(library_context(), key, nullptr));
  return context && EVP_PKEY_pairwise_check(context.get()) == 1;
}

tl::expected<void, SvidError> check_chain_limits(const std::vector<X509Ptr> &chain) {
  if (chain.size() > static_cast<std::size_t>(kMaxChainCertificates)) {
    return error(fmt::format("the chain has {} certificates, at most {} are accepted by peers",
                             chain.size(), kMaxChainCertificates));
  }
  std::size_t bytes = 0;
  for (const X509Ptr &certificate : chain) {
    bytes += static_cast<std::size_t>(std::max(i2d_X509(certificate.get(), nullptr), 0));
  }
  if (bytes > kMaxChainBytes) {
    return error(fmt::format("the chain has {} bytes, at most {} are accepted by peers", bytes,
                             kMaxChainBytes));
  }
  return {};
}

tl::expected<X509Svid, SvidError> parse(std::string_view chain_pem, std::string_view key_pem) {
  auto chain = certificates_from_pem(chain_pem);
  if (!chain) return error("the certificate chain: " + chain.error());
  if (chain->empty()) return error("the certificate chain holds no certificate in PEM");
  if (auto good = check_chain_limits(*chain); !good) return tl::unexpected(good.error());

  const X509 *const leaf = chain->front().get();
  const auto id = check_leaf(leaf);
  if (!id) {
    const VerifyFailure &failure = id.error();
    return error(fmt::format("its first certificate is no X.509-SVID: {}{}{}",
                             sentence(failure.error), failure.detail.empty() ? "" : ": ",
                             failure.detail));
  }
  if (const std::string weakness = key_weakness(leaf); !weakness.empty()) {
    return error("its key is " + weakness);
  }
  const auto not_before = to_time(X509_get0_notBefore(leaf));
  const auto not_after = to_time(X509_get0_notAfter(leaf));
  if (!not_before || !not_after) return error("its dates are malformed");

  auto key = parse_key(key_pem);
  if (!key) return tl::unexpected(key.error());
  if (X509_check_private_key(leaf, key->get()) != 1 || !halves_match(key->get())) {
    return error("the key does not belong to the certificate");
  }
  return X509Svid{*id, std::move(*chain), std::move(*key), *not_before, *not_after};
}

}  // namespace

tl::expected<X509Svid, SvidError> parse_svid(std::string_view chain_pem, std::string_view key_pem) {
  const ErrorMark mark;
  try {
    return parse(chain_pem, key_pem);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(SvidError{"out of memory"});
  }
}

}  // namespace inlay::identity
