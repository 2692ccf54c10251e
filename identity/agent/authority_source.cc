#include "identity/agent/authority_source.h"

#include <fmt/format.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "identity/agent/watched_files.h"
#include "identity/authority.h"
#include "identity/certificate.h"
#include "identity/crl.h"
#include "identity/file.h"
#include "identity/jwk.h"
#include "identity/jwt_svid.h"
#include "identity/private_key.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 22;
constexpr int kLoadAttempts = 4;

struct Paths {
  std::string certificate, key, bundle, jwt_key, crl;
  std::vector<std::string> all() const { return {certificate, key, bundle, jwt_key, crl}; }
};

Paths paths_in(const std::string &folder) {
  const auto in = [&](const char *name) { return folder + "/" + name; };
  return {in("ca.pem"), in("ca-key.pem"), in("bundle.pem"), in("jwt-key.pem"), in("crl.pem")};
}

bool is_missing(const std::string &path) { return FileStamp::of(path).error == ENOENT; }

tl::unexpected<SourceFailure> failure(std::string message) {
  return tl::unexpected(SourceFailure{std::move(message)});
}

// What a whole set of files comes to.
struct Loaded {
  Authority authority;
  PkeyPtr jwt_key;  // null when there is none
  Trust trust;
};

class AuthoritySource : public Source {
 public:
  AuthoritySource(AuthoritySettings settings, Clock clock)
      : settings_(std::move(settings)),
        clock_(std::move(clock)),
        paths_(paths_in(settings_.folder)),
        files_(paths_.all()) {}

  // Takes the files as they are now. False when there still is no usable set.
  bool look();
  const std::string &error() const { return error_; }

  std::string name() const override { return "authority " + settings_.folder; }
  tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &id) override;
  tl::expected<Trust, SourceFailure> trust() override;
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(
      const SpiffeId &id, const std::vector<std::string> &audience) override;
  bool issues() const override { return true; }
  int news_fd() const override { return timer_.fd(); }
  bool take_news() override;

 private:
  tl::expected<FileContent, SourceFailure> read(const std::string &path) const;
  tl::expected<FileContent, SourceFailure> read_key(const std::string &path) const;
  tl::expected<Loaded, SourceFailure> load() const;
  tl::expected<Trust, SourceFailure> load_trust(std::string_view trust_domain,
                                                const EVP_PKEY *jwt_key) const;

  const AuthoritySettings settings_;
  const Clock clock_;
  const Paths paths_;
  WatchedFiles files_;
  LookTimer timer_;
  std::optional<Loaded> loaded_;  // the last good set
  std::string error_;             // of the last look
};

tl::expected<FileContent, SourceFailure> AuthoritySource::read(const std::string &path) const {
  const auto file = policy::open_trusted(path, settings_.owners);
  if (!file) return failure(fmt::format("cannot use {}: {}", path, file.error()));
  auto content = read_file(file->fd.get(), kMaxFileBytes);
  if (!content) return failure(fmt::format("cannot read {}: {}", path, content.error()));
  return std::move(*content);
}

tl::expected<FileContent, SourceFailure> AuthoritySource::read_key(const std::string &path) const {
  auto content = read(path);
  if (!content) return content;
  if (const auto complaint = key_permission_complaint(content->status); !complaint.empty()) {
    return failure(fmt::format("the authority's key {} {}", path, complaint));
  }
  return content;
}

tl::expected<Trust, SourceFailure> AuthoritySource::load_trust(std::string_view trust_domain,
                                                               const EVP_PKEY *jwt_key) const {
  const auto text = read(paths_.bundle);
  if (!text) return tl::unexpected(text.error());
  auto bundle = parse_trust_domain_bundle(text->bytes);
  if (!bundle) {
    return failure(fmt::format("the trust bundle {} is not usable: {}", paths_.bundle,
                               bundle.error().message));
  }
  if (jwt_key != nullptr) {
    bundle->jwt_authorities.try_emplace(jwt_key_id(jwt_key), public_key_der(jwt_key));
  }
  Trust trust;
  if (!is_missing(paths_.crl)) {
    const auto list = read(paths_.crl);
    if (!list) return tl::unexpected(list.error());
    const auto crls = parse_crls(list->bytes);
    if (!crls)
      return failure(fmt::format("the CRL {} is not usable: {}", paths_.crl, crls.error()));
    for (const Crl &crl : *crls) {
      if (!signed_by(crl, bundle->x509_authorities)) {
        return failure(
            fmt::format("the CRL {} of {} is signed by no authority of the bundle; make "
                        "it anew with the authority's key",
                        paths_.crl, crl.issuer));
      }
      trust.crls.push_back(crl.der);
    }
  }
  trust.bundles.emplace(trust_domain, std::move(*bundle));
  return trust;
}

tl::expected<Loaded, SourceFailure> AuthoritySource::load() const {
  const auto certificate = read(paths_.certificate);
  if (!certificate) return tl::unexpected(certificate.error());
  const auto key = read_key(paths_.key);
  if (!key) return tl::unexpected(key.error());
  auto authority = Authority::parse(certificate->bytes, key->bytes);
  if (!authority) {
    return failure(fmt::format("{} holds no usable authority: {}", settings_.folder,
                               authority.error().message));
  }
  PkeyPtr jwt_key;
  if (!is_missing(paths_.jwt_key)) {
    const auto text = read_key(paths_.jwt_key);
    if (!text) return tl::unexpected(text.error());
    auto parsed = private_key_from_pem(text->bytes);
    if (!parsed) {
      return failure(fmt::format("the JWT key {}: {}", paths_.jwt_key, parsed.error()));
    }
    if (jwk_curve(parsed->get()) != "P-256") {
      return failure(fmt::format("the JWT key {} is not on P-256", paths_.jwt_key));
    }
    jwt_key = std::move(*parsed);
  }
  auto trust = load_trust(authority->trust_domain(), jwt_key.get());
  if (!trust) return tl::unexpected(trust.error());
  return Loaded{std::move(*authority), std::move(jwt_key), std::move(*trust)};
}

bool AuthoritySource::look() {
  if (!files_.look() && error_.empty()) return loaded_.has_value();
  for (int attempt = 0; attempt < kLoadAttempts; ++attempt) {
    auto loaded = load();
    error_ = loaded ? "" : loaded.error().message;
    if (loaded) loaded_.emplace(std::move(*loaded));
    // Again when they were changing meanwhile: the set may have been half-written.
    if (loaded || !files_.look()) break;
  }
  return loaded_.has_value();
}

bool AuthoritySource::take_news() {
  timer_.rearm();
  const std::string error_before = error_;
  const auto before = loaded_ ? std::optional(loaded_->trust) : std::nullopt;
  const std::string root_before = loaded_ ? loaded_->authority.certificate_pem() : "";
  look();
  return error_ != error_before ||
         (loaded_ && (!before || *before != loaded_->trust ||
                      root_before != loaded_->authority.certificate_pem()));
}

tl::expected<X509Svid, SourceFailure> AuthoritySource::obtain(const SpiffeId &id) {
  if (!look()) return failure(error_);
  const std::time_t now = clock_.now();
  const std::time_t left = loaded_->authority.not_after() - now;
  if (left <= 0) {
    return failure(
        fmt::format("the authority {} expired at {}, the clock here says {}; make a new "
                    "one with inlay ca init and hand out its bundle",
                    settings_.folder, time_text(loaded_->authority.not_after()), time_text(now)));
  }
  auto issued = loaded_->authority.issue(id, now, std::min(settings_.lifetime, left));
  if (!issued) return failure(issued.error().message);
  auto svid = parse_svid(issued->chain_pem, issued->key_pem);
  OPENSSL_cleanse(issued->key_pem.data(), issued->key_pem.size());
  if (!svid) return failure(svid.error().message);
  return std::move(*svid);
}

tl::expected<Trust, SourceFailure> AuthoritySource::trust() {
  if (!look() || !error_.empty()) return failure(error_);
  return loaded_->trust;
}

tl::expected<JwtSvid, SourceFailure> AuthoritySource::obtain_jwt(
    const SpiffeId &id, const std::vector<std::string> &audience) {
  if (!look()) return failure(error_);
  if (!loaded_->jwt_key) {
    return failure(
        fmt::format("the authority has no key for JWT-SVIDs; make {} (0600) with openssl "
                    "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
                    paths_.jwt_key));
  }
  if (id.trust_domain() != loaded_->authority.trust_domain()) {
    return failure(fmt::format("{} is not of this authority's trust domain {}", id.uri(),
                               loaded_->authority.trust_domain()));
  }
  const std::time_t now = clock_.now();
  auto token = issue_jwt_svid(id, audience, loaded_->jwt_key.get(), now, kJwtLifetime);
  if (!token) {
    return failure(fmt::format("no JWT-SVID can be issued: {}{}{}", sentence(token.error().error),
                               token.error().detail.empty() ? "" : ": ", token.error().detail));
  }
  return JwtSvid{std::move(*token), now + kJwtLifetime};
}

}  // namespace

tl::expected<std::unique_ptr<Source>, SourceFailure> open_authority(AuthoritySettings settings,
                                                                    Clock clock) {
  while (settings.folder.size() > 1 && settings.folder.back() == '/') settings.folder.pop_back();
  auto source = std::make_unique<AuthoritySource>(std::move(settings), std::move(clock));
  if (!source->look()) {
    return failure(source->error() + "; make an authority with inlay ca init");
  }
  return source;
}

}  // namespace inlay::identity::agent
