#include "identity/certificate.h"

#include <fmt/format.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <array>
#include <chrono>
#include <climits>

namespace inlay::identity {
namespace {

constexpr std::size_t kMaxTextLength = 256;
// Larger keys cost the verifier more than they give: Go draws the line here too.
constexpr int kMinRsaBits = 2048;
constexpr int kMaxRsaBits = 8192;

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::string_view kBegin = "-----BEGIN ";

// What PEM_read_bio hands out. Some blocks are private keys: cleansed.
struct PemBlock {
  char *name = nullptr;
  char *header = nullptr;
  unsigned char *data = nullptr;
  long length = 0;

  PemBlock() = default;
  PemBlock(const PemBlock &) = delete;
  PemBlock &operator=(const PemBlock &) = delete;
  ~PemBlock() {
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_clear_free(data, static_cast<std::size_t>(length));
  }
  bool is_certificate() const {
    const std::string_view type(name);
    return type == PEM_STRING_X509 || type == PEM_STRING_X509_OLD;
  }
};

// The start of a BEGIN line is the last thing in the text: the writer has not finished.
bool ends_in_begin_line(std::string_view text) {
  const std::size_t newline = text.find_last_of("\r\n");
  const std::string_view line = newline == text.npos ? text : text.substr(newline + 1);
  if (line.empty() || !line.starts_with('-')) return false;
  return line.starts_with(kBegin) || kBegin.starts_with(line);
}

}  // namespace

ErrorMark::ErrorMark() noexcept {
  // Whatever comes first starts OpenSSL, and ERR_set_mark would do it with an atexit handler that
  // takes OpenSSL down under the threads that still finish connections while the process exits.
  library_context();
  ERR_set_mark();
}
ErrorMark::~ErrorMark() { ERR_pop_to_mark(); }

X509Ptr certificate_from_der(std::span<const unsigned char> der) {
  const ErrorMark mark;
  if (der.size() > LONG_MAX) return nullptr;
  X509 *certificate = X509_new_ex(library_context(), nullptr);
  if (certificate == nullptr) return nullptr;
  const unsigned char *position = der.data();
  // Frees and nulls `certificate` when it fails.
  d2i_X509(&certificate, &position, static_cast<long>(der.size()));
  X509Ptr parsed(certificate);
  if (parsed && position != der.data() + der.size()) return nullptr;
  return parsed;
}

tl::expected<std::vector<X509Ptr>, std::string> certificates_from_der(std::string_view der) {
  const ErrorMark mark;
  const auto *position = reinterpret_cast<const unsigned char *>(der.data());
  const unsigned char *const end = position + der.size();
  std::vector<X509Ptr> certificates;
  while (position < end) {
    X509 *certificate = X509_new_ex(library_context(), nullptr);
    if (certificate == nullptr) return tl::unexpected(std::string("out of memory"));
    // Frees and nulls `certificate` when it fails.
    d2i_X509(&certificate, &position, static_cast<long>(end - position));
    if (certificate == nullptr) {
      return tl::unexpected(
          fmt::format("certificate {} is not one in DER", certificates.size() + 1));
    }
    certificates.emplace_back(certificate);
  }
  if (certificates.empty()) return tl::unexpected(std::string("it holds no certificate"));
  return certificates;
}

tl::expected<std::vector<X509Ptr>, std::string> certificates_from_pem(std::string_view text) {
  const ErrorMark mark;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  if (text.size() > INT_MAX) return tl::unexpected(std::string("it is too large"));
  if (ends_in_begin_line(text)) {
    return tl::unexpected(std::string("it ends inside a PEM block"));
  }
  const BioPtr bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
  if (!bio) return tl::unexpected(std::string("out of memory"));

  std::vector<X509Ptr> certificates;
  for (int number = 1;; ++number) {
    PemBlock block;
    if (PEM_read_bio(bio.get(), &block.name, &block.header, &block.data, &block.length) != 1) {
      const bool no_more = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
      if (no_more) break;
      return tl::unexpected(fmt::format("PEM block {} is damaged or cut short", number));
    }
    if (!block.is_certificate()) continue;
    X509Ptr certificate =
        certificate_from_der({block.data, static_cast<std::size_t>(block.length)});
    if (!certificate) {
      return tl::unexpected(fmt::format("PEM block {} does not hold a certificate", number));
    }
    certificates.push_back(std::move(certificate));
  }
  return certificates;
}

std::optional<std::time_t> to_time(const ASN1_TIME *time) {
  std::tm broken_down{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &broken_down) != 1) return std::nullopt;
  using namespace std::chrono;
  const sys_days day = year(broken_down.tm_year + 1900) /
                       month(static_cast<unsigned>(broken_down.tm_mon + 1)) /
                       std::chrono::day(static_cast<unsigned>(broken_down.tm_mday));
  const auto moment =
      day + hours(broken_down.tm_hour) + minutes(broken_down.tm_min) + seconds(broken_down.tm_sec);
  return static_cast<std::time_t>(moment.time_since_epoch().count());
}

std::string time_text(std::time_t time) {
  using namespace std::chrono;
  const sys_seconds moment{seconds(time)};
  const sys_days midnight = floor<days>(moment);
  const year_month_day date(midnight);
  const hh_mm_ss clock(moment - midnight);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

std::string printable(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    if (text.size() >= kMaxTextLength) return text + "...";
    if (c >= 0x20 && c < 0x7f && c != '\\') {
      text += c;
    } else {
      text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return text;
}

std::string subject_text(const X509 *certificate) {
  const X509_NAME *subject = X509_get_subject_name(certificate);
  if (subject == nullptr || X509_NAME_entry_count(subject) == 0) return "(empty subject)";
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || X509_NAME_print_ex(bio.get(), subject, 0, XN_FLAG_RFC2253) < 0) return "(unreadable)";
  char *data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return printable({data, static_cast<std::size_t>(length)});
}

std::string key_weakness(const EVP_PKEY *key) {
  if (key == nullptr) return "of an unknown kind";
  if (EVP_PKEY_is_a(key, "RSA") == 1) {
    const int bits = EVP_PKEY_get_bits(key);
    if (bits >= kMinRsaBits && bits <= kMaxRsaBits) return {};
    return fmt::format("RSA with {} bits, not {} to {}", bits, kMinRsaBits, kMaxRsaBits);
  }
  if (EVP_PKEY_is_a(key, "EC") != 1) return "neither RSA nor P-256 nor P-384";
  // RFC 5480 §2.1.1: named curves only. Explicit parameters can pass for a curve they are not.
  int from_parameters = 0;
  if (EVP_PKEY_get_int_param(key, OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS,
                             &from_parameters) == 1 &&
      from_parameters != 0) {
    return "on a curve given by parameters, not P-256 or P-384";
  }
  std::array<char, 64> group{};
  std::size_t length = 0;
  if (EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) != 1) {
    return "on an unknown curve";
  }
  const std::string_view name(group.data(), length);
  if (name == "prime256v1" || name == "secp384r1") return {};
  return fmt::format("on the curve {}, not P-256 or P-384", name);
}

std::string certificate_der(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509(certificate, &der);
  if (length <= 0) return {};
  std::string bytes(reinterpret_cast<const char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);
  return bytes;
}

std::string serial_text(const X509 *certificate) {
  const ASN1_INTEGER *const serial = X509_get0_serialNumber(certificate);
  const std::span bytes(ASN1_STRING_get0_data(serial),
                        static_cast<std::size_t>(ASN1_STRING_length(serial)));
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

namespace {

std::array<std::uint8_t, 32> digest_and_free(unsigned char *der, int length) {
  std::array<std::uint8_t, 32> digest{};
  if (length > 0) {
    EVP_Q_digest(library_context(), "SHA256", nullptr, der, static_cast<std::size_t>(length),
                 digest.data(), nullptr);
  }
  OPENSSL_free(der);
  return digest;
}

}  // namespace

std::array<std::uint8_t, 32> public_key_digest(const X509 *certificate) {
  unsigned char *der = nullptr;
  const int length = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(certificate), &der);
  return digest_and_free(der, length);
}

std::array<std::uint8_t, 32> public_key_digest(const EVP_PKEY *key) {
  unsigned char *der = nullptr;
  const int length = i2d_PUBKEY(key, &der);
  return digest_and_free(der, length);
}

std::string key_weakness(const X509 *certificate) {
  return key_weakness(X509_get0_pubkey(certificate));
}

std::string signature_weakness(const X509 *certificate) {
  int digest = NID_undef;
  // Fills in what it can also for signatures OpenSSL holds to be unsafe, and then fails.
  X509_get_signature_info(const_cast<X509 *>(certificate), &digest, nullptr, nullptr, nullptr);
  if (digest == NID_sha256 || digest == NID_sha384 || digest == NID_sha512) return {};
  const char *const name = digest == NID_undef ? nullptr : OBJ_nid2sn(digest);
  return fmt::format("{}, not SHA-256, SHA-384 or SHA-512", name != nullptr ? name : "unknown");
}

}  // namespace inlay::identity
