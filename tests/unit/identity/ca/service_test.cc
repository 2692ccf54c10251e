// The whole way from a token to an SVID: a real server on loopback, the agent's own client and
// source against it, on SQLite.
#include "identity/ca/service.h"

#include <doctest/doctest.h>
#include <grpcpp/create_channel_posix.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "../certificates.h"
#include "identity/agent/authority_link.h"
#include "identity/agent/enrolled_source.h"
#include "identity/agent/identities.h"
#include "identity/agent/judgement.h"
#include "identity/ca/database.h"
#include "identity/ca/server.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/enrolment_token.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::ca;
namespace v1 = inlay::enrolment::v1;
using agent::AuthorityLink;

namespace {

constexpr const char *kDomain = "example.org";
constexpr const char *kWeb = "spiffe://example.org/web";

class Folder {
 public:
  Folder() {
    std::string name = "/tmp/inlay-ca-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

class Issuer {
 public:
  Issuer() {
    ::signal(SIGPIPE, SIG_IGN);
    auto database = open_sqlite(folder.path + "/ca.db");
    REQUIRE_MESSAGE(database, database.error().message);
    auto opened = Store::open(std::move(*database), kDomain);
    REQUIRE_MESSAGE(opened, opened.error().message);
    store = std::make_unique<Store>(std::move(*opened));
    auto its = Seal::open(folder.path + "/seal.key", true);
    REQUIRE_MESSAGE(its, its.error());
    seal = std::make_unique<Seal>(std::move(*its));
    start();
  }
  void start(std::string listen = "127.0.0.1:0") {
    ServerSettings settings;
    settings.listen = {std::move(listen)};
    settings.issuing.trust_domain = kDomain;
    settings.in_force.rotation.trust_domain = kDomain;
    auto started = Server::start(settings, {.store = *store,
                                            .seal = *seal,
                                            .audit =
                                                [this](const AuditRecord &event) {
                                                  const std::lock_guard lock(mutex_);
                                                  log_ += fmt_line(event);
                                                },
                                            .note = [](const std::string &) {}});
    REQUIRE_MESSAGE(started, started.error());
    server = std::move(*started);
    where = server->addresses().at(0);
  }
  EnrolmentToken token(const std::string &node, std::time_t lifetime = 600) {
    EnrolmentToken made;
    made.pin = server->in_force()->signer.pin();
    REQUIRE(make_secret(made));
    const std::time_t now = std::time(nullptr);
    REQUIRE(store->add_token({.secret_digest = made.secret_digest(),
                              .node = node,
                              .created_at = now,
                              .expires_at = now + lifetime}));
    const auto parsed = parse_enrolment_token(made.text());
    REQUIRE(parsed);
    return *parsed;
  }
  agent::Node enrolled(const std::string &name) {
    auto node = link.enroll(where, token(name), "host");
    REQUIRE_MESSAGE(node, node.error().message);
    return std::move(*node);
  }
  Entry entry(const std::string &node, const std::string &id = kWeb) {
    Entry wanted;
    wanted.spiffe_id = id;
    wanted.nodes = node;
    wanted.selectors = {"uid=0"};
    auto added = store->add_entry(wanted);
    REQUIRE_MESSAGE(added, added.error().message);
    return *added;
  }
  std::string log() {
    const std::lock_guard lock(mutex_);
    return log_;
  }

  Folder folder;
  std::unique_ptr<Store> store;
  std::unique_ptr<Seal> seal;
  AuthorityLink link;
  std::string where;

 private:
  static std::string fmt_line(const AuditRecord &event) {
    std::string line;
    for (const std::string_view part :
         {event.event, event.node, event.spiffe_id, event.reason, event.detail}) {
      line += std::string(part) + "|";
    }
    return line + "\n";
  }
  std::mutex mutex_;
  std::string log_;

 public:
  std::unique_ptr<Server> server;  // ends first
};

bool has(const std::string &text, const std::string &part) {
  return text.find(part) != std::string::npos;
}

SpiffeId id_of(const char *uri) { return *SpiffeId::parse(uri); }

// What a source has, once `good` says that it is what is waited for.
template <typename Good>
agent::Trust trust_when(agent::Source &source, Good good) {
  for (;;) {
    auto trust = source.trust();
    if (trust && good(*trust)) return std::move(*trust);
    pollfd news{source.news_fd(), POLLIN, 0};
    ::poll(&news, 1, 1000);
    source.take_news();
  }
}

}  // namespace

TEST_CASE("a token makes a machine a node, which then gets what it is granted and nothing else") {
  Issuer authority;
  const agent::Node node = authority.enrolled("web-1");
  CHECK(node.svid.id.uri() == "spiffe://example.org/inlay/node/web-1");
  CHECK(node.svid.not_after - std::time(nullptr) > 86400 - 120);

  authority.entry("web-*");
  authority.entry("db-1", "spiffe://example.org/db");
  const auto svid = authority.link.sign_x509(node, id_of(kWeb));
  REQUIRE_MESSAGE(svid, svid.error().message);
  CHECK(svid->id.uri() == kWeb);
  CHECK(svid->chain.size() == 2);
  for (const char *other : {"spiffe://example.org/db", "spiffe://example.org/nothing",
                            "spiffe://example.org/inlay/ca", "spiffe://example.org/inlay/node/x"}) {
    CAPTURE(other);
    const auto refused = authority.link.sign_x509(node, id_of(other));
    REQUIRE(!refused);
    CHECK(refused.error().code == grpc::StatusCode::PERMISSION_DENIED);
    CHECK(!authority.link.sign_jwt(node, id_of(other), {"aud"}));
  }
  const auto token = authority.link.sign_jwt(node, id_of(kWeb), {"reports"});
  REQUIRE_MESSAGE(token, token.error().message);
  CHECK(!authority.link.sign_jwt(node, id_of(kWeb), {}));
  CHECK(has(authority.log(), "issued|web-1|spiffe://example.org/web|"));
  CHECK(has(authority.log(), "refused|web-1|spiffe://example.org/db|PERMISSION_DENIED|"));
}

TEST_CASE("T69: a token used twice, unknown or past its time is refused in the same words") {
  Issuer authority;
  const EnrolmentToken token = authority.token("web-1");
  REQUIRE(authority.link.enroll(authority.where, token, "host"));
  const auto again = authority.link.enroll(authority.where, token, "host");
  REQUIRE(!again);
  EnrolmentToken unknown = authority.token("web-2");
  unknown.secret.back() ^= 1;
  const auto guessed = authority.link.enroll(authority.where, unknown, "host");
  REQUIRE(!guessed);
  const auto late = authority.link.enroll(authority.where, authority.token("web-3", -1), "host");
  REQUIRE(!late);
  CHECK(again.error().message == guessed.error().message);
  CHECK(again.error().message == late.error().message);
  CHECK(has(authority.log(), "token used"));
  CHECK(has(authority.log(), "token unknown"));
  CHECK(has(authority.log(), "token expired"));
}

TEST_CASE("T69: of many that come with one token at once, one is enrolled") {
  Issuer authority;
  const EnrolmentToken token = authority.token("web-1");
  std::atomic<int> good{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 24; ++i) {
      threads.emplace_back([&] {
        AuthorityLink link;
        if (link.enroll(authority.where, token, "host")) ++good;
      });
    }
  }
  CHECK(good == 1);
}

TEST_CASE("T70: of a request only its key counts") {
  Issuer authority;
  const agent::Node node = authority.enrolled("web-1");
  authority.entry("web-1");
  const PkeyPtr key = testing::make_key(testing::KeyKind::p256);
  // A request that wants to be another's, with further names, and an authority.
  const std::unique_ptr<X509_REQ, OpensslDelete<X509_REQ_free>> request(X509_REQ_new());
  X509_REQ_set_pubkey(request.get(), key.get());
  X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char *>("other"), -1, -1, 0);
  STACK_OF(X509_EXTENSION) *extensions = nullptr;
  for (const auto &[name, value] :
       {std::pair{"subjectAltName", "URI:spiffe://example.org/other,DNS:other.example"},
        std::pair{"basicConstraints", "critical,CA:TRUE"},
        std::pair{"keyUsage", "critical,keyCertSign"}}) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509_EXTENSION *extension = X509V3_EXT_conf(nullptr, &context, name, value);
    REQUIRE(extension != nullptr);
    sk_X509_EXTENSION_push(
        extensions == nullptr ? extensions = sk_X509_EXTENSION_new_null() : extensions, extension);
  }
  X509_REQ_add_extensions(request.get(), extensions);
  sk_X509_EXTENSION_pop_free(extensions, X509_EXTENSION_free);
  REQUIRE(X509_REQ_sign(request.get(), key.get(), EVP_sha256()) > 0);
  unsigned char *der = nullptr;
  const int length = i2d_X509_REQ(request.get(), &der);
  const std::string bytes(reinterpret_cast<char *>(der), static_cast<std::size_t>(length));
  OPENSSL_free(der);

  auto client = authority.link.connect(node);
  REQUIRE(client);
  grpc::ClientContext context;
  v1::SignX509Request asked;
  asked.set_spiffe_id(kWeb);
  asked.set_csr(bytes);
  v1::X509Chain answer;
  const auto status = (*client)->SignX509(&context, asked, &answer);
  REQUIRE_MESSAGE(status.ok(), status.error_message());
  const auto svid = parse_svid_without_key({answer.chain().begin(), answer.chain().end()});
  REQUIRE_MESSAGE(svid, svid.error().message);
  CHECK(svid->id.uri() == kWeb);
  const X509 *leaf = svid->chain.front().get();
  CHECK(X509_check_ca(const_cast<X509 *>(leaf)) == 0);
  CHECK(X509_NAME_entry_count(X509_get_subject_name(leaf)) == 0);
  auto *names =
      static_cast<GENERAL_NAMES *>(X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr));
  CHECK(sk_GENERAL_NAME_num(names) == 1);
  GENERAL_NAMES_free(names);
}

TEST_CASE("who has no node's SVID, or a workload's, gets nothing") {
  Issuer authority;
  agent::Node node = authority.enrolled("web-1");
  authority.entry("web-1");
  auto workload = authority.link.sign_x509(node, id_of(kWeb));
  REQUIRE(workload);
  agent::Node impostor{node.authority, node.pin, node.bundle, std::move(*workload)};
  const auto refused = authority.link.sign_x509(impostor, id_of(kWeb));
  REQUIRE(!refused);
  CHECK(refused.error().code == grpc::StatusCode::PERMISSION_DENIED);
  CHECK(!authority.link.renew(impostor));

  // With a certificate of another authority of that name.
  Issuer other;
  agent::Node stranger = other.enrolled("web-1");
  stranger.authority = authority.where;
  stranger.bundle = node.bundle;
  const auto unknown = authority.link.renew(stranger);
  REQUIRE(!unknown);
  CHECK(unknown.error().code == grpc::StatusCode::UNAUTHENTICATED);
  // Whoever that is: the name in such a certificate is written down as what it is, a claim.
  CHECK(
      has(authority.log(), "refused|||UNAUTHENTICATED|the certificate of this node is refused: "));
  CHECK(has(authority.log(), "; it calls itself spiffe://example.org/inlay/node/web-1|"));
}

TEST_CASE("a revoked node is cut off at its next contact, and its stream ends") {
  Issuer authority;
  const agent::Node node = authority.enrolled("web-1");
  authority.entry("web-1");
  auto client = authority.link.connect(node);
  REQUIRE(client);
  grpc::ClientContext context;
  const auto reader = (*client)->Watch(&context, {});
  v1::NodeState state;
  REQUIRE(reader->Read(&state));
  CHECK(state.entries_size() == 1);
  CHECK(state.crls_size() >= 1);
  REQUIRE(authority.store->revoke_node("web-1", "stolen", std::time(nullptr)));
  while (reader->Read(&state)) {
  }
  CHECK(reader->Finish().error_code() == grpc::StatusCode::UNAUTHENTICATED);
  const auto refused = authority.link.sign_x509(node, id_of(kWeb));
  REQUIRE(!refused);
  CHECK(refused.error().code == grpc::StatusCode::UNAUTHENTICATED);
  CHECK(!authority.link.renew(node));
  CHECK(!authority.link.rejoin(node));
  // It was refused for its certificate, by the CRL: whose that was is known all the same.
  CHECK(has(authority.log(),
            "refused|web-1||UNAUTHENTICATED|the certificate of this node is refused: "));
}

TEST_CASE("renewal makes another key; the new SVID works, and so does the old one until it ends") {
  Issuer authority;
  const agent::Node node = authority.enrolled("web-1");
  authority.entry("web-1");
  const auto fresh = authority.link.renew(node);
  REQUIRE_MESSAGE(fresh, fresh.error().message);
  CHECK(EVP_PKEY_eq(fresh->svid.key.get(), node.svid.key.get()) != 1);
  CHECK(authority.link.sign_x509(*fresh, id_of(kWeb)));
}

TEST_CASE("whoever serves forgets what ended a day ago, so that the store does not grow for ever") {
  Issuer authority;
  const std::time_t now = std::time(nullptr);
  for (const auto &[serial, ended] :
       {std::pair{"a1", now - 90'000}, std::pair{"a2", now - 80'000}}) {
    Issuance one;
    one.serial = serial;
    one.not_after = ended;
    REQUIRE(authority.store->record(one, ""));
  }
  InForceSettings settings;
  settings.rotation.trust_domain = kDomain;
  REQUIRE(InForceKeeper::open(*authority.store, *authority.seal, settings, [](const auto &) {}));
  CHECK(!authority.store->issuance("a1"));
  CHECK(authority.store->issuance("a2"));
}

TEST_CASE("a tainted root: the machine's own SVID is replaced at once, and that of its workloads") {
  Issuer authority;
  REQUIRE(agent::save_node(authority.folder.path + "/node", authority.enrolled("web-1")));
  authority.entry("web-1");
  const auto change = [&](auto how) {
    REQUIRE(authority.store->change_authorities(
        [&](AuthorityRows &rows) -> Stored<void> { return how(rows, std::time(nullptr)); }));
  };
  auto opened =
      agent::open_enrolled({.folder = authority.folder.path + "/node", .trust_domain = kDomain});
  REQUIRE(opened);
  agent::Source &source = **opened;
  const auto roots = [&](std::size_t count) {
    return trust_when(source, [&](const agent::Trust &it) {
      return it.bundles.at(kDomain).x509_authorities.size() == count;
    });
  };
  roots(1);
  const auto old = source.obtain(id_of(kWeb));
  REQUIRE(old);
  const RotationSettings settings{.trust_domain = kDomain};
  change([&](AuthorityRows &rows, std::time_t now) {
    return prepare_root(rows, *authority.seal, settings, now);
  });
  roots(2);
  change([&](AuthorityRows &rows, std::time_t now) {
    return activate_root(rows, *authority.seal, settings, now, true);
  });
  change([&](AuthorityRows &rows, std::time_t now) { return taint_root(rows, now); });
  const auto trust = trust_when(source, [](const agent::Trust &it) { return !it.tainted.empty(); });
  const agent::Judge judge(trust);
  const std::time_t now = std::time(nullptr);
  CHECK(judge.trust_complaint(*old, now).empty());
  CHECK(judge.is_tainted(*old, now));
  const auto fresh = source.obtain(id_of(kWeb));
  REQUIRE_MESSAGE(fresh, fresh.error().message);
  CHECK(!judge.is_tainted(*fresh, now));
  while (!has(authority.log(), "renewed|web-1|")) std::this_thread::yield();
  // When the root is gone, the machine is still one of the trust domain, by what it has kept.
  change([&](AuthorityRows &rows, std::time_t at) { return revoke_root(rows, at); });
  roots(1);
  CHECK(source.obtain(id_of(kWeb)));
  opened->reset();
  const auto kept = agent::load_node(authority.folder.path + "/node", {});
  REQUIRE(kept);
  CHECK(kept->bundle.x509_authorities.size() == 1);
  CHECK(agent::Judge(trust).is_tainted(kept->svid, now) == false);
  CHECK(authority.link.sign_x509(*kept, id_of(kWeb)));
}

TEST_CASE("an agent's source has entries and bundles, hears of changes, and outlives the server") {
  Issuer authority;
  const agent::Node node = authority.enrolled("web-1");
  const std::string folder = authority.folder.path + "/node";
  REQUIRE(agent::save_node(folder, node));
  {
    auto source = agent::open_enrolled({.folder = folder, .trust_domain = kDomain});
    REQUIRE_MESSAGE(source, source.error().message);
    auto trust = trust_when(**source, [](const agent::Trust &) { return true; });
    CHECK(trust.granted.empty());
    const Entry entry = authority.entry("web-1");
    trust = trust_when(**source, [](const agent::Trust &it) { return !it.granted.empty(); });
    CHECK(trust.granted[0].spiffe_id == kWeb);
    CHECK(trust.granted[0].selectors == std::vector<std::string>{"uid=0"});
    const auto svid = (*source)->obtain(id_of(kWeb));
    REQUIRE_MESSAGE(svid, svid.error().message);
    CHECK((*source)->obtain_jwt(id_of(kWeb), {"reports"}));
    REQUIRE(authority.store->remove_entry(entry.id));
    trust_when(**source, [](const agent::Trust &it) { return it.granted.empty(); });
    authority.entry("web-1");
    trust_when(**source, [](const agent::Trust &it) { return !it.granted.empty(); });
  }
  // The authority is away: what was granted last is in force from the start.
  authority.server.reset();
  auto source = agent::open_enrolled({.folder = folder, .trust_domain = kDomain});
  REQUIRE(source);
  const auto trust = (*source)->trust();
  REQUIRE_MESSAGE(trust, trust.error().message);
  CHECK(trust->granted.size() == 1);
  CHECK(!(*source)->obtain(id_of(kWeb)));
  // And it is found again where it was.
  authority.start(authority.where);
  trust_when(**source,
             [&](const agent::Trust &) { return (*source)->obtain(id_of(kWeb)).has_value(); });
}
