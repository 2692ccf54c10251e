#include "identity/agent/est_source.h"

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/pem.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "identity/agent/kept_file.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/private_key.h"
#include "policy/trusted_file.h"

namespace inlay::identity::agent {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kFirstPause{1000}, kLastPause{30'000};
constexpr seconds kAuthoritiesEvery{300};
constexpr const char *kClientFile = "client.pem";
constexpr const char *kAuthoritiesFile = "cacerts.der";

tl::unexpected<SourceFailure> failure(std::string message) {
  return tl::unexpected(SourceFailure{std::move(message)});
}

// The machine's own.
struct Client {
  PkeyPtr key;
  std::vector<X509Ptr> chain;  // empty: only the key is there
  std::time_t not_before = 0, not_after = 0;

  rpc::TlsCredentials credentials() const { return {chain, key.get()}; }
};

tl::expected<Client, std::string> client_of(PkeyPtr key, std::vector<X509Ptr> chain) {
  Client client{std::move(key), std::move(chain)};
  if (client.chain.empty()) return client;
  const X509 *leaf = client.chain.front().get();
  const auto begins = to_time(X509_get0_notBefore(leaf)), ends = to_time(X509_get0_notAfter(leaf));
  if (!begins || !ends) return tl::unexpected(std::string("its dates are malformed"));
  if (X509_check_private_key(leaf, client.key.get()) != 1 || !halves_match(client.key.get())) {
    return tl::unexpected(std::string("its key is another's"));
  }
  client.not_before = *begins;
  client.not_after = *ends;
  return client;
}

tl::expected<Client, std::string> load_client(const std::string &certificate,
                                              const std::string &key_file,
                                              std::span<const uid_t> owners) {
  const auto key_text = read_kept_file(key_file, owners);
  if (!key_text) return tl::unexpected(key_text.error());
  if (const auto complaint = key_permission_complaint(key_text->status); !complaint.empty()) {
    return tl::unexpected(key_file + " " + complaint);
  }
  const auto text = read_kept_file(certificate, owners);
  if (!text) return tl::unexpected(text.error());
  const auto wrong = [&](const std::string &why) {
    return tl::unexpected(fmt::format("{}: {}", certificate, why));
  };
  auto key = private_key_from_pem(key_text->bytes);
  if (!key) return wrong(key.error());
  auto chain = certificates_from_pem(text->bytes);
  if (!chain) return wrong(chain.error());
  auto client = client_of(std::move(*key), std::move(*chain));
  if (!client) return wrong(client.error());
  return client;
}

PkeyPtr make_key() { return PkeyPtr(EVP_PKEY_Q_keygen(library_context(), nullptr, "EC", "P-256")); }

class EstSource final : public Source {
 public:
  explicit EstSource(EstSettings settings);
  ~EstSource() override;

  std::string name() const override { return "EST server " + settings_.url; }
  tl::expected<X509Svid, SourceFailure> obtain(const SpiffeId &id) override;
  tl::expected<Trust, SourceFailure> trust() override;
  tl::expected<JwtSvid, SourceFailure> obtain_jwt(const SpiffeId &,
                                                  const std::vector<std::string> &) override {
    return failure("an EST server has no JWT-SVIDs");
  }
  bool issues() const override { return true; }
  bool waits() const override { return true; }
  int news_fd() const override { return news_.get(); }
  bool take_news() override;

 private:
  using Shared = std::shared_ptr<const Client>;
  Shared client() const {
    const std::lock_guard lock(mutex_);
    return client_;
  }
  EstAuthorities authorities() const {
    const std::lock_guard lock(mutex_);
    return authorities_;
  }
  void load();
  void keep();  // the thread
  bool look_after_client();
  bool look_for_authorities();
  tl::expected<void, std::string> first_contact();
  tl::expected<void, std::string> renew(const Client &held);
  tl::expected<void, std::string> use(PkeyPtr key, std::vector<X509Ptr> chain);
  std::vector<X509Ptr> chain_of(const std::vector<X509Ptr> &given);
  void say(std::string *error, std::string text);

  const EstSettings settings_;
  const policy::UniqueFd news_{::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::atomic<bool> ending_ = false;
  const EstLink link_;

  mutable std::mutex mutex_;
  Shared client_;
  EstAuthorities authorities_;
  bool told_ = false;  // trust() has given them out
  bool changed_ = false;
  std::string client_error_, authorities_error_;
  std::condition_variable wake_;
  std::thread keeper_;
};

EstSource::EstSource(EstSettings settings)
    : settings_(std::move(settings)), link_(settings_, ending_) {
  load();
  keeper_ = std::thread([this] { keep(); });
}

EstSource::~EstSource() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  keeper_.join();
}

void EstSource::load() {
  if (settings_.folder.empty()) return;
  const std::string file = settings_.folder + "/" + kClientFile;
  if (auto client = load_client(file, file, settings_.owners)) {
    client_ = std::make_shared<const Client>(std::move(*client));
  }
  const auto kept = read_kept_file(settings_.folder + "/" + kAuthoritiesFile, settings_.owners);
  const auto certificates =
      kept ? certificates_from_der(kept->bytes) : tl::unexpected(std::string());
  auto sorted = certificates ? sort_authorities(*certificates) : tl::unexpected(std::string());
  if (sorted) authorities_ = std::move(*sorted);
}

void EstSource::say(std::string *error, std::string text) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(*error, std::move(text)) == *error) return;
  changed_ = true;
  ::eventfd_write(news_.get(), 1);
}

tl::expected<void, std::string> EstSource::use(PkeyPtr key, std::vector<X509Ptr> chain) {
  auto fresh = client_of(std::move(key), std::move(chain));
  if (!fresh) return tl::unexpected("the machine's own certificate: " + fresh.error());
  std::string pem = key_and_chain_pem(fresh->key.get(), fresh->chain);
  auto written = pem.empty() ? tl::unexpected(std::string("out of memory"))
                             : replace_kept_file(settings_.folder, kClientFile, pem);
  OPENSSL_cleanse(pem.data(), pem.size());
  if (!written && fresh->chain.empty())
    return written;  // nothing is asked for a key that is not kept
  const std::lock_guard lock(mutex_);
  client_ = std::make_shared<const Client>(std::move(*fresh));
  return written;
}

// An intermediate that was replaced since cacerts was asked is in it by now.
std::vector<X509Ptr> EstSource::chain_of(const std::vector<X509Ptr> &given) {
  EstChain chain = est_chain(given, authorities());
  if (!chain.complete && look_for_authorities()) chain = est_chain(given, authorities());
  return std::move(chain.certificates);
}

tl::expected<void, std::string> EstSource::first_contact() {
  if (auto made = make_kept_folder(settings_.folder); !made) return made;
  if (const Shared held = client(); !held || !held->chain.empty()) {
    PkeyPtr key = make_key();
    if (!key) return tl::unexpected(std::string("OpenSSL could not make a key"));
    if (auto kept = use(std::move(key), {}); !kept) return kept;
  }
  const Shared asking = client();
  const auto given = link_.enroll("simpleenroll", asking->key.get(), make_csr(asking->key.get()),
                                  std::nullopt, authorities());
  if (!given) return tl::unexpected(given.error());
  EVP_PKEY_up_ref(asking->key.get());
  return use(PkeyPtr(asking->key.get()), chain_of(*given));
}

tl::expected<void, std::string> EstSource::renew(const Client &held) {
  PkeyPtr key = make_key();
  if (!key) return tl::unexpected(std::string("OpenSSL could not make a key"));
  const auto given =
      link_.enroll("simplereenroll", key.get(), make_csr_like(key.get(), held.chain.front().get()),
                   held.credentials(), authorities());
  if (!given) return tl::unexpected(given.error());
  return use(std::move(key), chain_of(*given));
}

// False: to be tried again soon.
bool EstSource::look_after_client() {
  const std::time_t now = std::time(nullptr);
  tl::expected<void, std::string> done;
  if (settings_.user.empty()) {
    auto loaded = load_client(settings_.certificate, settings_.key, settings_.owners);
    if (loaded && loaded->chain.empty()) {
      loaded = tl::unexpected(settings_.certificate + " holds no certificate in PEM");
    }
    if (loaded) {
      const std::lock_guard lock(mutex_);
      client_ = std::make_shared<const Client>(std::move(*loaded));
    } else {
      done = tl::unexpected(loaded.error());
    }
  } else if (const Shared held = client(); !held || held->chain.empty()) {
    if (authorities().anchors.empty()) return false;  // the chain to show is not known yet
    done = first_contact();
  } else if (held->not_after <= now) {
    done = first_contact();
    if (!done) {
      done = tl::unexpected(
          fmt::format("the certificate of this machine ended at {}; put a new password into {}: {}",
                      time_text(held->not_after), settings_.password_file, done.error()));
    }
  } else if (now >= held->not_before + (held->not_after - held->not_before) / 2) {
    done = renew(*held);
    if (!done) {
      done = tl::unexpected(
          fmt::format("the certificate of this machine ends at {} and is not renewed: {}",
                      time_text(held->not_after), done.error()));
    }
  }
  say(&client_error_, done ? "" : done.error());
  return done.has_value();
}

bool EstSource::look_for_authorities() {
  const EstAuthorities known = authorities();
  auto fresh = link_.authorities(known);
  if (!fresh) {
    say(&authorities_error_, fresh.error());
    return false;
  }
  say(&authorities_error_, "");
  if (*fresh == known) return true;
  std::string all;
  for (const auto *list : {&fresh->anchors, &fresh->between}) {
    for (const std::string &der : *list) all += der;
  }
  {
    const std::lock_guard lock(mutex_);
    authorities_ = std::move(*fresh);
    told_ = false;
    changed_ = true;
    ::eventfd_write(news_.get(), 1);
  }
  if (settings_.folder.empty()) return true;
  auto kept = make_kept_folder(settings_.folder);
  if (kept) kept = replace_kept_file(settings_.folder, kAuthoritiesFile, all);
  if (!kept) say(&authorities_error_, kept.error());  // for a start without the server alone
  return true;
}

void EstSource::keep() {
  std::minstd_rand random{std::random_device{}()};
  std::uniform_real_distribution<double> tenth(0.9, 1.1);
  milliseconds pause = kFirstPause;
  std::time_t authorities_due = 0;
  while (!ending_) {
    bool good = true;
    const std::time_t now = std::time(nullptr);
    if (now >= authorities_due || authorities_due - now > 2 * kAuthoritiesEvery.count()) {
      good = look_for_authorities();
      if (good) {
        authorities_due = now + static_cast<std::time_t>(
                                    static_cast<double>(kAuthoritiesEvery.count()) * tenth(random));
      }
    }
    good = look_after_client() && good;
    // Looked at again in ten seconds at the latest: somebody may set the clock, or change a file.
    const milliseconds wait =
        good ? milliseconds(10'000)
             : milliseconds(static_cast<int>(static_cast<double>(pause.count()) * tenth(random)));
    pause = good ? kFirstPause : std::min(pause * 2, kLastPause);
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, wait, [this] { return ending_.load(); });
  }
}

bool EstSource::take_news() {
  eventfd_t ignored = 0;
  ::eventfd_read(news_.get(), &ignored);
  const std::lock_guard lock(mutex_);
  return std::exchange(changed_, false);
}

tl::expected<Trust, SourceFailure> EstSource::trust() {
  const std::lock_guard lock(mutex_);
  const bool there = !authorities_.anchors.empty();
  if (!there || std::exchange(told_, true)) {
    for (const std::string *error : {&client_error_, &authorities_error_}) {
      if (!error->empty()) return failure(*error);
    }
  }
  if (!there) return failure(fmt::format("the EST server {} has not answered yet", settings_.url));
  Trust trust;
  trust.bundles[settings_.trust_domain].x509_authorities = authorities_.anchors;
  return trust;
}

tl::expected<X509Svid, SourceFailure> EstSource::obtain(const SpiffeId &id) {
  const Shared held = client();
  if (!held || held->chain.empty()) {
    const std::lock_guard lock(mutex_);
    return failure(client_error_.empty() ? "this machine has no certificate of its own yet"
                                         : client_error_);
  }
  PkeyPtr key = make_key();
  if (!key) return failure("OpenSSL could not make a key");
  const auto given = link_.enroll("simpleenroll", key.get(), make_csr(key.get(), id.uri()),
                                  held->credentials(), authorities());
  if (!given) return failure(given.error());
  const std::vector<X509Ptr> chain = chain_of(*given);
  std::vector<std::string> ders;
  for (const X509Ptr &certificate : chain) ders.push_back(certificate_der(certificate.get()));
  auto svid = parse_svid_without_key(ders);
  if (!svid) {
    return failure(fmt::format("{} gave what is no SVID: {}", name(), svid.error().message));
  }
  svid->key = std::move(key);
  return std::move(*svid);
}

}  // namespace

tl::expected<std::unique_ptr<Source>, SourceFailure> open_est(EstSettings settings) {
  return std::make_unique<EstSource>(std::move(settings));
}

}  // namespace inlay::identity::agent
