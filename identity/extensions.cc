#include "identity/extensions.h"

#include <memory>

namespace inlay::identity {
namespace {

using NamesPtr = std::unique_ptr<GENERAL_NAMES, OpensslDelete<GENERAL_NAMES_free>>;

std::uint32_t flags(const X509 *certificate) {
  return X509_get_extension_flags(mutable_view(certificate));
}

}  // namespace

bool extensions_well_formed(const X509 *certificate) {
  return (flags(certificate) & EXFLAG_INVALID) == 0;
}

bool is_critical(const X509 *certificate, int nid) {
  const int index = X509_get_ext_by_NID(certificate, nid, -1);
  return index >= 0 && X509_EXTENSION_get_critical(X509_get_ext(certificate, index)) == 1;
}

tl::expected<std::vector<std::string>, std::string> uri_names(const X509 *certificate) {
  int critical = -1;
  const NamesPtr names(static_cast<GENERAL_NAMES *>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, &critical, nullptr)));
  // -1: there is none. -2: there are several. Otherwise it does not parse.
  if (!names && critical != -1) {
    return tl::unexpected(std::string("the subjectAltName extension is malformed or occurs twice"));
  }
  std::vector<std::string> uris;
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    int type = 0;
    const void *const value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &type);
    if (type != GEN_URI) continue;
    const auto *const text = static_cast<const ASN1_IA5STRING *>(value);
    uris.emplace_back(reinterpret_cast<const char *>(ASN1_STRING_get0_data(text)),
                      static_cast<std::size_t>(ASN1_STRING_length(text)));
  }
  return uris;
}

std::optional<std::uint32_t> key_usage(const X509 *certificate) {
  if ((flags(certificate) & EXFLAG_KUSAGE) == 0) return std::nullopt;
  return X509_get_key_usage(mutable_view(certificate));
}

std::optional<std::uint32_t> extended_key_usage(const X509 *certificate) {
  if ((flags(certificate) & EXFLAG_XKUSAGE) == 0) return std::nullopt;
  return X509_get_extended_key_usage(mutable_view(certificate));
}

bool for_both_roles(std::uint32_t extended_key_usage) {
  return (extended_key_usage & XKU_SSL_CLIENT) != 0 && (extended_key_usage & XKU_SSL_SERVER) != 0;
}

}  // namespace inlay::identity
