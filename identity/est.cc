#include "identity/est.h"

#include <openssl/pkcs7.h>

#include "identity/base64.h"
#include "identity/certificate.h"

namespace inlay::identity {
namespace {

using Pkcs7Ptr = std::unique_ptr<PKCS7, OpensslDelete<PKCS7_free>>;

constexpr std::size_t kLine = 64;

tl::unexpected<std::string> wrong(const char *why) { return tl::unexpected(std::string(why)); }

}  // namespace

std::string certs_only(const std::vector<std::string> &certificates_der) {
  const ErrorMark mark;
  const Pkcs7Ptr message(PKCS7_new_ex(library_context(), nullptr));
  if (!message || PKCS7_set_type(message.get(), NID_pkcs7_signed) != 1 ||
      PKCS7_content_new(message.get(), NID_pkcs7_data) != 1) {
    return {};
  }
  // RFC 5652 §5.2: without eContent. PKCS7_content_new() makes an empty one.
  PKCS7 *const content = message->d.sign->contents;
  ASN1_OCTET_STRING_free(content->d.data);
  content->d.data = nullptr;
  for (const std::string &der : certificates_der) {
    const X509Ptr certificate =
        certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
    if (!certificate || PKCS7_add_certificate(message.get(), certificate.get()) != 1) return {};
  }
  unsigned char *der = nullptr;
  const int length = i2d_PKCS7(message.get(), &der);
  if (length <= 0) return {};
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

tl::expected<std::vector<X509Ptr>, std::string> certificates_of(std::string_view certs_only_der) {
  const ErrorMark mark;
  if (certs_only_der.size() > kMaxEstBytes) return wrong("the PKCS #7 is too long");
  const auto *at = reinterpret_cast<const unsigned char *>(certs_only_der.data());
  const unsigned char *const end = at + certs_only_der.size();
  const Pkcs7Ptr message(d2i_PKCS7(nullptr, &at, static_cast<long>(certs_only_der.size())));
  if (!message || at != end) return wrong("it is no PKCS #7 in DER");
  if (!PKCS7_type_is_signed(message.get()) || message->d.sign == nullptr) {
    return wrong("the PKCS #7 is not of certificates alone (SignedData)");
  }
  const PKCS7_SIGNED &data = *message->d.sign;
  if (sk_PKCS7_SIGNER_INFO_num(data.signer_info) > 0) {
    return wrong("the PKCS #7 is not of certificates alone: it has signers");
  }
  if (data.contents != nullptr && PKCS7_type_is_data(data.contents) &&
      data.contents->d.data != nullptr && ASN1_STRING_length(data.contents->d.data) > 0) {
    return wrong("the PKCS #7 is not of certificates alone: it has content");
  }
  const int count = sk_X509_num(data.cert);  // -1 without the field
  if (count < 1) return wrong("the PKCS #7 holds no certificate");
  if (static_cast<std::size_t>(count) > kMaxEstCertificates) {
    return wrong("the PKCS #7 holds too many certificates");
  }
  std::vector<X509Ptr> out;
  for (int i = 0; i < count; ++i) {
    // Read anew: what is in the message belongs to another library context.
    const std::string der = certificate_der(sk_X509_value(data.cert, i));
    X509Ptr certificate =
        certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
    if (!certificate) return wrong("the PKCS #7 holds a certificate that cannot be read");
    out.push_back(std::move(certificate));
  }
  return out;
}

std::string est_base64(std::string_view bytes) {
  const std::string text =
      to_base64({reinterpret_cast<const unsigned char *>(bytes.data()), bytes.size()});
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += kLine) {
    out.append(text, at, kLine);
    out += "\r\n";
  }
  return out;
}

tl::expected<std::string, std::string> from_est_base64(std::string_view text) {
  if (text.size() > kMaxEstBytes) return wrong("the base64 is too long");
  std::string compact;
  for (const char c : text) {
    if (c != ' ' && c != '\t' && c != '\r' && c != '\n') compact += c;
  }
  const auto bytes = from_base64(compact);
  if (!bytes) return wrong("it is no base64");
  return std::string(bytes->begin(), bytes->end());
}

}  // namespace inlay::identity
