// What EST servers and their clients send each other.
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/est.h"
#include "input.h"

namespace {

void line(const std::string &complaint) {
  inlay::fuzz::must(!complaint.empty() && complaint.find('\n') == std::string::npos);
}

void certificates(std::string_view der) {
  using namespace inlay::identity;
  const auto read = certificates_of(der);
  if (!read) return line(read.error());
  inlay::fuzz::must(!read->empty() && read->size() <= kMaxEstCertificates);
  std::vector<std::string> ders;
  for (const X509Ptr &certificate : *read) ders.push_back(certificate_der(certificate.get()));
  const auto again = certificates_of(certs_only(ders));
  inlay::fuzz::must(again.has_value() && again->size() == read->size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t *data, std::size_t size) {
  using namespace inlay::identity;
  inlay::fuzz::Input input(data, size);
  const std::uint8_t kind = input.byte();
  const std::string_view text = input.text();
  if (kind == 'c') {
    certificates(text);
  } else if (kind == 'r') {
    if (const auto wishes = wishes_of_csr(text); !wishes) line(wishes.error());
    if (const auto key = public_key_of_csr(text); !key) line(key.error());
  } else {
    const auto bytes = from_est_base64(text);
    if (!bytes) {
      line(bytes.error());
      return 0;
    }
    inlay::fuzz::must(from_est_base64(est_base64(*bytes)) == *bytes);
    certificates(*bytes);
  }
  return 0;
}
