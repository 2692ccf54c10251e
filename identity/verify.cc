#include "identity/verify.h"

#include <fmt/format.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <new>
#include <optional>

#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/extensions.h"
#include "identity/memory.h"

namespace inlay::identity {
namespace {

using StoreContextPtr = std::unique_ptr<X509_STORE_CTX, OpensslDelete<X509_STORE_CTX_free>>;
// References nothing: the certificates belong to the bundle or to the peer's chain.
inline void free_stack_only(STACK_OF(X509) * stack) { sk_X509_free(stack); }
using BorrowedStackPtr = std::unique_ptr<STACK_OF(X509), OpensslDelete<free_stack_only>>;

// Authorities tried one by one when a signature fails; see find_path.
constexpr std::size_t kMaxSingleAuthorities = 16;

tl::unexpected<VerifyFailure> failure(VerifyError error, std::string detail) {
  return tl::unexpected(VerifyFailure{error, std::move(detail)});
}

tl::expected<void, VerifyFailure> check_signing_ids(const X509 *signer,
                                                    std::string_view trust_domain) {
  const auto uris = uri_names(signer);
  if (!uris) {
    return failure(VerifyError::intermediate,
                   fmt::format("{}: {}", subject_text(signer), uris.error()));
  }
  for (const std::string &uri : *uris) {
    // Corporate authorities may carry URIs of other schemes.
    if (!uri.starts_with("spiffe:")) continue;
    const auto id = SpiffeId::parse(uri);
    if (!id || !id->path().empty() || id->trust_domain() != trust_domain) {
      return failure(VerifyError::intermediate,
                     fmt::format("the authority's own ID {} is not spiffe://{}", printable(uri),
                                 trust_domain));
    }
  }
  return {};
}

// X509-SVID §3.2, §4.1, §4.3, signing certificates: cA, keyCertSign, and an ID, if there is one,
// without a path and of the leaf's trust domain. The bundle's own certificates are held to it too.
tl::expected<void, VerifyFailure> check_signer(const X509 *signer, std::string_view trust_domain,
                                               bool in_bundle) {
  // 1 is a v3 certificate with cA; other true values are older guesses at what an authority is.
  if (X509_check_ca(mutable_view(signer)) != 1) {
    return failure(VerifyError::intermediate,
                   fmt::format("{} is not an authority (cA)", subject_text(signer)));
  }
  const auto usage = key_usage(signer);
  if (!usage || (*usage & X509v3_KU_KEY_CERT_SIGN) == 0) {
    return failure(VerifyError::intermediate,
                   fmt::format("{} may not sign certificates (keyUsage without keyCertSign)",
                               subject_text(signer)));
  }
  // An authority restricted to other uses can not confer ours. Roots are trusted for what the
  // bundle says, not for what they say.
  const auto extended = extended_key_usage(signer);
  if (!in_bundle && extended && !for_both_roles(*extended) && (*extended & XKU_ANYEKU) == 0) {
    return failure(
        VerifyError::intermediate,
        fmt::format("{} is restricted to other extended key usages", subject_text(signer)));
  }
  return check_signing_ids(signer, trust_domain);
}

tl::expected<void, VerifyFailure> check_strength(const X509 *certificate, bool signature_counts) {
  if (const std::string weakness = key_weakness(certificate); !weakness.empty()) {
    return failure(VerifyError::weak,
                   fmt::format("{}: its key is {}", subject_text(certificate), weakness));
  }
  if (!signature_counts) return {};
  if (const std::string weakness = signature_weakness(certificate); !weakness.empty()) {
    return failure(VerifyError::weak, fmt::format("{}: its signature's hash is {}",
                                                  subject_text(certificate), weakness));
  }
  return {};
}

tl::expected<void, VerifyFailure> check_limits(const STACK_OF(X509) * chain) {
  if (chain == nullptr || sk_X509_num(chain) <= 0) {
    return failure(VerifyError::no_certificate, "");
  }
  if (sk_X509_num(chain) > kMaxChainCertificates) {
    return failure(
        VerifyError::chain_too_long,
        fmt::format("{} certificates, at most {}", sk_X509_num(chain), kMaxChainCertificates));
  }
  std::size_t bytes = 0;
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    const int length = i2d_X509(sk_X509_value(chain, i), nullptr);
    if (length <= 0) return failure(VerifyError::malformed, "");
    bytes += static_cast<std::size_t>(length);
  }
  if (bytes > kMaxChainBytes) {
    return failure(VerifyError::chain_too_long,
                   fmt::format("{} bytes, at most {}", bytes, kMaxChainBytes));
  }
  return {};
}

// X509_verify_cert allows no clock skew; this allows kNotBeforeSlack.
int allow_clock_skew(int good, X509_STORE_CTX *context) {
  if (good == 1 || X509_STORE_CTX_get_error(context) != X509_V_ERR_CERT_NOT_YET_VALID) return good;
  const X509 *const certificate = X509_STORE_CTX_get_current_cert(context);
  const auto not_before =
      certificate != nullptr ? to_time(X509_get0_notBefore(certificate)) : std::nullopt;
  const std::time_t now = X509_VERIFY_PARAM_get_time(X509_STORE_CTX_get0_param(context));
  if (!not_before || *not_before > now + kNotBeforeSlack) return 0;
  X509_STORE_CTX_set_error(context, X509_V_OK);
  return 1;
}

// RFC 5280 §6 by OpenSSL, up to any certificate in `trusted`. The context holds the path or what
// is wrong with it; null when out of memory.
StoreContextPtr try_path(const X509 *leaf, const STACK_OF(X509) * chain, STACK_OF(X509) * trusted,
                         std::time_t now) {
  StoreContextPtr context(X509_STORE_CTX_new_ex(library_context(), nullptr));
  // The chain is only read: what is put in order is a copy.
  if (!context || X509_STORE_CTX_init(context.get(), nullptr, mutable_view(leaf),
                                      const_cast<STACK_OF(X509) *>(chain)) != 1) {
    return nullptr;
  }
  X509_STORE_CTX_set0_trusted_stack(context.get(), trusted);
  X509_STORE_CTX_set_verify_cb(context.get(), allow_clock_skew);
  X509_VERIFY_PARAM *const parameters = X509_STORE_CTX_get0_param(context.get());
  X509_VERIFY_PARAM_set_flags(parameters, X509_V_FLAG_PARTIAL_CHAIN | X509_V_FLAG_TRUSTED_FIRST);
  X509_VERIFY_PARAM_set_time(parameters, now);
  X509_VERIFY_PARAM_set_depth(parameters, kMaxChainCertificates);
  X509_VERIFY_PARAM_set_auth_level(parameters, 2);  // 112 bits: no SHA-1, no RSA below 2048
  // DNS name constraints must not be applied to a common name: nobody reads names from there.
  X509_VERIFY_PARAM_set_hostflags(parameters, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  if (X509_verify_cert(context.get()) <= 0 &&
      X509_STORE_CTX_get_error(context.get()) == X509_V_OK) {
    X509_STORE_CTX_set_error(context.get(), X509_V_ERR_UNSPECIFIED);
  }
  return context;
}

BorrowedStackPtr stack_of(const std::vector<X509Ptr> &certificates) {
  BorrowedStackPtr stack(sk_X509_new_reserve(nullptr, static_cast<int>(certificates.size())));
  if (!stack) return nullptr;
  for (const X509Ptr &certificate : certificates) {
    if (sk_X509_push(stack.get(), certificate.get()) <= 0) return nullptr;
  }
  return stack;
}

// The stacks live as long as the context that points to them.
struct Path {
  BorrowedStackPtr trusted;
  StoreContextPtr context;
};

std::optional<Path> find_path(const X509 *leaf, const STACK_OF(X509) * chain, const Bundle &bundle,
                              std::time_t now) {
  Path path{stack_of(bundle.authorities), nullptr};
  if (!path.trusted) return std::nullopt;
  path.context = try_path(leaf, chain, path.trusted.get(), now);
  if (!path.context) return std::nullopt;
  if (X509_STORE_CTX_get_error(path.context.get()) != X509_V_ERR_CERT_SIGNATURE_FAILURE) {
    return path;
  }
  // OpenSSL picks an issuer by its name and key identifier and does not come back to try another.
  // After a rotation two authorities may have one name, and no identifiers to tell them apart.
  const std::size_t candidates = std::min(bundle.authorities.size(), kMaxSingleAuthorities);
  for (std::size_t i = 0; candidates > 1 && i < candidates; ++i) {
    Path single{BorrowedStackPtr(sk_X509_new_null()), nullptr};
    if (!single.trusted || sk_X509_push(single.trusted.get(), bundle.authorities[i].get()) <= 0) {
      return std::nullopt;
    }
    single.context = try_path(leaf, chain, single.trusted.get(), now);
    if (!single.context) return std::nullopt;
    if (X509_STORE_CTX_get_error(single.context.get()) == X509_V_OK) return single;
  }
  return path;
}

VerifyError classify(int error, int depth) {
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return VerifyError::expired;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return VerifyError::not_yet_valid;
    case X509_V_ERR_ERROR_IN_CERT_NOT_BEFORE_FIELD:
    case X509_V_ERR_ERROR_IN_CERT_NOT_AFTER_FIELD:
      return VerifyError::malformed;
    case X509_V_ERR_INVALID_CA:
    case X509_V_ERR_PATH_LENGTH_EXCEEDED:
    case X509_V_ERR_KEYUSAGE_NO_CERTSIGN:
    case X509_V_ERR_PERMITTED_VIOLATION:
    case X509_V_ERR_EXCLUDED_VIOLATION:
    case X509_V_ERR_SUBTREE_MINMAX:
    case X509_V_ERR_UNSUPPORTED_CONSTRAINT_TYPE:
    case X509_V_ERR_UNSUPPORTED_CONSTRAINT_SYNTAX:
    case X509_V_ERR_UNSUPPORTED_NAME_SYNTAX:
      return VerifyError::intermediate;
    case X509_V_ERR_INVALID_EXTENSION:
    case X509_V_ERR_UNHANDLED_CRITICAL_EXTENSION:
      return depth == 0 ? VerifyError::malformed : VerifyError::intermediate;
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
    case X509_V_ERR_EC_KEY_EXPLICIT_PARAMS:
    case X509_V_ERR_UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY:
      return VerifyError::weak;
    case X509_V_ERR_CERT_CHAIN_TOO_LONG:
      return VerifyError::chain_too_long;
    case X509_V_ERR_OUT_OF_MEM:
    case X509_V_ERR_UNSPECIFIED:
    case X509_V_ERR_INVALID_CALL:
    case X509_V_ERR_STORE_LOOKUP:
      return VerifyError::internal;
    default:
      return VerifyError::untrusted;
  }
}

// A sent certificate that has the missing issuer's name but may not be one: OpenSSL passes over it
// and then knows of no issuer, which would leave the reader without the cause.
const X509 *unfit_issuer(const X509 *certificate, const STACK_OF(X509) * chain) {
  const X509_NAME *const wanted = X509_get_issuer_name(certificate);
  for (int i = 1; i < sk_X509_num(chain); ++i) {
    const X509 *const sent = sk_X509_value(chain, i);
    if (sent != certificate && X509_NAME_cmp(X509_get_subject_name(sent), wanted) == 0 &&
        X509_check_ca(mutable_view(sent)) != 1) {
      return sent;
    }
  }
  return nullptr;
}

tl::unexpected<VerifyFailure> explain(X509_STORE_CTX *context, const STACK_OF(X509) * chain,
                                      std::string_view trust_domain) {
  const int error = X509_STORE_CTX_get_error(context);
  const int depth = X509_STORE_CTX_get_error_depth(context);
  const X509 *const current = X509_STORE_CTX_get_current_cert(context);
  const VerifyError kind = classify(error, depth);
  if (current == nullptr) return failure(kind, X509_verify_cert_error_string(error));
  const std::string subject = subject_text(current);
  if (kind == VerifyError::expired) {
    return failure(kind, fmt::format("{} expired at {}", subject,
                                     time_text(to_time(X509_get0_notAfter(current)).value_or(0))));
  }
  if (kind == VerifyError::not_yet_valid) {
    return failure(kind, fmt::format("{} is valid from {}", subject,
                                     time_text(to_time(X509_get0_notBefore(current)).value_or(0))));
  }
  if (kind == VerifyError::untrusted) {
    if (const X509 *const unfit = unfit_issuer(current, chain); unfit != nullptr) {
      return failure(VerifyError::intermediate,
                     fmt::format("{} is not an authority (cA)", subject_text(unfit)));
    }
    return failure(kind, fmt::format("{} at {}, in the bundle of {}",
                                     X509_verify_cert_error_string(error), subject, trust_domain));
  }
  return failure(kind, fmt::format("{}: {}", subject, X509_verify_cert_error_string(error)));
}

// What one CRL of the certificate's issuer says of it.
tl::expected<void, VerifyFailure> judge_by(X509_CRL *crl, const X509 *certificate,
                                           bool accept_stale, std::time_t now) {
  X509_REVOKED *entry = nullptr;
  // OpenSSL only reads the number.
  auto *const serial = const_cast<ASN1_INTEGER *>(X509_get0_serialNumber(certificate));
  if (X509_CRL_get0_by_serial(crl, &entry, serial) == 1) {
    return failure(VerifyError::revoked, subject_text(certificate));
  }
  const ASN1_TIME *const next = X509_CRL_get0_nextUpdate(crl);
  const auto until = next == nullptr ? std::nullopt : to_time(next);
  if (until && *until < now && !accept_stale) {
    return failure(VerifyError::crl_stale, fmt::format("no newer one since {}", time_text(*until)));
  }
  return {};
}

// RFC 5280 §6.3, with complete CRLs of the certificate's own issuer, `signer`. Signatures were
// checked when a CRL was taken in, but of those of intermediates, which come with the chain.
tl::expected<void, VerifyFailure> check_revocation(const X509 *certificate, const X509 *signer,
                                                   const Bundle &bundle, std::time_t now) {
  const X509_NAME *const issuer = X509_get_issuer_name(certificate);
  for (const X509CrlPtr &crl : bundle.crls) {
    if (X509_NAME_cmp(issuer, X509_CRL_get_issuer(crl.get())) != 0) continue;
    auto good = judge_by(crl.get(), certificate, bundle.accept_stale_crls, now);
    if (!good) return good;
  }
  X509_CRL *newest = nullptr;
  for (const X509CrlPtr &crl : bundle.crls_of_intermediates) {
    if (!has_signed(signer, crl.get())) continue;
    if (newest == nullptr || ASN1_TIME_compare(X509_CRL_get0_lastUpdate(newest),
                                               X509_CRL_get0_lastUpdate(crl.get())) < 0) {
      newest = crl.get();
    }
  }
  if (newest == nullptr) return {};
  return judge_by(newest, certificate, bundle.accept_stale_crls, now);
}

std::array<std::uint8_t, 32> name_digest(const X509_NAME *name) {
  std::array<std::uint8_t, 32> digest{};
  const unsigned char *der = nullptr;
  std::size_t length = 0;
  if (X509_NAME_get0_der(name, &der, &length) == 1) {
    EVP_Q_digest(library_context(), "SHA256", nullptr, der, length, digest.data(), nullptr);
  }
  return digest;
}

PathRecord record_of(const X509 *leaf, const X509 *authority) {
  PathRecord record;
  record.authority = public_key_digest(authority);
  record.issuer = name_digest(X509_get_issuer_name(leaf));
  const ASN1_INTEGER *const serial = X509_get0_serialNumber(leaf);
  const int length = ASN1_STRING_length(serial);
  if (length > 0 && static_cast<std::size_t>(length) <= record.serial.size()) {
    std::copy_n(ASN1_STRING_get0_data(serial), length, record.serial.begin());
    record.serial_length = static_cast<std::uint8_t>(length);
  }
  return record;
}

tl::expected<SpiffeId, VerifyFailure> verify(const STACK_OF(X509) * chain, const BundleSet &bundles,
                                             std::time_t now, PathRecord *record) {
  if (auto good = check_limits(chain); !good) return tl::unexpected(good.error());
  const X509 *const leaf = sk_X509_value(chain, 0);
  auto id = check_leaf(leaf);
  if (!id) return id;
  const std::string_view trust_domain = id->trust_domain();

  // X509-SVID §5.1: the bundle of the leaf's own trust domain and no other, not even as a source of
  // intermediates.
  const auto bundle = bundles.find(trust_domain);
  if (bundle == bundles.end()) {
    return failure(VerifyError::unknown_trust_domain,
                   fmt::format("no bundle is configured for {}", trust_domain));
  }
  if (bundle->second.authorities.empty()) {
    return failure(VerifyError::untrusted, fmt::format("the bundle of {} is empty", trust_domain));
  }
  if (auto good = check_strength(leaf, true); !good) return tl::unexpected(good.error());

  const auto path = find_path(leaf, chain, bundle->second, now);
  if (!path) return failure(VerifyError::internal, "out of memory");
  if (X509_STORE_CTX_get_error(path->context.get()) != X509_V_OK) {
    return explain(path->context.get(), chain, trust_domain);
  }

  const STACK_OF(X509) *const verified = X509_STORE_CTX_get0_chain(path->context.get());
  const int length = sk_X509_num(verified);
  // A partial path may consist of a leaf that is in the bundle itself; a leaf is no authority.
  if (length < 2) {
    return failure(VerifyError::untrusted, "the certificate itself is in the bundle, no authority");
  }
  for (int i = 1; i < length; ++i) {
    const X509 *const signer = sk_X509_value(verified, i);
    const bool in_bundle = i == length - 1;
    if (auto good = check_signer(signer, trust_domain, in_bundle); !good) {
      return tl::unexpected(good.error());
    }
    // What signed an authority of the bundle does not matter: the bundle vouches for it.
    if (auto good = check_strength(signer, !in_bundle); !good) return tl::unexpected(good.error());
  }
  for (int i = 0; i < length - 1; ++i) {
    auto good = check_revocation(sk_X509_value(verified, i), sk_X509_value(verified, i + 1),
                                 bundle->second, now);
    if (!good) return tl::unexpected(good.error());
  }
  if (record != nullptr) *record = record_of(leaf, sk_X509_value(verified, length - 1));
  return id;
}

}  // namespace

tl::expected<SpiffeId, VerifyFailure> verify_x509_svid(const STACK_OF(X509) * chain,
                                                       const BundleSet &bundles, std::time_t now,
                                                       PathRecord *record) {
  const ErrorMark mark;
  const MemoryWatch watch;
  try {
    auto id = verify(chain, bundles, now, record);
    // An extension that restricts it, or a CRL that names it, may have been passed over.
    if (watch.ran_out()) return tl::unexpected(VerifyFailure{VerifyError::internal, {}});
    return id;
  } catch (const std::bad_alloc &) {
    return tl::unexpected(VerifyFailure{VerifyError::internal, {}});
  }
}

std::optional<VerifyError> judge_again(const PathRecord &record, const Bundle &bundle) {
  const ErrorMark mark;
  const MemoryWatch watch;
  const bool trusted = std::any_of(bundle.authorities.begin(), bundle.authorities.end(),
                                   [&](const X509Ptr &authority) {
                                     return public_key_digest(authority.get()) == record.authority;
                                   });
  if (watch.ran_out()) throw std::bad_alloc();
  if (!trusted) return VerifyError::untrusted;
  const std::unique_ptr<ASN1_INTEGER, OpensslDelete<ASN1_INTEGER_free>> serial(ASN1_INTEGER_new());
  if (record.serial_length == 0 || serial == nullptr ||
      ASN1_STRING_set(serial.get(), record.serial.data(), record.serial_length) != 1) {
    return std::nullopt;
  }
  const auto names_it = [&](const X509CrlPtr &crl) {
    X509_REVOKED *entry = nullptr;
    return name_digest(X509_CRL_get_issuer(crl.get())) == record.issuer &&
           X509_CRL_get0_by_serial(crl.get(), &entry, serial.get()) == 1;
  };
  // The intermediate itself is not in the record: its name and who gave the CRL must do.
  for (const auto *crls : {&bundle.crls, &bundle.crls_of_intermediates}) {
    if (std::any_of(crls->begin(), crls->end(), names_it)) return VerifyError::revoked;
  }
  if (watch.ran_out()) throw std::bad_alloc();
  return std::nullopt;
}

}  // namespace inlay::identity
