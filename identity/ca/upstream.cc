// An intermediate of another authority, from files.
#include <fmt/format.h>

#include "identity/ca/signer.h"
#include "identity/certificate.h"
#include "identity/file.h"
#include "identity/private_key.h"
#include "policy/trusted_file.h"

namespace inlay::identity::ca {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;

tl::expected<FileContent, std::string> read(const std::string &file) {
  const auto opened = policy::open_trusted(file, {});
  if (!opened) return tl::unexpected(fmt::format("cannot use {}: {}", file, opened.error()));
  auto content = read_file(opened->fd.get(), kMaxFileBytes);
  if (!content) return tl::unexpected(fmt::format("cannot read {}: {}", file, content.error()));
  return content;
}

}  // namespace

tl::expected<Authority, std::string> load_upstream(const UpstreamFiles &files,
                                                   std::string_view trust_domain) {
  const auto certificate = read(files.certificate);
  if (!certificate) return tl::unexpected(certificate.error());
  const auto key_text = read(files.key);
  if (!key_text) return tl::unexpected(key_text.error());
  if (const auto complaint = key_permission_complaint(key_text->status); !complaint.empty()) {
    return tl::unexpected(fmt::format("the upstream key {} {}", files.key, complaint));
  }
  const auto bundle_text = read(files.bundle);
  if (!bundle_text) return tl::unexpected(bundle_text.error());

  auto chain = certificates_from_pem(certificate->bytes);
  if (!chain) return tl::unexpected(fmt::format("{}: {}", files.certificate, chain.error()));
  if (chain->empty()) return tl::unexpected(files.certificate + " holds no certificate in PEM");
  auto key = private_key_from_pem(key_text->bytes);
  if (!key) return tl::unexpected(fmt::format("{}: {}", files.key, key.error()));
  auto bundle = parse_bundle(bundle_text->bytes);
  if (!bundle) return tl::unexpected(fmt::format("{}: {}", files.bundle, bundle.error().message));
  if (bundle->authorities.empty()) return tl::unexpected(files.bundle + " holds no certificate");
  auto made = Authority::assemble(trust_domain, std::move(*chain), std::move(*key),
                                  std::move(bundle->authorities));
  if (!made) return tl::unexpected(fmt::format("{}: {}", files.certificate, made.error().message));
  if (made->root() == nullptr) {
    return tl::unexpected(
        fmt::format("{} does not lead to a certificate of {}: put what is between them into the "
                    "first, in order",
                    files.certificate, files.bundle));
  }
  return std::move(*made);
}

}  // namespace inlay::identity::ca
