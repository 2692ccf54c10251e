// The EST source against a server that gives what it should, and against the same when it does not.
#include "identity/agent/est_source.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "../certificates.h"
#include "identity/agent/judgement.h"
#include "identity/authority.h"
#include "identity/certificate.h"
#include "identity/csr.h"
#include "identity/est.h"
#include "identity/rpc/http_server.h"

using namespace inlay;
using namespace inlay::identity;
using namespace inlay::identity::agent;

namespace {

constexpr const char *kWeb = "spiffe://example.org/web";
constexpr const char *kMachine = "spiffe://example.org/machine";
constexpr const char *kType = "application/pkcs7-mime; smime-type=certs-only";

class Folder {
 public:
  Folder() {
    std::string name = "/tmp/inlay-est-XXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string write(const std::string &name, const std::string &text) const {
    const std::string file = path + "/" + name;
    std::ofstream(file) << text;
    ::chmod(file.c_str(), 0600);
    return file;
  }
  std::string path;
};

Authority make_root() {
  auto root = Authority::create("example.org", testing::now(), {.path_length = 1});
  REQUIRE(root);
  return std::move(*root);
}

// What it answers to whom is counted, and can be made wrong.
class Server {
 public:
  Server() {
    ::signal(SIGPIPE, SIG_IGN);
    testing::Knobs knobs;
    knobs.dns_names = {"localhost"};
    const auto own = testing::issue(web_, "spiffe://web.test/est", knobs);
    auto started = rpc::HttpServer::listen(
        {.listen = {"127.0.0.1:0"}, .ask_client = true},
        {.bundles = [this] { return bundles_; },
         .now = [] { return testing::now(); },
         .answer = [this](const rpc::HttpRequest &request) { return answer(request); },
         .refused = [](std::string_view, std::string_view) {}},
        {{&own.certificate, 1}, own.key.get()});
    REQUIRE_MESSAGE(started, started.error());
    server_ = std::move(*started);
    auto made = root.create_intermediate(testing::now(), 86400, "intermediate");
    REQUIRE(made);
    intermediate.emplace(std::move(*made));
    auto bundles = std::make_shared<BundleSet>();
    (*bundles)["example.org"].authorities.push_back(testing::share(root.certificate()));
    bundles_ = bundles;
  }
  EstSettings settings(const Folder &folder) const {
    const std::string address = server_->addresses().at(0);
    return {.url = "https://localhost" + address.substr(address.rfind(':')) + "/.well-known/est",
            .trust_domain = "example.org",
            .anchors = folder.write("web.pem", testing::to_pem(web_.certificate.get())),
            .user = "machine",
            .password_file = folder.write("password", "secret\n"),
            .folder = folder.path + "/state",
            .certificate = "",
            .key = ""};
  }
  // The answer to this operation from now on.
  void make_wrong(const std::string &operation, rpc::HttpAnswer answer) {
    const std::lock_guard lock(mutex_);
    wrong_[operation] = std::move(answer);
  }
  void make_good() {
    const std::lock_guard lock(mutex_);
    wrong_.clear();
  }
  std::string asked() {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

  Authority root = make_root();
  std::optional<Authority> intermediate;
  std::time_t machine_lifetime = 3600;

 private:
  static rpc::HttpAnswer certificates(const std::vector<std::string> &ders) {
    return {.status = 200, .type = kType, .body = est_base64(certs_only(ders))};
  }
  rpc::HttpAnswer answer(const rpc::HttpRequest &request) {
    const std::lock_guard lock(mutex_);
    const std::string operation = request.path.substr(request.path.rfind('/') + 1);
    const auto wrong = wrong_.find(operation);
    if (wrong != wrong_.end()) return wrong->second;
    if (operation == "cacerts") {
      return certificates(
          {certificate_der(intermediate->certificate()), certificate_der(root.certificate())});
    }
    const auto csr = from_est_base64(request.body);
    const auto key = csr ? public_key_of_csr(*csr) : tl::unexpected(csr.error());
    if (!key) return rpc::http_sentence(400, key.error());
    const auto wishes = wishes_of_csr(*csr);
    const bool known = request.peer->id && request.peer->id->uri() == kMachine;
    const bool password = request.authorization == "Basic bWFjaGluZTpzZWNyZXQ=";
    asked_ += operation + (known ? " known" : password ? " password" : " nobody") + "\n";
    if (!known && !password) return rpc::http_sentence(401, "who is it?");
    const std::string id = wishes->uris.empty() ? kMachine : wishes->uris.front();
    const std::time_t lifetime = id == kMachine ? machine_lifetime : 600;
    const auto made =
        intermediate->sign(*SpiffeId::parse(id), key->get(), testing::now(), lifetime);
    return made ? certificates({made->chain.front()})
                : rpc::http_sentence(400, made.error().message);
  }

  const testing::Identity web_ = testing::make_authority("web.test");
  std::shared_ptr<const BundleSet> bundles_;
  std::mutex mutex_;
  std::map<std::string, rpc::HttpAnswer> wrong_;
  std::string asked_;
  std::unique_ptr<rpc::HttpServer> server_;
};

std::unique_ptr<Source> open(const EstSettings &settings) {
  auto source = open_est(settings);
  REQUIRE(source);
  return std::move(*source);
}

// Once `good` says that it is there.
template <typename Good>
void wait_until(Source &source, Good good) {
  while (!good()) {
    pollfd news{source.news_fd(), POLLIN, 0};
    ::poll(&news, 1, 50);
    source.take_news();
  }
}

X509Svid obtained(Source &source) {
  std::optional<X509Svid> svid;
  wait_until(source, [&] {
    auto given = source.obtain(*SpiffeId::parse(kWeb));
    if (given) svid.emplace(std::move(*given));
    return svid.has_value();
  });
  return std::move(*svid);
}

bool has(const std::string &text, const std::string &part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a password is used once; then the certificate that came for it asks for SVIDs") {
  const Folder folder;
  Server server;
  const EstSettings settings = server.settings(folder);
  {
    const auto source = open(settings);
    const X509Svid svid = obtained(*source);
    const auto trust = source->trust();
    REQUIRE(trust);
    CHECK(trust->bundles.at("example.org").x509_authorities ==
          std::vector<std::string>{certificate_der(server.root.certificate())});
    CHECK(svid.chain.size() == 2);  // the intermediate is from cacerts
    CHECK(Judge(*trust).complaint(svid, *SpiffeId::parse(kWeb), testing::now()) == "");
    CHECK(!source->obtain_jwt(*SpiffeId::parse(kWeb), {"a"}));
    CHECK(server.asked().starts_with("simpleenroll password\nsimpleenroll known\n"));
  }
  struct stat status {};
  REQUIRE(::stat((settings.folder + "/client.pem").c_str(), &status) == 0);
  CHECK((status.st_mode & 07777) == 0600);
  // What was kept will do, without the password and, for the bundle, without the server.
  std::filesystem::remove(settings.password_file);
  obtained(*open(settings));
  CHECK(!has(server.asked().substr(21), "password"));
  server.make_wrong("cacerts", rpc::http_sentence(503, "closed"));
  CHECK(open(settings)->trust());
}

TEST_CASE("a certificate that is half over is renewed with another key, as what it was") {
  const Folder folder;
  Server server;
  server.machine_lifetime = 50;  // begins a minute before: it is half over when it is new
  const auto source = open(server.settings(folder));
  wait_until(*source, [&] { return has(server.asked(), "simplereenroll known"); });
  CHECK(obtained(*source).id.uri() == kWeb);
}

TEST_CASE("an intermediate that replaced another is asked for, and roots that changed are news") {
  const Folder folder;
  Server server;
  const auto source = open(server.settings(folder));
  obtained(*source);
  CHECK(source->trust());
  auto next = server.root.create_intermediate(testing::now(), 86400, "next");
  REQUIRE(next);
  server.intermediate.emplace(std::move(*next));
  const X509Svid svid = obtained(*source);
  REQUIRE(svid.chain.size() == 2);
  CHECK(X509_cmp(svid.chain[1].get(), server.intermediate->certificate()) == 0);
}

TEST_CASE("what a hostile server gives for an SVID is not one") {
  const Folder folder;
  Server server;
  const auto source = open(server.settings(folder));
  obtained(*source);
  const Authority other = make_root();
  const PkeyPtr key = testing::make_key(testing::KeyKind::p256);
  const auto foreign = other.sign(*SpiffeId::parse(kWeb), key.get(), testing::now(), 60);
  const auto encoded = [](std::string body) {
    return rpc::HttpAnswer{.status = 200, .type = kType, .body = std::move(body)};
  };
  const std::string root = certificate_der(server.root.certificate());
  const struct {
    rpc::HttpAnswer answer;
    const char *says;
  } table[] = {
      {encoded(est_base64(certs_only({foreign->chain.front()}))), "another key"},
      {encoded(est_base64(certs_only({root}))), "another key"},
      {encoded(est_base64(root)), "PKCS #7"},
      {encoded("!"), "base64"},
      {encoded(""), "base64"},
      {encoded(std::string(70'000, 'A')), "longer"},
      {{.status = 200, .type = "text/html", .body = "<html>"}, "something else"},
      {{.status = 202, .body = ""}, "agree"},
      {{.status = 302, .body = "", .headers = {{"Location", "https://elsewhere.test/"}}},
       "redirects"},
      {rpc::http_sentence(403, "not you\r\nsecond \x1b line"), "403: not you"},
      {rpc::http_sentence(500, std::string(1000, 'x')), "500"},
  };
  for (const auto &row : table) {
    CAPTURE(row.says);
    server.make_wrong("simpleenroll", row.answer);
    const auto svid = source->obtain(*SpiffeId::parse(kWeb));
    REQUIRE(!svid);
    CHECK_MESSAGE(has(svid.error().message, row.says), svid.error().message);
    CHECK(svid.error().message.find_first_of("\r\n\x1b") == std::string::npos);
    CHECK(svid.error().message.size() < 600);
  }
  server.make_good();
  CHECK(source->obtain(*SpiffeId::parse(kWeb)));
}

TEST_CASE("authorities without a root, or that are none, are not taken for a bundle") {
  const auto root = testing::make_authority("example.org");
  const auto between = testing::make_intermediate(root, "example.org");
  const auto leaf = testing::issue(root, kWeb);
  const auto sorted = [](std::initializer_list<const X509 *> certificates) {
    std::vector<X509Ptr> all;
    for (const X509 *one : certificates) all.push_back(testing::share(one));
    return sort_authorities(all);
  };
  const auto good =
      sorted({between.certificate.get(), root.certificate.get(), root.certificate.get()});
  REQUIRE(good);
  CHECK(good->anchors.size() == 1);
  CHECK(good->between.size() == 1);
  CHECK(!sorted({between.certificate.get()}));
  CHECK(!sorted({root.certificate.get(), leaf.certificate.get()}));
  CHECK(!sorted({}));
}

TEST_CASE("the server is known by the file and by what it said before, and by nobody else") {
  const Folder folder;
  Server server;
  EstSettings settings = server.settings(folder);
  settings.anchors = folder.write(
      "other.pem", testing::to_pem(testing::make_authority("x.test").certificate.get()));
  const auto source = open(settings);
  wait_until(*source, [&] {
    return !source->trust() && !has(source->trust().error().message, "not answered");
  });
  CHECK(!source->obtain(*SpiffeId::parse(kWeb)));
  CHECK(server.asked().empty());  // not even the password
}
