#include "identity/ca/authority_rows.h"

#include <fmt/format.h>

#include "identity/certificate.h"

namespace inlay::identity::ca {
namespace {

tl::expected<Authority, std::string> unsealed(const AuthorityRow &row, const Seal &seal,
                                              std::string_view trust_domain,
                                              std::vector<X509Ptr> anchors) {
  auto key = seal.unseal(row.sealed_key, sealed_as(row));
  if (!key) return tl::unexpected(std::move(key.error()));
  std::vector<X509Ptr> chain;
  if (X509Ptr certificate = certificate_of(row)) chain.push_back(std::move(certificate));
  auto made =
      Authority::assemble(trust_domain, std::move(chain), std::move(*key), std::move(anchors));
  if (!made) return tl::unexpected(std::move(made.error().message));
  return std::move(*made);
}

}  // namespace

std::string sealed_as(const AuthorityRow &row) {
  return fmt::format("{} {}", name(row.kind), row.id);
}

X509Ptr certificate_of(const AuthorityRow &row) {
  return certificate_from_der(
      {reinterpret_cast<const unsigned char *>(row.certificate.data()), row.certificate.size()});
}

tl::expected<Authority, std::string> unsealed_root(const AuthorityRow &row, const Seal &seal,
                                                   std::string_view trust_domain) {
  return unsealed(row, seal, trust_domain, {});
}

tl::expected<Authority, std::string> unsealed_intermediate(const AuthorityRow &row,
                                                           const AuthorityRow &root,
                                                           const Seal &seal,
                                                           std::string_view trust_domain) {
  std::vector<X509Ptr> anchors;
  if (X509Ptr certificate = certificate_of(root)) anchors.push_back(std::move(certificate));
  if (anchors.empty()) return tl::unexpected(std::string("the root's certificate is damaged"));
  return unsealed(row, seal, trust_domain, std::move(anchors));
}

}  // namespace inlay::identity::ca
