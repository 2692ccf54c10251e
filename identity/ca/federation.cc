#include "identity/ca/federation.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "identity/bundle.h"
#include "identity/certificate.h"
#include "identity/extensions.h"
#include "identity/file.h"
#include "identity/rpc/https_client.h"
#include "policy/trusted_file.h"

namespace inlay::identity::ca {
namespace {

constexpr std::size_t kMostBundle = std::size_t{1} << 20;
constexpr std::time_t kShortest = 60, kLongest = 86400, kLongestAfterFailure = 300;

template <typename Error = std::string>
auto wrong(Error message) {
  return tl::unexpected(std::string(std::move(message)));
}

tl::expected<Bundle, std::string> bundle_of_file(const std::string &file) {
  const auto opened = policy::open_trusted(file, {});
  if (!opened) return wrong(fmt::format("cannot use {}: {}", file, opened.error()));
  const auto content = read_file(opened->fd.get(), kMostBundle);
  if (!content) return wrong(fmt::format("cannot read {}: {}", file, content.error()));
  auto bundle = parse_bundle(content->bytes);
  if (!bundle) return wrong(fmt::format("{}: {}", file, bundle.error().message));
  return std::move(*bundle);
}

// Who the endpoint may be.
tl::expected<Bundle, std::string> bundle_of_endpoint(const FederationSettings &from,
                                                     const std::string &trust_domain,
                                                     const Store &store) {
  const auto kept = store.bundles();
  if (!kept) return wrong(kept.error().message);
  const auto found = std::ranges::find(*kept, trust_domain, &FederatedBundle::trust_domain);
  if (found == kept->end() && from.bundle.empty()) {
    return wrong(fmt::format("there is no bundle of {} to know the endpoint by: give one in bundle",
                             trust_domain));
  }
  if (found == kept->end()) return bundle_of_file(from.bundle);
  auto bundle = parse_bundle(found->document);
  if (!bundle) return wrong(bundle.error().message);
  return std::move(*bundle);
}

}  // namespace

std::time_t fetch_interval(std::uint32_t refresh_hint, int failures, double chance) {
  const std::time_t base = failures > 0
                               ? std::min<std::time_t>(std::time_t{1} << std::min(failures - 1, 16),
                                                       kLongestAfterFailure)
                               : std::clamp<std::time_t>(refresh_hint, kShortest, kLongest);
  return std::max<std::time_t>(
      1, static_cast<std::time_t>(static_cast<double>(base) * (0.9 + 0.2 * chance)));
}

tl::expected<TrustDomainBundle, std::string> judge_fetched_bundle(std::string_view document,
                                                                  std::string_view trust_domain) {
  if (!looks_like_json(document)) return wrong("what it gives is no SPIFFE bundle document");
  auto bundle = parse_trust_domain_bundle(document);
  if (!bundle) return wrong("its bundle is refused: " + bundle.error().message);
  if (bundle->x509_authorities.empty()) {
    return wrong("its bundle holds no X.509 authority: it would end all that is trusted of it");
  }
  for (const std::string &der : bundle->x509_authorities) {
    const X509Ptr authority =
        certificate_from_der({reinterpret_cast<const unsigned char *>(der.data()), der.size()});
    if (!authority) return wrong("its bundle holds something that is no certificate");
    const auto uris = uri_names(authority.get());
    if (!uris) return wrong("its bundle is refused: " + uris.error());
    for (const std::string &uri : *uris) {
      if (uri != fmt::format("spiffe://{}", trust_domain)) {
        return wrong(fmt::format("its bundle is not of {}: there is an authority of {} in it",
                                 trust_domain, printable(uri)));
      }
    }
  }
  return std::move(*bundle);
}

tl::expected<TrustDomainBundle, std::string> fetch_bundle(const FederationSettings &from,
                                                          const Store &store, std::time_t now,
                                                          const std::atomic<bool> *ending) {
  rpc::HttpsTrust trust;
  BundleSet of_endpoint;
  tl::expected<Bundle, std::string> anchors;
  if (!from.endpoint_spiffe_id.empty()) {
    const auto id = SpiffeId::parse(from.endpoint_spiffe_id);
    if (!id) return wrong(std::string(sentence(id.error())));
    const std::string domain(id->trust_domain());
    auto bundle = bundle_of_endpoint(from, domain, store);
    if (!bundle) return wrong(bundle.error());
    of_endpoint[domain] = std::move(*bundle);
    trust.spiffe_id = from.endpoint_spiffe_id;
    trust.bundles = &of_endpoint;
  } else if (!from.ca_file.empty()) {
    anchors = bundle_of_file(from.ca_file);
    if (!anchors) return wrong(anchors.error());
    if (anchors->authorities.empty()) return wrong(from.ca_file + " holds no certificate");
    trust.anchors = anchors->authorities;
  }
  rpc::HttpsRequest request;
  request.url = from.url;
  request.most = kMostBundle;
  request.ending = ending;
  const auto answer = rpc::ask_https(request, trust, now);
  if (!answer) return wrong(answer.error());
  if (answer->status != 200) {
    return wrong(fmt::format("{}: answers with status {}", from.url, answer->status));
  }
  auto bundle = judge_fetched_bundle(answer->body, from.trust_domain);
  if (!bundle) return wrong(fmt::format("{}: {}", from.url, bundle.error()));
  return bundle;
}

Federation::Federation(std::vector<FederationSettings> settings, Host host)
    : settings_(std::move(settings)), host_(std::move(host)) {
  for (const FederationSettings &from : settings_) {
    threads_.emplace_back([this, &from] { follow(from); });
  }
}

Federation::~Federation() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  for (std::thread &thread : threads_) thread.join();
}

void Federation::follow(const FederationSettings &from) {
  std::minstd_rand random{std::random_device{}()};
  std::uniform_real_distribution<double> chance(0, 1);
  std::string problem, held;
  int failures = 0;
  while (!ending_) {
    const std::time_t now = std::time(nullptr);
    auto fetched = fetch_bundle(from, host_.store, now, &ending_);
    std::string why = fetched ? "" : fetched.error();
    if (ending_) return;
    if (fetched) {
      const std::string document = bundle_document(*fetched);
      const auto kept = host_.store.advance_bundle({from.trust_domain, document, now});
      if (!kept) {
        why = kept.error().message;
      } else if (std::exchange(held, document) != document) {
        host_.audit({.event = "bundle-fetched", .detail = from.trust_domain});
      }
    }
    failures = why.empty() ? 0 : failures + 1;
    if (why != std::exchange(problem, why) && !why.empty()) {
      const std::string told =
          fmt::format("the bundle of {} is not fetched: {}", from.trust_domain, why);
      host_.audit({.event = "refused", .detail = told});
      host_.note(told);
    }
    const auto wait = std::chrono::seconds(
        fetch_interval(fetched ? fetched->refresh_hint : 0, failures, chance(random)));
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, wait, [this] { return ending_.load(); });
  }
}

}  // namespace inlay::identity::ca
