#include "identity/agent/files_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "identity/agent/watched_files.h"
#include "identity/crl.h"
#include "identity/file.h"
#include "identity/file_source.h"

namespace inlay::identity::agent {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 22;

tl::unexpected<SourceFailure> failure(std::string message) {
  return tl::unexpected(SourceFailure{std::move(message)});
}

FilePaths paths_of(const SvidFiles &files, const std::string &trust_domain) {
  return {files.svid, files.key, files.bundle, trust_domain, {}};
}

std::vector<std::string> trust_paths(const FilesSettings &settings) {
  std::vector<std::string> paths = settings.crls;
  for (const SvidFiles &files : settings.svids) paths.push_back(files.bundle);
  for (const auto &[trust_domain, path] : settings.bundles) paths.push_back(path);
  return paths;
}

class FilesSource : public Source {
 public:
  explicit FilesSource(FilesSettings settings)
      : settings_(std::move(settings)), trust_files_(trust_paths(settings_)) {
    for (const SvidFiles &files : settings_.svids) {
      svids_.push_back(std::make_unique<FileSource>(paths_of(files, settings_.trust_domain)));
    }
  }

  std::string name() const override;
  tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &id) override;
  tl::expected<Trust, SourceFailure> trust() override;
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(const SpiffeId &,
                                                  const std::vector<std::string> &) override;
  bool issues() const override { return false; }
  int news_fd() const override { return timer_.fd(); }
  bool take_news() override;

 private:
  bool refresh();
  tl::expected<Trust, SourceFailure> load_trust() const;
  tl::expected<void, SourceFailure> add_bundle(const std::string &trust_domain,
                                               const std::string &path, Trust &trust) const;

  const FilesSettings settings_;
  std::vector<std::unique_ptr<FileSource>> svids_;
  WatchedFiles trust_files_;
  LookTimer timer_;
  tl::expected<Trust, SourceFailure> trust_ = Trust{};  // of the last look
};

std::string FilesSource::name() const {
  if (settings_.svids.size() == 1) return "files " + settings_.svids.front().svid;
  return fmt::format("files {} and {} more", settings_.svids.front().svid,
                     settings_.svids.size() - 1);
}

tl::expected<void, SourceFailure> FilesSource::add_bundle(const std::string &trust_domain,
                                                          const std::string &path,
                                                          Trust &trust) const {
  const auto content = read_file(path, kMaxFileBytes);
  if (!content) {
    return failure(fmt::format("cannot read the trust bundle {}: {}", path, content.error()));
  }
  auto bundle = parse_trust_domain_bundle(content->bytes);
  if (!bundle) {
    return failure(fmt::format("the trust bundle {} of {} is not usable: {}; fetch it anew", path,
                               trust_domain, bundle.error().message));
  }
  const auto [place, added] = trust.bundles.try_emplace(trust_domain, *bundle);
  if (added) return {};
  // Each SVID's files have a copy of their trust domain's: while one after the other is being
  // replaced, what any of them has is trusted.
  for (std::string &der : bundle->x509_authorities) {
    auto &all = place->second.x509_authorities;
    if (std::find(all.begin(), all.end(), der) == all.end()) all.push_back(std::move(der));
  }
  place->second.jwt_authorities.merge(bundle->jwt_authorities);
  place->second.sequence = std::max(place->second.sequence, bundle->sequence);
  return {};
}

tl::expected<Trust, SourceFailure> FilesSource::load_trust() const {
  Trust trust;
  for (const SvidFiles &files : settings_.svids) {
    if (auto good = add_bundle(settings_.trust_domain, files.bundle, trust); !good) {
      return tl::unexpected(good.error());
    }
  }
  for (const auto &[trust_domain, path] : settings_.bundles) {
    if (auto good = add_bundle(trust_domain, path, trust); !good) {
      return tl::unexpected(good.error());
    }
  }
  for (const std::string &path : settings_.crls) {
    const auto content = read_file(path, kMaxFileBytes);
    if (!content) return failure(fmt::format("cannot read the CRL {}: {}", path, content.error()));
    const auto crls = parse_crls(content->bytes);
    if (!crls) {
      return failure(
          fmt::format("the CRL {} is not usable: {}; fetch it anew", path, crls.error()));
    }
    for (const Crl &crl : *crls) {
      const bool known = std::any_of(
          trust.bundles.begin(), trust.bundles.end(),
          [&](const auto &bundle) { return signed_by(crl, bundle.second.x509_authorities); });
      if (!known) {
        return failure(
            fmt::format("the CRL {} of {} is signed by no authority of the bundles; "
                        "fetch it anew",
                        path, crl.issuer));
      }
      trust.crls.push_back(crl.der);
    }
  }
  return trust;
}

bool FilesSource::refresh() {
  bool changed = false;
  for (const auto &svid : svids_) {
    const std::string error = svid->last_error();
    changed |= svid->refresh();
    changed |= svid->last_error() != error;
  }
  if (trust_files_.look() || !trust_) {
    auto trust = load_trust();
    changed |= trust.has_value() != trust_.has_value() ||
               (trust ? *trust != *trust_ : trust.error().message != trust_.error().message);
    trust_ = std::move(trust);
  }
  return changed;
}

bool FilesSource::take_news() {
  timer_.rearm();
  return refresh();
}

tl::expected<X509Svid, SourceFailure> FilesSource::obtain(const SpiffeId &id) {
  refresh();
  std::string have;
  for (std::size_t at = 0; at < svids_.size(); ++at) {
    const auto material = svids_[at]->current();
    const std::string &error = svids_[at]->last_error();
    if (material && material->svid.id.uri() == id.uri()) {
      if (!error.empty()) return failure(error);
      return share(material->svid);
    }
    have += fmt::format("{}{} has {}", have.empty() ? "" : "; ", settings_.svids[at].svid,
                        !error.empty() ? "an error: " + error
                        : material     ? material->svid.id.uri()
                                       : "nothing yet");
  }
  return failure(fmt::format("no file has an SVID of {}: {}", id.uri(), have));
}

tl::expected<Trust, SourceFailure> FilesSource::trust() {
  refresh();
  return trust_;
}

tl::expected<JwtSvid, SourceFailure> FilesSource::obtain_jwt(const SpiffeId &,
                                                             const std::vector<std::string> &) {
  return failure(
      "certificate files cannot issue JWT-SVIDs; use an authority or a Workload API as "
      "the agent's source");
}

}  // namespace

std::unique_ptr<Source> open_files(FilesSettings settings) {
  return std::make_unique<FilesSource>(std::move(settings));
}

}  // namespace inlay::identity::agent
