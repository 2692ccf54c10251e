#include "identity/ca/credential_files.h"

#include <fmt/format.h>

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

tl::expected<std::string, std::string> read_trusted(const std::string &file) {
  return read(file).map([](FileContent &&content) { return std::move(content.bytes); });
}

tl::expected<CredentialFiles, std::string> read_credentials(const std::string &certificate,
                                                            const std::string &key,
                                                            std::string_view name) {
  const auto text = read(certificate);
  if (!text) return tl::unexpected(text.error());
  const auto key_text = read(key);
  if (!key_text) return tl::unexpected(key_text.error());
  if (const auto complaint = key_permission_complaint(key_text->status); !complaint.empty()) {
    return tl::unexpected(fmt::format("{} {} {}", name, key, complaint));
  }
  auto chain = certificates_from_pem(text->bytes);
  if (!chain) return tl::unexpected(fmt::format("{}: {}", certificate, chain.error()));
  if (chain->empty()) return tl::unexpected(certificate + " holds no certificate in PEM");
  auto parsed = private_key_from_pem(key_text->bytes);
  if (!parsed) return tl::unexpected(fmt::format("{}: {}", key, parsed.error()));
  return CredentialFiles{std::move(*chain), std::move(*parsed)};
}

}  // namespace inlay::identity::ca
