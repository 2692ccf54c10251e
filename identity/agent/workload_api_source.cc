#include "identity/agent/workload_api_source.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <workload.grpc.pb.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <optional>
#include <utility>

#include "identity/agent/upstream.h"
#include "identity/agent/upstream_messages.h"
#include "identity/jwt_svid.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

// Identities waits meanwhile; who asks for a JWT-SVID, too.
constexpr std::chrono::seconds kPatience{5};

// What one stream has brought.
template <typename State>
struct Feed {
  std::optional<State> good;  // the last one that was
  std::string error;          // "" while the stream is up and its last message was good
  bool answered = false;      // well or badly
  std::uint64_t number = 0;   // of the last good message, among those of all streams
  bool up() const { return good && error.empty(); }
};

void cleanse(X509SVIDResponse &response) {
  for (X509SVID &svid : *response.mutable_svids()) {
    std::string &key = *svid.mutable_x509_svid_key();
    OPENSSL_cleanse(key.data(), key.size());
  }
}
void cleanse(X509BundlesResponse &) {}
void cleanse(JWTBundlesResponse &) {}

tl::unexpected<SourceFailure> failure(std::string message) {
  return tl::unexpected(SourceFailure{std::move(message)});
}

class WorkloadApiSource final : public Source {
 public:
  explicit WorkloadApiSource(WorkloadApiSettings settings);

  std::string name() const override { return "Workload API " + settings_.socket; }
  tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &id) override;
  tl::expected<Trust, SourceFailure> trust() override;
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(
      const SpiffeId &id, const std::vector<std::string> &audience) override;
  bool issues() const override { return false; }
  bool waits() const override { return true; }
  int news_fd() const override { return news_.get(); }
  bool take_news() override;

 private:
  using Stub = SpiffeWorkloadAPI::Stub;

  template <typename Response, typename State, typename Open>
  UpstreamStream::Read follow(Feed<State> &feed, Open open);
  template <typename State>
  void take(Feed<State> &feed, tl::expected<State, std::string> state);
  std::string said(std::string_view what) const {
    return fmt::format("the Workload API at {} {}", settings_.socket, what);
  }

  const WorkloadApiSettings settings_;
  const policy::UniqueFd news_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::mutex mutex_;
  std::condition_variable answered_;
  Feed<X509State> svids_;
  Feed<X509State> bundles_;
  Feed<Trust> jwt_bundles_;
  std::uint64_t messages_ = 0;
  bool changed_ = false;
  // The last: they write into the above.
  UpstreamStream svid_stream_;
  UpstreamStream bundle_stream_;
  UpstreamStream jwt_bundle_stream_;
};

WorkloadApiSource::WorkloadApiSource(WorkloadApiSettings settings)
    : settings_(std::move(settings)),
      svid_stream_(settings_.pause,
                   follow<X509SVIDResponse>(
                       svids_, [](Stub &stub, auto &ctx) { return stub.FetchX509SVID(&ctx, {}); })),
      bundle_stream_(
          settings_.pause,
          follow<X509BundlesResponse>(
              bundles_, [](Stub &stub, auto &ctx) { return stub.FetchX509Bundles(&ctx, {}); })),
      jwt_bundle_stream_(settings_.pause,
                         follow<JWTBundlesResponse>(jwt_bundles_, [](Stub &stub, auto &ctx) {
                           return stub.FetchJWTBundles(&ctx, {});
                         })) {}

template <typename State>
void WorkloadApiSource::take(Feed<State> &feed, tl::expected<State, std::string> state) {
  {
    const std::lock_guard lock(mutex_);
    feed.answered = true;
    if (state) {
      feed.good = std::move(*state);
      feed.error.clear();
      feed.number = ++messages_;
    } else {
      feed.error = std::move(state.error());
    }
    changed_ = true;
  }
  answered_.notify_all();
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(news_.get(), &one, sizeof one);
}

template <typename Response, typename State, typename Open>
UpstreamStream::Read WorkloadApiSource::follow(Feed<State> &feed, Open open) {
  return [this, &feed, open](grpc::ClientContext &context) -> UpstreamStream::End {
    const auto channel = connect_upstream(settings_);
    if (!channel) {
      take<State>(feed, tl::unexpected(channel.error()));
      return {};
    }
    const auto stub = SpiffeWorkloadAPI::NewStub(*channel);
    const auto reader = open(*stub, context);
    UpstreamStream::End end;
    for (Response response; reader->Read(&response);) {
      auto state = read_message(response, settings_.trust_domain);
      cleanse(response);
      if (!state) {
        // Whoever sends such a thing could do so without end: it has to wait for its next chance.
        take<State>(feed,
                    tl::unexpected(said("sent a message that is not taken: " + state.error())));
        context.TryCancel();
        reader->Finish();
        return end;
      }
      take<State>(feed, std::move(*state));
      end.brought_something = true;
    }
    const grpc::Status status = reader->Finish();
    end.for_good = no_use_to_repeat(status);
    take<State>(feed, tl::unexpected(said(status_text(status))));
    return end;
  };
}

bool WorkloadApiSource::take_news() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(news_.get(), &count, sizeof count);
  const std::lock_guard lock(mutex_);
  return std::exchange(changed_, false);
}

tl::expected<X509Svid, SourceFailure> WorkloadApiSource::obtain(const SpiffeId &id) {
  std::unique_lock lock(mutex_);
  if (!answered_.wait_for(lock, kPatience, [this] { return svids_.answered; })) {
    svids_.answered = true;  // nobody waits for it a second time
    svids_.error = said("does not answer");
  }
  if (!svids_.error.empty()) return failure(svids_.error);
  std::string others;
  for (const X509Svid &svid : svids_.good->svids) {
    if (svid.id == id) return share(svid);
    others += (others.empty() ? "" : ", ") + svid.id.uri();
  }
  return failure(
      said(fmt::format("has no SVID of {} for this agent, only of {}; it needs an entry "
                       "for it there",
                       id.uri(), others)));
}

// Both X.509 streams bring all bundles; that of SVIDs together with the SVID that needs them, that
// of bundles also when there is no SVID. The newest word on each trust domain counts; what neither
// has any more is dropped. One that is down has no say while the other is up.
tl::expected<Trust, SourceFailure> WorkloadApiSource::trust() {
  std::unique_lock lock(mutex_);
  answered_.wait_for(lock, kPatience, [this] { return svids_.answered || bundles_.answered; });
  std::vector<const Feed<X509State> *> feeds;
  for (const Feed<X509State> *feed : {&svids_, &bundles_}) {
    if (feed->up()) feeds.push_back(feed);
  }
  if (feeds.empty()) {
    return failure(svids_.error.empty() ? said("has not answered yet") : svids_.error);
  }
  std::ranges::sort(feeds, {}, &Feed<X509State>::number);
  Trust trust;
  for (const Feed<X509State> *feed : feeds) {
    for (const auto &[trust_domain, bundle] : feed->good->trust.bundles) {
      trust.bundles[trust_domain] = bundle;
    }
    for (const std::string &crl : feed->good->trust.crls) {
      if (std::ranges::count(trust.crls, crl) == 0) trust.crls.push_back(crl);
    }
  }
  if (jwt_bundles_.good) {
    for (const auto &[trust_domain, bundle] : jwt_bundles_.good->bundles) {
      trust.bundles[trust_domain].jwt_authorities = bundle.jwt_authorities;
    }
  }
  return trust;
}

tl::expected<JwtSvid, SourceFailure> WorkloadApiSource::obtain_jwt(
    const SpiffeId &id, const std::vector<std::string> &audience) {
  const auto channel = connect_upstream(settings_);
  if (!channel) return failure(channel.error());
  grpc::ClientContext context;
  prepare_call(context);
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  JWTSVIDRequest request;
  request.set_spiffe_id(id.uri());
  for (const std::string &one : audience) request.add_audience(one);
  JWTSVIDResponse response;
  const grpc::Status status =
      SpiffeWorkloadAPI::NewStub(*channel)->FetchJWTSVID(&context, request, &response);
  if (!status.ok()) return failure(said(status_text(status)));
  if (response.svids().empty()) return failure(said("sent no JWT-SVID"));
  std::string &token = *response.mutable_svids(0)->mutable_svid();
  const auto claims = read_jwt_svid(token);
  if (!claims) {
    return failure(said(
        fmt::format("sent something else than a JWT-SVID: {}", sentence(claims.error().error))));
  }
  const auto has = [&](const std::string &one) {
    return std::ranges::count(claims->audience, one) != 0;
  };
  if (claims->subject != id || !std::ranges::all_of(audience, has) ||
      claims->expires <= std::time(nullptr)) {
    return failure(said("sent a JWT-SVID that is not the one asked for, or has expired"));
  }
  return JwtSvid{std::move(token), claims->expires};
}

}  // namespace

std::unique_ptr<Source> open_workload_api(WorkloadApiSettings settings) {
  return std::make_unique<WorkloadApiSource>(std::move(settings));
}

tl::expected<std::string, std::string> endpoint_of_environment() {
  const char *const value = ::secure_getenv("SPIFFE_ENDPOINT_SOCKET");
  if (value == nullptr) {
    return tl::unexpected(std::string(
        "SPIFFE_ENDPOINT_SOCKET is not set, or this program has more rights than who started it"));
  }
  std::string_view path(value);
  // An RFC 3986 URI without an authority: unix:///PATH or unix:/PATH.
  if (path.starts_with("unix:")) {
    path.remove_prefix(5);
    if (path.starts_with("//")) path.remove_prefix(2);
    const bool absolute = path.starts_with('/') && !path.starts_with("//");
    if (absolute && path.find_first_of("?#") == path.npos) return std::string(path);
  }
  return tl::unexpected(std::string(
      "SPIFFE_ENDPOINT_SOCKET is not unix:///PATH; TCP does not tell who is at the other end"));
}

}  // namespace inlay::identity::agent
