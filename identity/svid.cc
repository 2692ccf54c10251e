#include "identity/svid.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>

#include "identity/certificate.h"
#include "identity/private_key.h"
#include "identity/verify.h"

namespace inlay::identity {
namespace {

tl::unexpected<SvidError> error(std::string message) {
  return tl::unexpected(SvidError{std::move(message)});
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

tl::expected<X509Svid, SvidError> judge(std::vector<X509Ptr> chain) {
  if (chain.empty()) return error("there is no certificate");
  if (auto good = check_chain_limits(chain); !good) return tl::unexpected(good.error());

  const X509 *const leaf = chain.front().get();
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
  return X509Svid{*id, std::move(chain), nullptr, *not_before, *not_after};
}

using Chain = tl::expected<std::vector<X509Ptr>, std::string>;
using Key = tl::expected<PkeyPtr, std::string>;

tl::expected<X509Svid, SvidError> put_together(Chain chain, Key key) {
  if (!chain) return error("the certificate chain: " + chain.error());
  if (chain->empty()) return error("the certificate chain holds no certificate in PEM");
  auto svid = judge(*std::move(chain));
  if (!svid) return svid;

  if (!key) return error(key.error());
  if (X509_check_private_key(svid->chain.front().get(), key->get()) != 1 ||
      !halves_match(key->get())) {
    return error("the key does not belong to the certificate");
  }
  svid->key = *std::move(key);
  return svid;
}

tl::expected<X509Svid, SvidError> parse_der(const std::vector<std::string> &chain_der) {
  std::vector<X509Ptr> chain;
  for (const std::string &der : chain_der) {
    chain.push_back(
        certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()}));
    if (chain.back() == nullptr) return error("the certificate chain is not in DER");
  }
  return judge(std::move(chain));
}

template <typename Parse>
tl::expected<X509Svid, SvidError> guarded(Parse attempt) {
  const ErrorMark mark;
  try {
    return attempt();
  } catch (const std::bad_alloc &) {
    return tl::unexpected(SvidError{"out of memory"});
  }
}

}  // namespace

tl::expected<X509Svid, SvidError> parse_svid(std::string_view chain_pem, std::string_view key_pem) {
  return guarded([&] {
    return put_together(certificates_from_pem(chain_pem), private_key_from_pem(key_pem));
  });
}

tl::expected<X509Svid, SvidError> parse_svid_without_key(
    const std::vector<std::string> &chain_der) {
  return guarded([&] { return parse_der(chain_der); });
}

tl::expected<X509Svid, SvidError> parse_svid_der(std::string_view chain, std::string_view key) {
  return guarded(
      [&] { return put_together(certificates_from_der(chain), private_key_from_der(key)); });
}

X509Svid share(const X509Svid &svid) {
  // Taking a reference fails for no other reason than a counter that would overflow.
  X509Svid copy{svid.id, {}, nullptr, svid.not_before, svid.not_after};
  for (const X509Ptr &certificate : svid.chain) {
    X509_up_ref(certificate.get());
    copy.chain.emplace_back(certificate.get());
  }
  EVP_PKEY_up_ref(svid.key.get());
  copy.key.reset(svid.key.get());
  return copy;
}

}  // namespace inlay::identity
