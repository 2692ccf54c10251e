// The rules of X509-SVID for the leaf alone; the path to an authority is in verify.cc.
#include <fmt/format.h>

#include <new>

#include "identity/certificate.h"
#include "identity/extensions.h"
#include "identity/verify.h"

namespace inlay::identity {
namespace {

tl::unexpected<VerifyFailure> failure(VerifyError error, std::string detail) {
  return tl::unexpected(VerifyFailure{error, std::move(detail)});
}

// X509-SVID §2: exactly one URI SAN. SANs of other kinds are of no interest.
tl::expected<SpiffeId, VerifyFailure> single_spiffe_id(const X509 *leaf) {
  const auto uris = uri_names(leaf);
  if (!uris) return failure(VerifyError::malformed, uris.error());
  if (uris->empty()) {
    return failure(VerifyError::no_uri_san, fmt::format("the subject is {}", subject_text(leaf)));
  }
  const std::string &uri = uris->front();
  if (uris->size() > 1) {
    return failure(VerifyError::several_uri_sans,
                   fmt::format("{} and {}", printable(uri), printable((*uris)[1])));
  }
  const auto id = SpiffeId::parse(uri);
  if (!id) {
    return failure(VerifyError::not_a_spiffe_id,
                   fmt::format("{}: {}", printable(uri), sentence(id.error())));
  }
  return *id;
}

// X509-SVID §4.3, leaf: present, critical, digitalSignature and neither keyCertSign nor cRLSign.
tl::expected<void, VerifyFailure> check_key_usage(const X509 *leaf) {
  const auto usage = key_usage(leaf);
  if (!usage) {
    return failure(VerifyError::key_usage_missing, "there is no keyUsage extension");
  }
  if (!is_critical(leaf, NID_key_usage)) {
    return failure(VerifyError::key_usage_missing, "the keyUsage extension is not critical");
  }
  if ((*usage & X509v3_KU_DIGITAL_SIGNATURE) == 0) {
    return failure(VerifyError::key_usage_wrong, "digitalSignature is not set");
  }
  if ((*usage & X509v3_KU_KEY_CERT_SIGN) != 0) {
    return failure(VerifyError::key_usage_wrong, "keyCertSign is set");
  }
  if ((*usage & X509v3_KU_CRL_SIGN) != 0) {
    return failure(VerifyError::key_usage_wrong, "cRLSign is set");
  }
  return {};
}

tl::expected<SpiffeId, VerifyFailure> check(const X509 *leaf) {
  auto id = single_spiffe_id(leaf);
  if (!id) return id;
  if (id->path().empty()) return failure(VerifyError::root_path, id->uri());
  if (X509_get_version(leaf) != X509_VERSION_3) {
    return failure(VerifyError::malformed, "it has extensions and is not version 3");
  }
  // RFC 5280 §4.1.2.2: positive, at most 20 bytes. Others could not be told apart in what an open
  // session keeps of it for CRLs (PathRecord).
  const ASN1_INTEGER *const serial = X509_get0_serialNumber(leaf);
  if (ASN1_STRING_type(serial) == V_ASN1_NEG_INTEGER || ASN1_STRING_length(serial) > 20) {
    return failure(VerifyError::malformed, "its serial number is negative or longer than 20 bytes");
  }
  if (!extensions_well_formed(leaf)) {
    return failure(VerifyError::malformed, "an extension is malformed or occurs twice");
  }
  // X509-SVID §4.1.
  if ((X509_get_extension_flags(mutable_view(leaf)) & EXFLAG_CA) != 0) {
    return failure(VerifyError::leaf_is_ca, id->uri());
  }
  if (auto good = check_key_usage(leaf); !good) return tl::unexpected(good.error());
  // X509-SVID §4.4: the extension is optional, and a workload is both client and server.
  if (const auto usage = extended_key_usage(leaf); usage && !for_both_roles(*usage)) {
    return failure(VerifyError::extended_key_usage, id->uri());
  }
  // RFC 5280 §4.1.2.6.
  if (X509_NAME_entry_count(X509_get_subject_name(leaf)) == 0 &&
      !is_critical(leaf, NID_subject_alt_name)) {
    return failure(VerifyError::malformed, "the subject is empty and the SAN is not critical");
  }
  return id;
}

}  // namespace

std::string_view sentence(VerifyError error) noexcept {
  switch (error) {
    case VerifyError::no_certificate:
      return "there is no certificate";
    case VerifyError::malformed:
      return "the certificate is malformed";
    case VerifyError::no_uri_san:
      return "the certificate has no URI SAN, so no SPIFFE ID";
    case VerifyError::several_uri_sans:
      return "the certificate has more than one URI SAN";
    case VerifyError::not_a_spiffe_id:
      return "the URI SAN of the certificate is not a SPIFFE ID";
    case VerifyError::root_path:
      return "the SPIFFE ID names a trust domain, not a workload";
    case VerifyError::leaf_is_ca:
      return "the certificate is that of an authority";
    case VerifyError::key_usage_missing:
      return "the certificate has no critical keyUsage";
    case VerifyError::key_usage_wrong:
      return "the certificate has a keyUsage that is not for a workload";
    case VerifyError::extended_key_usage:
      return "the certificate is not for both clientAuth and serverAuth";
    case VerifyError::expired:
      return "a certificate in the chain has expired";
    case VerifyError::not_yet_valid:
      return "a certificate in the chain is not valid yet";
    case VerifyError::unknown_trust_domain:
      return "there is no bundle for its trust domain";
    case VerifyError::untrusted:
      return "the certificate does not lead to an authority of its trust domain";
    case VerifyError::intermediate:
      return "an authority in the chain was not allowed to sign it";
    case VerifyError::weak:
      return "a key or signature in the chain is too weak or of an unknown kind";
    case VerifyError::revoked:
      return "the certificate has been revoked";
    case VerifyError::crl_stale:
      return "the certificate revocation list is out of date";
    case VerifyError::chain_too_long:
      return "the certificate chain is too long";
    case VerifyError::internal:
      return "the certificate could not be checked";
  }
  return "the certificate is not acceptable";
}

tl::expected<SpiffeId, VerifyFailure> spiffe_id_of(const X509 *leaf) {
  const ErrorMark mark;
  if (leaf == nullptr) return tl::unexpected(VerifyFailure{VerifyError::no_certificate, {}});
  try {
    return single_spiffe_id(leaf);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(VerifyFailure{VerifyError::internal, {}});
  }
}

tl::expected<SpiffeId, VerifyFailure> check_leaf(const X509 *leaf) {
  const ErrorMark mark;
  if (leaf == nullptr) return tl::unexpected(VerifyFailure{VerifyError::no_certificate, {}});
  try {
    return check(leaf);
  } catch (const std::bad_alloc &) {
    return tl::unexpected(VerifyFailure{VerifyError::internal, {}});
  }
}

}  // namespace inlay::identity
