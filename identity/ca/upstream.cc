// An intermediate of another authority, from files.
#include <fmt/format.h>

#include "identity/ca/credential_files.h"
#include "identity/ca/signer.h"

namespace inlay::identity::ca {

tl::expected<Authority, std::string> load_upstream(const UpstreamFiles &files,
                                                   std::string_view trust_domain) {
  auto credentials = read_credentials(files.certificate, files.key, "the upstream key");
  if (!credentials) return tl::unexpected(credentials.error());
  const auto text = read_trusted(files.bundle);
  if (!text) return tl::unexpected(text.error());
  auto bundle = parse_bundle(*text);
  if (!bundle) return tl::unexpected(fmt::format("{}: {}", files.bundle, bundle.error().message));
  if (bundle->authorities.empty()) return tl::unexpected(files.bundle + " holds no certificate");
  auto made = Authority::assemble(trust_domain, std::move(credentials->chain),
                                  std::move(credentials->key), std::move(bundle->authorities));
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
