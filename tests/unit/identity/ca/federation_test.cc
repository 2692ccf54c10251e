// What is taken as another trust domain's bundle, when the next is fetched, and that none goes
// back.
#include "identity/ca/federation.h"

#include <doctest/doctest.h>
#include <stdlib.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "../certificates.h"
#include "identity/agent/authority_link.h"
#include "identity/ca/database.h"
#include "identity/ca/rotation.h"
#include "identity/ca/server.h"
#include "identity/certificate.h"
#include "identity/enrolment_token.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::ca;

namespace {

std::string document(const char *trust_domain, std::uint64_t sequence) {
  TrustDomainBundle bundle;
  bundle.x509_authorities.push_back(
      certificate_der(testing::make_authority(trust_domain).certificate.get()));
  bundle.sequence = sequence;
  return bundle_document(bundle);
}

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

Store open_store(const Folder &folder, const std::string &trust_domain) {
  auto database = open_sqlite(folder.path + "/ca.db");
  REQUIRE(database);
  auto opened = Store::open(std::move(*database), trust_domain);
  REQUIRE(opened);
  return std::move(*opened);
}

// An authority with a bundle endpoint, on loopback.
class Partner {
 public:
  explicit Partner(std::string trust_domain, std::vector<FederationSettings> federations = {})
      : domain(std::move(trust_domain)) {
    ::signal(SIGPIPE, SIG_IGN);
    store.emplace(open_store(folder, domain));
    auto its = Seal::open(folder.path + "/seal.key", true);
    REQUIRE(its);
    seal.emplace(std::move(*its));
    rotation.trust_domain = domain;
    ServerSettings settings;
    settings.listen = {"127.0.0.1:0"};
    settings.issuing.trust_domain = domain;
    settings.in_force.rotation = rotation;
    settings.web.bundle.listen = {"127.0.0.1:0"};
    settings.federations = std::move(federations);
    auto started = Server::start(std::move(settings), {.store = *store,
                                                       .seal = *seal,
                                                       .audit = [](const AuditRecord &) {},
                                                       .note = [](const std::string &) {}});
    REQUIRE_MESSAGE(started, started.error());
    server = std::move(*started);
  }
  // By https_spiffe, the first bundle by a file.
  FederationSettings from_here() const {
    const std::string address = server->web_addresses().at(0);
    const std::string file = folder.path + "/bundle.json";
    std::ofstream(file) << server->in_force()->bundles.at(domain);
    return {.trust_domain = domain,
            .url = "https://" + address.substr(0, address.find(' ')) + "/",
            .endpoint_spiffe_id = "spiffe://" + domain + "/inlay/ca",
            .bundle = file,
            .ca_file = ""};
  }

  const std::string domain;
  const Folder folder;
  std::optional<Store> store;
  std::optional<Seal> seal;
  RotationSettings rotation;
  std::unique_ptr<Server> server;
};

template <typename Good>
void wait_until(Good good) {
  while (!good()) std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

}  // namespace

TEST_CASE("a node has a partner's bundle when an entry of its federates with the partner") {
  const Partner b("b.test");
  Partner a("a.test", {b.from_here()});
  wait_until([&] { return a.server->in_force()->bundles.contains("b.test"); });
  EnrolmentToken token;
  token.pin = a.server->in_force()->signer.pin();
  REQUIRE(make_secret(token));
  const std::time_t now = std::time(nullptr);
  REQUIRE(a.store->add_token({token.secret_digest(), "web-1", now, now + 600}));
  agent::AuthorityLink link;
  const auto node = link.enroll(a.server->addresses().at(0), token, "host");
  REQUIRE_MESSAGE(node, node.error().message);
  Entry entry;
  entry.nodes = "web-1";
  entry.selectors = {"uid=0"};
  entry.spiffe_id = "spiffe://a.test/web";
  REQUIRE(a.store->add_entry(entry));
  auto stub = link.connect(*node);
  REQUIRE(stub);
  grpc::ClientContext context;
  const auto reader = (*stub)->Watch(&context, {});
  inlay::enrolment::v1::NodeState state;
  while (reader->Read(&state) && state.entries_size() < 1) {
  }
  CHECK(state.bundles().contains("a.test"));
  CHECK(!state.bundles().contains("b.test"));
  entry.spiffe_id = "spiffe://a.test/partner";
  entry.federates_with = {"b.test"};
  REQUIRE(a.store->add_entry(entry));
  while (reader->Read(&state) && state.entries_size() < 2) {
  }
  REQUIRE(state.bundles().contains("b.test"));
  CHECK(state.bundles().at("b.test") == b.server->in_force()->bundles.at("b.test"));
  context.TryCancel();
}

TEST_CASE("an endpoint is known by the bundle that was fetched last, over a change of its root") {
  Partner b("b.test");
  const FederationSettings from = b.from_here();
  const Folder folder;
  Store store = open_store(folder, "a.test");
  const auto fetch = [&] { return fetch_bundle(from, store, std::time(nullptr)); };
  const auto change = [&](const Store::AuthorityChange &what) {
    const auto pin = b.server->in_force()->signer.pin();
    const auto generation = b.server->in_force()->signer.generation();
    REQUIRE(b.store->change_authorities(what));
    wait_until([&] { return b.server->in_force()->signer.generation() > generation; });
    return b.server->in_force()->signer.pin() != pin;
  };
  CHECK(!change([&](AuthorityRows &rows) {
    return prepare_root(rows, *b.seal, b.rotation, std::time(nullptr));
  }));
  const auto both = fetch();
  REQUIRE_MESSAGE(both, both.error());
  CHECK(both->x509_authorities.size() == 2);
  CHECK(change([&](AuthorityRows &rows) {
    return activate_root(rows, *b.seal, b.rotation, std::time(nullptr), true);
  }));
  // The file knows the old root alone: once the endpoint shows an SVID under the new one it is no
  // good.
  wait_until([&] { return !fetch(); });
  REQUIRE(store.advance_bundle({"b.test", bundle_document(*both), 1}));
  CHECK(fetch());
}

TEST_CASE("a bundle is one of the trust domain that was asked for, with an authority in it") {
  CHECK(judge_fetched_bundle(document("b.test", 1), "b.test"));
  for (const std::string &bad :
       {document("c.test", 1), std::string("{\"keys\": []}"), std::string("{}"), std::string("x"),
        std::string(), testing::to_pem(testing::make_authority("b.test").certificate.get())}) {
    const auto judged = judge_fetched_bundle(bad, "b.test");
    REQUIRE(!judged);
    CHECK(judged.error().find('\n') == std::string::npos);
  }
}

TEST_CASE("the next is fetched as the document asks, within bounds, and sooner after a failure") {
  CHECK(fetch_interval(300, 0, 0.5) == 300);
  CHECK(fetch_interval(300, 0, 0) == 270);
  CHECK(fetch_interval(300, 0, 1) == 330);
  CHECK(fetch_interval(0, 0, 0.5) == 60);
  CHECK(fetch_interval(4'000'000'000, 0, 0.5) == 86400);
  CHECK(fetch_interval(300, 1, 0) == 1);
  CHECK(fetch_interval(300, 5, 0.5) == 16);
  CHECK(fetch_interval(300, 1000, 0.5) == 300);
}

TEST_CASE("a bundle with a lower sequence number does not replace one with a higher") {
  const Folder folder;
  Store store = open_store(folder, "a.test");
  const auto kept = [&] { return store.bundles()->at(0).document; };
  const std::string five = document("b.test", 5), six = document("b.test", 6);
  REQUIRE(store.advance_bundle({"b.test", five, 1}));
  const std::uint64_t generation = *store.generation();
  REQUIRE(store.advance_bundle({"b.test", five, 2}));
  CHECK(*store.generation() == generation);  // nobody needs to hear of it
  REQUIRE(store.advance_bundle({"b.test", six, 3}));
  CHECK(*store.generation() > generation);
  const auto back = store.advance_bundle({"b.test", five, 4});
  REQUIRE(!back);
  CHECK(back.error().problem == StoreProblem::refused);
  CHECK(!store.advance_bundle({"b.test", document("b.test", 0), 4}));
  CHECK(kept() == six);
  // Who administers this authority may.
  REQUIRE(store.set_bundle({"b.test", five, 5}));
  CHECK(kept() == five);
}
