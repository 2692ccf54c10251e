#include "policy/glob.h"
#include "policy/policy.h"

namespace inlay::policy {
namespace {
constexpr std::string_view kScheme = "spiffe://";
}

tl::expected<IdPattern, std::string_view> IdPattern::parse(std::string_view text) {
  if (text.size() > kMaxGlobLength) {
    return tl::unexpected<std::string_view>("the pattern is longer than 2048 bytes");
  }
  if (!text.starts_with(kScheme)) {
    return tl::unexpected<std::string_view>(
        "it must begin with spiffe:// and a trust domain, in lower case");
  }
  std::size_t slash = text.find('/', kScheme.size());
  if (text.substr(0, slash).find('*') != std::string_view::npos) {
    return tl::unexpected<std::string_view>("the trust domain must be written out, without *");
  }
  if (slash == std::string_view::npos) {
    return tl::unexpected<std::string_view>(
        "it names a trust domain, not a workload: add a path, /** for all its workloads");
  }
  if (text.find("***") != std::string_view::npos) {
    return tl::unexpected<std::string_view>("*** is no pattern: write * or **");
  }
  // With its stars taken as a letter, a pattern is a SPIFFE ID; else it could match none.
  std::string id(text);
  for (char &c : id) {
    if (c == '*') c = 'x';
  }
  auto parsed = identity::SpiffeId::parse(id);
  if (!parsed) return tl::unexpected(identity::sentence(parsed.error()));
  IdPattern out;
  out.text_ = text;
  return out;
}

std::string_view IdPattern::trust_domain() const noexcept {
  std::string_view rest = std::string_view(text_).substr(kScheme.size());
  return rest.substr(0, rest.find('/'));
}

bool IdPattern::matches(const identity::SpiffeId &id) const noexcept {
  return id.trust_domain() == trust_domain() && glob_matches(text_, id.uri());
}

}  // namespace inlay::policy
