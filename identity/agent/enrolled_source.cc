#include "identity/agent/enrolled_source.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "identity/agent/authority_link.h"
#include "identity/agent/judgement.h"
#include "identity/agent/node_folder.h"
#include "identity/agent/upstream.h"
#include "identity/certificate.h"
#include "identity/crl.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

constexpr std::chrono::milliseconds kFirstPause{1000};
constexpr std::chrono::milliseconds kLastPause{30000};

tl::unexpected<SourceFailure> failure(std::string message) {
  return tl::unexpected(SourceFailure{std::move(message)});
}

// The error is one line. One bad element spoils the whole: half a state would look like a
// revocation of the other half.
tl::expected<Trust, std::string> read_state(const enrolment::NodeState &state,
                                            const std::string &trust_domain) {
  Trust trust;
  for (const auto &[domain, document] : state.bundles()) {
    auto bundle = parse_trust_domain_bundle(document);
    if (!bundle || !valid_trust_domain(domain)) {
      return tl::unexpected(fmt::format("the bundle of \"{}\" is not usable: {}", printable(domain),
                                        bundle ? "no trust domain" : bundle.error().message));
    }
    trust.bundles.emplace(domain, std::move(*bundle));
  }
  if (!trust.bundles.contains(trust_domain)) {
    return tl::unexpected(fmt::format("it has no bundle of {}", trust_domain));
  }
  for (const std::string &der : state.crls()) {
    if (!parse_crls(der)) return tl::unexpected(std::string("it has a CRL that is none"));
    trust.crls.push_back(der);
  }
  for (const std::string &digest : state.tainted()) {
    std::array<std::uint8_t, 32> authority{};
    if (digest.size() != authority.size()) {
      return tl::unexpected(std::string("it names a tainted authority by no SHA-256"));
    }
    std::ranges::copy(digest, authority.begin());
    trust.tainted.push_back(authority);
  }
  for (const enrolment::Entry &entry : state.entries()) {
    trust.granted.push_back({.id = entry.id(),
                             .spiffe_id = entry.spiffe_id(),
                             .selectors = {entry.selectors().begin(), entry.selectors().end()},
                             .policy = entry.policy(),
                             .hint = entry.hint(),
                             .workload_api = entry.workload_api(),
                             .refuse_traced = entry.refuse_traced()});
  }
  return trust;
}

class EnrolledSource final : public Source {
 public:
  EnrolledSource(EnrolledSettings settings, Node node);
  ~EnrolledSource() override;

  std::string name() const override { return "authority " + node()->authority; }
  tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &id) override;
  tl::expected<Trust, SourceFailure> trust() override;
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(
      const SpiffeId &id, const std::vector<std::string> &audience) override;
  bool issues() const override { return true; }
  bool waits() const override { return true; }
  int news_fd() const override { return news_.get(); }
  bool take_news() override;

 private:
  std::shared_ptr<const Node> node() const {
    const std::lock_guard lock(mutex_);
    return node_;
  }
  bool take(const enrolment::NodeState &state, bool from_disk);
  void say(std::string error);
  void tell();
  UpstreamStream::End watch(grpc::ClientContext &context);
  void renew_for_ever();
  bool is_tainted(const X509Svid &svid, std::time_t now) const;
  std::time_t renew_once(std::chrono::milliseconds &pause);
  void use(const TrustDomainBundle &bundle, X509Svid *fresh);

  const EnrolledSettings settings_;
  const policy::UniqueFd news_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  AuthorityLink link_;
  std::mutex using_;  // while node_ is replaced, on the disk too
  mutable std::mutex mutex_;
  std::shared_ptr<const Node> node_;
  std::optional<Trust> trust_;  // the last good one
  bool told_ = false;           // trust() has given it out
  std::string stream_error_;    // "" while the stream is up
  std::string node_error_;      // of the machine's own SVID
  bool changed_ = false;
  bool look_again_ = false;  // at the machine's own SVID: what it rests on may be tainted now
  bool ending_ = false;
  std::condition_variable wake_;
  std::optional<UpstreamStream> stream_;
  std::thread renewer_;
};

EnrolledSource::EnrolledSource(EnrolledSettings settings, Node node)
    : settings_(std::move(settings)), node_(std::make_shared<const Node>(std::move(node))) {
  enrolment::NodeState state;
  if (state.ParseFromString(load_granted(settings_.folder, settings_.owners))) take(state, true);
  stream_.emplace(kFirstPause, [this](grpc::ClientContext &context) { return watch(context); });
  renewer_ = std::thread([this] { renew_for_ever(); });
}

EnrolledSource::~EnrolledSource() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  renewer_.join();
  stream_.reset();
}

void EnrolledSource::tell() {
  changed_ = true;
  ::eventfd_write(news_.get(), 1);
}

void EnrolledSource::say(std::string error) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(stream_error_, std::move(error)) != stream_error_) tell();
}

bool EnrolledSource::take(const enrolment::NodeState &state, bool from_disk) {
  auto trust = read_state(state, settings_.trust_domain);
  if (!trust) {
    if (!from_disk) {
      say(fmt::format("the authority at {} sent what is not taken: {}", node()->authority,
                      trust.error()));
    }
    return false;
  }
  {
    const std::lock_guard lock(mutex_);
    stream_error_.clear();
    trust_ = std::move(*trust);
    told_ = false;
    look_again_ = !trust_->tainted.empty();
    tell();
  }
  wake_.notify_all();
  if (from_disk) return true;
  // The bundle is what the authority is known by at the next connection.
  const TrustDomainBundle &bundle = trust_->bundles.at(settings_.trust_domain);
  if (node()->bundle != bundle && !bundle.x509_authorities.empty()) use(bundle, nullptr);
  std::string bytes;
  if (state.SerializeToString(&bytes)) {
    // Kept for a start without the authority alone; that it cannot be is no reason to stop.
    if (auto saved = save_granted(settings_.folder, bytes); !saved) say(saved.error());
  }
  return true;
}

// A new bundle, by the stream, or a new SVID, by whoever renews it: neither undoes the other's.
void EnrolledSource::use(const TrustDomainBundle &bundle, X509Svid *fresh) {
  const std::lock_guard one_at_a_time(using_);
  const auto held = node();
  // What came with the SVID may be older than what the stream has said since.
  const bool older = fresh != nullptr && bundle.sequence < held->bundle.sequence;
  auto made =
      std::make_shared<const Node>(Node{held->authority, held->pin, older ? held->bundle : bundle,
                                        fresh != nullptr ? std::move(*fresh) : share(held->svid)});
  const auto saved = save_node(settings_.folder, *made);
  const std::lock_guard lock(mutex_);
  node_ = std::move(made);
  if (!saved) node_error_ = saved.error();
}

UpstreamStream::End EnrolledSource::watch(grpc::ClientContext &context) {
  UpstreamStream::End end;
  const auto held = node();
  if (held->svid.not_after <= std::time(nullptr)) {
    const std::lock_guard lock(mutex_);
    stream_error_ = node_error_;
    return end;
  }
  auto stub = link_.connect(*held);
  if (!stub) {
    say(stub.error().message);
    return end;
  }
  const auto reader = (*stub)->Watch(&context, {});
  for (enrolment::NodeState state; reader->Read(&state);) {
    if (!take(state, false)) {
      context.TryCancel();
      reader->Finish();
      return end;
    }
    end.brought_something = true;
  }
  const grpc::Status status = reader->Finish();
  say(fmt::format("the authority at {} {}", held->authority, status_text(status)));
  return end;
}

void EnrolledSource::renew_for_ever() {
  std::chrono::milliseconds pause = kFirstPause;
  for (;;) {
    const std::time_t next = renew_once(pause);
    const auto now = std::time(nullptr);
    // Looked at again in a minute at the latest: somebody may set the clock.
    const auto wait = next > now ? std::min<std::chrono::milliseconds>(
                                       std::chrono::seconds(next - now), std::chrono::minutes(1))
                                 : pause;
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, wait, [this] { return ending_ || look_again_; });
    if (ending_) return;
    look_again_ = false;
  }
}

bool EnrolledSource::is_tainted(const X509Svid &svid, std::time_t now) const {
  const std::lock_guard lock(mutex_);
  return trust_ && !trust_->tainted.empty() && Judge(*trust_).is_tainted(svid, now);
}

// When to come again; a time that is past means: after `pause`.
std::time_t EnrolledSource::renew_once(std::chrono::milliseconds &pause) {
  const auto held = node();
  const std::time_t now = std::time(nullptr);
  const std::time_t half =
      held->svid.not_before + (held->svid.not_after - held->svid.not_before) / 2;
  if (now < half && !is_tainted(held->svid, now)) {
    pause = kFirstPause;
    return half;
  }
  const bool ended = held->svid.not_after <= now;
  auto fresh = ended ? link_.rejoin(*held) : link_.renew(*held);
  if (fresh) {
    // A replica of the authority may not have heard of it yet.
    const bool still = is_tainted(fresh->svid, now);
    use(fresh->bundle, &fresh->svid);
    if (ended) stream_->retry();  // which could not be opened with the old one
    if (still) {
      pause = std::min(pause * 2, kLastPause);
      return 0;
    }
    const std::lock_guard lock(mutex_);
    node_error_.clear();
    tell();
    pause = kFirstPause;
    return now;
  }
  const std::string what = ended
                               ? fmt::format("the SVID of this machine ended at {}: {}",
                                             time_text(held->svid.not_after), fresh.error().message)
                               : fmt::format(
                                     "the SVID of this machine ends at {} and is not "
                                     "renewed: {}",
                                     time_text(held->svid.not_after), fresh.error().message);
  {
    const std::lock_guard lock(mutex_);
    if (node_error_ != what) tell();
    node_error_ = what;
  }
  pause = std::min(pause * 2, kLastPause);
  return 0;
}

bool EnrolledSource::take_news() {
  eventfd_t ignored = 0;
  ::eventfd_read(news_.get(), &ignored);
  const std::lock_guard lock(mutex_);
  return std::exchange(changed_, false);
}

tl::expected<Trust, SourceFailure> EnrolledSource::trust() {
  const std::lock_guard lock(mutex_);
  if (trust_ && !std::exchange(told_, true)) return *trust_;
  for (const std::string *error : {&node_error_, &stream_error_}) {
    if (!error->empty()) return failure(*error);
  }
  if (trust_) return *trust_;
  return failure(fmt::format("the authority at {} has not answered yet", node_->authority));
}

tl::expected<X509Svid, SourceFailure> EnrolledSource::obtain(const SpiffeId &id) {
  const auto held = node();
  if (held->svid.not_after <= std::time(nullptr)) {
    // Whoever asks with it is told so; what is to be done is said elsewhere.
    const std::lock_guard lock(mutex_);
    return failure(node_error_.empty() ? fmt::format("the SVID of this machine ended at {}",
                                                     time_text(held->svid.not_after))
                                       : node_error_);
  }
  auto svid = link_.sign_x509(*held, id);
  if (!svid) return failure(svid.error().message);
  return std::move(*svid);
}

tl::expected<JwtSvid, SourceFailure> EnrolledSource::obtain_jwt(
    const SpiffeId &id, const std::vector<std::string> &audience) {
  auto token = link_.sign_jwt(*node(), id, audience);
  if (!token) return failure(token.error().message);
  return JwtSvid{std::move(*token->mutable_token()), static_cast<std::time_t>(token->not_after())};
}

}  // namespace

tl::expected<std::unique_ptr<Source>, SourceFailure> open_enrolled(EnrolledSettings settings) {
  auto node = load_node(settings.folder, settings.owners);
  if (!node) return failure(node.error());
  if (node->svid.id.trust_domain() != settings.trust_domain) {
    return failure(
        fmt::format("this machine is {}, of another trust domain than the "
                    "configuration's {}",
                    node->svid.id.uri(), settings.trust_domain));
  }
  return std::make_unique<EnrolledSource>(std::move(settings), std::move(*node));
}

}  // namespace inlay::identity::agent
