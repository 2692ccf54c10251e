// What a machine takes from whoever holds the key that its token's pin names: an authority that
// somebody else has, or one that is broken.
#include <doctest/doctest.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/server_posix.h>

#include <csignal>
#include <functional>

#include "../certificates.h"
#include "enrolment.grpc.pb.h"
#include "identity/agent/authority_link.h"
#include "identity/certificate.h"
#include "identity/rpc/grpc_quiet.h"
#include "identity/rpc/tls_server.h"

using namespace inlay;
using namespace inlay::identity;
using inlay::testing::Identity;
namespace v1 = inlay::enrolment::v1;

namespace {

constexpr const char *kDomain = "example.org";
constexpr const char *kNode = "spiffe://example.org/inlay/node/web-1";

class Authority final : public v1::Enrolment::Service {
 public:
  Authority() {
    ::signal(SIGPIPE, SIG_IGN);
    rpc::quiet_grpc();
    grpc::ServerBuilder builder;
    builder.RegisterService(this);
    grpc_ = builder.BuildAndStart();
    const Identity own = testing::issue(root, "spiffe://example.org/inlay/ca");
    const auto svid = parse_svid(testing::chain_pem(own) + testing::to_pem(root.certificate.get()),
                                 testing::to_pem(own.key.get()));
    REQUIRE(svid);
    auto tls = rpc::TlsServer::listen(
        {.listen = {"127.0.0.1:0"}},
        {.bundles = [] { return std::make_shared<const BundleSet>(); },
         .now = [] { return testing::now(); },
         .adopt = [this](int fd, const auto &) { grpc::AddInsecureChannelFromFd(grpc_.get(), fd); },
         .refused = {}},
        *svid);
    REQUIRE_MESSAGE(tls, tls.error());
    tls_ = std::move(*tls);
    tls_->start();
  }
  ~Authority() override {
    tls_.reset();
    grpc_->Shutdown(std::chrono::system_clock::now());
  }
  grpc::Status Enroll(grpc::ServerContext *, const v1::EnrollRequest *,
                      v1::NodeSvid *answer) override {
    *answer = says;
    return status;
  }
  // What comes of joining it with this key.
  tl::expected<agent::Node, agent::AuthorityError> join(const EVP_PKEY *key) {
    EnrolmentToken token;
    token.pin = public_key_digest(root.certificate.get());
    PkeyPtr own(const_cast<EVP_PKEY *>(key));
    EVP_PKEY_up_ref(own.get());
    return link_.enroll(tls_->addresses().at(0), token, "host", std::move(own));
  }

  const Identity root = testing::make_authority(kDomain);
  v1::NodeSvid says;
  grpc::Status status;

 private:
  agent::AuthorityLink link_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<rpc::TlsServer> tls_;
};

v1::NodeSvid answer_with(const Identity &node, const Identity &root) {
  v1::NodeSvid answer;
  answer.add_chain(certificate_der(node.certificate.get()));
  answer.set_bundle(testing::to_pem(root.certificate.get()));
  return answer;
}

}  // namespace

TEST_CASE("an authority's answers that are too long, or no answers, are refused in one line") {
  Authority authority;
  const Identity node = testing::issue(authority.root, kNode);
  const v1::NodeSvid good = answer_with(node, authority.root);
  authority.says = good;
  REQUIRE(authority.join(node.key.get()));

  const Identity foreign_root = testing::make_authority("other.example");
  const Identity foreign = testing::issue(foreign_root, "spiffe://other.example/inlay/node/web-1");
  struct Row {
    const char *what;
    const EVP_PKEY *key;
    std::function<void(v1::NodeSvid &)> change;
    const char *why;
  };
  const std::string ten_megabytes(10'000'000, 'x');
  const Row rows[] = {
      {"10 MB", node.key.get(), [&](v1::NodeSvid &it) { it.set_bundle(ten_megabytes); },
       "RESOURCE_EXHAUSTED"},
      {"no certificate", node.key.get(), [](v1::NodeSvid &it) { it.clear_chain(); },
       "no usable certificate"},
      {"garbage", node.key.get(), [](v1::NodeSvid &it) { it.set_chain(0, "garbage"); },
       "no usable certificate"},
      {"another's certificate", foreign.key.get(), [](v1::NodeSvid &) {}, "for another key"},
      {"another trust domain", foreign.key.get(),
       [&](v1::NodeSvid &it) { it = answer_with(foreign, foreign_root); },
       "of another trust domain than its own"},
      {"no bundle", node.key.get(), [](v1::NodeSvid &it) { it.clear_bundle(); },
       "no usable trust bundle"},
      {"half a bundle", node.key.get(),
       [&](v1::NodeSvid &it) { it.set_bundle(good.bundle().substr(0, good.bundle().size() / 2)); },
       "no usable trust bundle"},
  };
  for (const Row &row : rows) {
    CAPTURE(row.what);
    authority.says = good;
    row.change(authority.says);
    const auto joined = authority.join(row.key);
    REQUIRE_FALSE(joined);
    INFO(joined.error().message);
    CHECK(joined.error().message.find(row.why) != std::string::npos);
    CHECK(joined.error().message.find('\n') == std::string::npos);
  }
  // Its words are other people's bytes, on a terminal.
  authority.status = {grpc::StatusCode::PERMISSION_DENIED, "no\n\x1b[2Jyes"};
  const auto refused = authority.join(node.key.get());
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find_first_of("\n\x1b") == std::string::npos);
}
