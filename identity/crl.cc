#include "identity/crl.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <climits>
#include <new>

#include "identity/certificate.h"

namespace inlay::identity {

X509CrlPtr crl_from_der(std::string_view der) {
  const auto *at = reinterpret_cast<const unsigned char *>(der.data());
  const unsigned char *const end = at + der.size();
  X509_CRL *crl = X509_CRL_new_ex(library_context(), nullptr);
  if (crl == nullptr) return nullptr;
  // Frees it, and sets it to null, when it fails.
  if (d2i_X509_CRL(&crl, &at, static_cast<long>(der.size())) == nullptr) return nullptr;
  X509CrlPtr owned(crl);
  return at == end ? std::move(owned) : nullptr;
}

namespace {

std::string name_text(const X509_NAME *name) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253) < 0) return "?";
  char *text = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &text);
  return printable({text, static_cast<std::size_t>(length)});
}

// RFC 5280 §5.2: one that has a critical extension we do not know must not be used.
bool has_unknown_critical_extension(const X509_CRL *crl) {
  for (int at = 0; at < X509_CRL_get_ext_count(crl); ++at) {
    X509_EXTENSION *const extension = X509_CRL_get_ext(crl, at);
    if (X509_EXTENSION_get_critical(extension) == 1) return true;
  }
  return X509_CRL_get_ext_by_NID(crl, NID_delta_crl, -1) >= 0;
}

tl::expected<Crl, std::string> parse_one(std::string der) {
  const X509CrlPtr parsed = crl_from_der(der);
  if (!parsed) return tl::unexpected(std::string("it holds no CRL, neither PEM nor DER"));
  if (has_unknown_critical_extension(parsed.get())) {
    return tl::unexpected(
        std::string("it is a delta or an indirect CRL, or one of a kind unknown "
                    "here; give a complete one"));
  }
  Crl crl{std::move(der), name_text(X509_CRL_get_issuer(parsed.get())), 0, 0};
  const auto this_update = to_time(X509_CRL_get0_lastUpdate(parsed.get()));
  if (!this_update) return tl::unexpected(std::string("its dates are malformed"));
  crl.this_update = *this_update;
  if (const ASN1_TIME *const next = X509_CRL_get0_nextUpdate(parsed.get()); next != nullptr) {
    const auto next_update = to_time(next);
    if (!next_update) return tl::unexpected(std::string("its dates are malformed"));
    crl.next_update = *next_update;
  }
  return crl;
}

tl::expected<std::vector<Crl>, std::string> parse_pem(std::string_view text) {
  const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (!bio) return tl::unexpected(std::string("out of memory"));
  std::vector<Crl> crls;
  for (;;) {
    char *name = nullptr, *header = nullptr;
    unsigned char *data = nullptr;
    long length = 0;
    if (PEM_read_bio(bio.get(), &name, &header, &data, &length) != 1) break;
    const bool wanted = std::string_view(name) == PEM_STRING_X509_CRL;
    std::string der(reinterpret_cast<const char *>(data), static_cast<std::size_t>(length));
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(data);
    if (!wanted) continue;
    auto crl = parse_one(std::move(der));
    if (!crl) return tl::unexpected(crl.error());
    crls.push_back(std::move(*crl));
  }
  // Half of a list that is being written must not pass for the whole.
  const int reason = ERR_GET_REASON(ERR_peek_last_error());
  if (reason != PEM_R_NO_START_LINE) {
    return tl::unexpected(std::string("a block of it is damaged or cut short"));
  }
  if (crls.empty()) return tl::unexpected(std::string("it holds no CRL, neither PEM nor DER"));
  return crls;
}

}  // namespace

tl::expected<std::vector<Crl>, std::string> parse_crls(std::string_view text) {
  const ErrorMark mark;
  if (text.size() > INT_MAX) return tl::unexpected(std::string("it is too large"));
  if (text.find("-----BEGIN ") != text.npos) return parse_pem(text);
  auto crl = parse_one(std::string(text));
  if (!crl) return tl::unexpected(crl.error());
  std::vector<Crl> crls;
  crls.push_back(std::move(*crl));
  return crls;
}

bool has_signed(const X509 *authority, const X509_CRL *crl) {
  // OpenSSL only reads the list.
  return X509_NAME_cmp(X509_get_subject_name(authority), X509_CRL_get_issuer(crl)) == 0 &&
         (X509_get_key_usage(const_cast<X509 *>(authority)) & X509v3_KU_CRL_SIGN) != 0 &&
         X509_CRL_verify(const_cast<X509_CRL *>(crl), X509_get0_pubkey(authority)) == 1;
}

bool signed_by(const Crl &crl, std::span<const std::string> authorities) {
  const ErrorMark mark;
  const X509CrlPtr parsed = crl_from_der(crl.der);
  return parsed && std::any_of(authorities.begin(), authorities.end(), [&](const std::string &der) {
           const X509Ptr authority = certificate_from_der(
               {reinterpret_cast<const unsigned char *>(der.data()), der.size()});
           return authority && has_signed(authority.get(), parsed.get());
         });
}

namespace {

bool ran_out_of_memory() noexcept {
  return ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE;
}

// Whether `other` was made before `crl`.
bool is_older(const X509_CRL *other, const X509_CRL *crl) noexcept {
  return ASN1_TIME_compare(X509_CRL_get0_lastUpdate(other), X509_CRL_get0_lastUpdate(crl)) < 0;
}

// A complete list says all that its authority has to say (RFC 5280 §5.1): next to a newer one, the
// one before says what is no longer so, and being stale would refuse everybody.
void take_newest(Bundle &bundle, X509CrlPtr crl, X509 *authority) {
  const auto of_the_same = [&](const X509CrlPtr &other) {
    return has_signed(authority, other.get());
  };
  for (const X509CrlPtr &other : bundle.crls) {
    if (is_older(crl.get(), other.get()) && of_the_same(other)) return;
  }
  std::erase_if(bundle.crls, [&](const X509CrlPtr &other) {
    return is_older(other.get(), crl.get()) && of_the_same(other);
  });
  bundle.crls.push_back(std::move(crl));
}

}  // namespace

bool add_crl(const Crl &crl, BundleSet &bundles, bool accept_stale) {
  const ErrorMark mark;
  bool added = false;
  for (auto &[trust_domain, bundle] : bundles) {
    X509CrlPtr parsed = crl_from_der(crl.der);
    if (!parsed) throw std::bad_alloc();  // it was read before
    const auto signer = std::find_if(
        bundle.authorities.begin(), bundle.authorities.end(),
        [&](const X509Ptr &authority) { return has_signed(authority.get(), parsed.get()); });
    if (signer == bundle.authorities.end()) {
      if (ran_out_of_memory()) throw std::bad_alloc();
      continue;
    }
    take_newest(bundle, std::move(parsed), signer->get());
    bundle.accept_stale_crls = accept_stale;
    added = true;
  }
  return added;
}

void add_crl_of_intermediate(const Crl &crl, BundleSet &bundles, bool accept_stale) {
  const ErrorMark mark;
  for (auto &[trust_domain, bundle] : bundles) {
    X509CrlPtr parsed = crl_from_der(crl.der);
    if (!parsed) throw std::bad_alloc();  // it was read before
    bundle.crls_of_intermediates.push_back(std::move(parsed));
    bundle.accept_stale_crls = accept_stale;
  }
}

bool revoked(const X509 *certificate, std::span<const std::string> crls) {
  const ErrorMark mark;
  for (const std::string &der : crls) {
    const X509CrlPtr crl = crl_from_der(der);
    if (!crl ||
        X509_NAME_cmp(X509_get_issuer_name(certificate), X509_CRL_get_issuer(crl.get())) != 0) {
      continue;
    }
    X509_REVOKED *entry = nullptr;
    // OpenSSL only reads the number. 2 would be removeFromCRL, which deltas alone have.
    auto *const serial = const_cast<ASN1_INTEGER *>(X509_get0_serialNumber(certificate));
    if (X509_CRL_get0_by_serial(crl.get(), &entry, serial) == 1) {
      return true;
    }
  }
  return false;
}

}  // namespace inlay::identity
